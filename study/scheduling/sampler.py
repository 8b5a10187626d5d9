"""The search of one arm: its own Optuna study proposes, its own ASHA rungs stop.

Arms never share a sampler or a rung: a joint search starves the slower starter and so picks the wrong architecture. Only this
module knows Optuna, and it knows no Ray.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Choice, Config, Float, Int, Scalar, Space
from study.protocol.records import Epoch, Outcome, Trial
from study.scheduling.asha import Rungs
from study.scheduling.spaces import random_config

optuna.logging.set_verbosity(optuna.logging.WARNING)

STARTUP = 10
"""Scores after which a search's own study proposes; until then proposals are random (Optuna's default)."""


class ArmSearch:
    """One search: asks its Optuna study for settings of one arm, and tells it what became of them."""

    def __init__(
        self, space: Space, rungs: Iterable[int], *, seed: int, known: Sequence[Config] = ()
    ) -> None:
        """``seed`` belongs to the pair and is the same for every arm. The ``known`` settings are proposed first."""
        self._space = space
        self._distributions = {name: _distribution(axis) for name, axis in space.items()}
        self._known = known
        self._rungs = Rungs(rungs)
        self._seed = seed
        self._study = optuna.create_study(direction="maximize")
        self._asked = 0
        self._open: dict[str, optuna.Trial] = {}

    def ask(self, trial_id: str) -> Config:
        """The next setting: first the known ones, then random ones, then those that the study suggests.

        Proposal number n depends only on (seed, n) and the trials before it, so that a search rebuilt from the ledger
        proposes what the original would have. A random proposal depends only on (seed, n, parameter): the arms of a pair
        begin with the same values of the axes they share (METHOD.md 3).
        """
        seed = proposal_seed(self._seed, self._asked)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed & 0xFFFFFFFF)
        place = self._asked - 1  # the restored default is number 0
        if 0 <= place < len(self._known):
            self._study.enqueue_trial(self._known[place])
        elif sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in self.trials) < STARTUP:
            self._study.enqueue_trial(random_config(self._space, seed=seed))
        trial = self._study.ask()
        config: Config = {}
        for name, axis in self._space.items():
            if axis.active(config):
                config[name] = _suggest(trial, name, axis)
        self._asked += 1
        self._open[trial_id] = trial
        return config

    def restore(self, trial: Trial, epochs: Iterable[Epoch], outcome: Outcome | None) -> None:
        """Add a trial from the ledger, as if it had been asked for and reported here.

        The first is the default's run on the search's own fold: it is paid for already, its epochs enter the rungs, and it
        counts as a proposal (METHOD.md 3).
        """
        scores = {}
        for epoch in epochs:
            scores[epoch.epoch] = epoch.val_score
            self._rungs.remember(trial.id, epoch.epoch, epoch.val_score, epoch.val_loss)
        state, last = _state(outcome), _last(outcome, scores[max(scores)] if scores else None)
        restored = optuna.trial.create_trial(
            params=trial.config,
            distributions={name: self._distributions[name] for name in trial.config},
            intermediate_values=last,
            state=state,
            value=next(iter(last.values()), None),
        )
        self._study.add_trial(restored)
        if outcome is None:
            self._open[trial.id] = optuna.Trial(self._study, self.trials[self._asked]._trial_id)
        self._asked += 1

    def report(self, epoch: Epoch) -> bool:
        """Report a validation score; False if ASHA stops the trial here."""
        return self._rungs.passes(epoch.trial, epoch.epoch, epoch.val_score, epoch.val_loss)

    def tell(self, outcome: Outcome, score: float | None) -> None:
        """Tell the study how a trial ended, with its last validation score: complete, pruned or failed.

        A trial that failed by its own doing counts as pruned without a score, which TPE ranks behind all others: from failed
        trials TPE learns nothing, and would propose such settings again and again. A trial stopped by the budget stays
        running in the study: nothing was learnt against it.
        """
        trial = self._open.pop(outcome.trial)
        state = _state(outcome)
        for epoch, value in _last(outcome, score).items():
            trial.report(value, epoch)
        if state != TrialState.RUNNING:
            self._study.tell(trial, score if state == TrialState.COMPLETE else None, state=state)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Optuna's view of every trial so far, in the order they were asked for."""
        return self._study.get_trials(deepcopy=False)


def _state(outcome: Outcome | None) -> TrialState:
    if outcome is None or outcome.reason.startswith("budget"):
        return TrialState.RUNNING
    if outcome.state == "finished":
        return TrialState.COMPLETE
    own = outcome.state == "stopped" or outcome.reason.startswith(("diverged", "error"))
    return TrialState.PRUNED if own else TrialState.FAIL


def _last(outcome: Outcome | None, score: float | None) -> dict[int, float]:
    """Epoch -> the last score, all that TPE uses; empty if the trial failed or has not ended."""
    if outcome is None or outcome.state == "failed" or score is None or _state(outcome) == TrialState.RUNNING:
        return {}
    return {outcome.epochs: score}


def _suggest(trial: optuna.Trial, name: str, axis: Float | Int | Choice) -> Scalar:
    match axis:
        case Float():
            return trial.suggest_float(name, axis.low, axis.high, log=axis.log)
        case Int():
            return trial.suggest_int(name, axis.low, axis.high, log=axis.log)
        case Choice():
            chosen: Scalar = trial.suggest_categorical(name, axis.options)  # type: ignore[assignment]
            return chosen


def _distribution(axis: Float | Int | Choice) -> BaseDistribution:
    match axis:
        case Float():
            return FloatDistribution(axis.low, axis.high, log=axis.log)
        case Int():
            return IntDistribution(axis.low, axis.high, log=axis.log)
        case Choice():
            return CategoricalDistribution(axis.options)


def proposal_seed(seed: int, proposal: int) -> int:
    """Seed of proposal number ``proposal`` of a search: the same for all arms of a pair."""
    return int(np.random.SeedSequence([seed, proposal]).generate_state(1, np.uint64)[0] >> np.uint64(1))
