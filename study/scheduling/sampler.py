"""The search of one arm: its own Optuna study proposes, its own ASHA rungs stop.

Arms never share a sampler or a rung: a joint search starves the slower starter and so picks the
wrong architecture. This module is the only one that knows Optuna, and knows no Ray.
"""

import dataclasses
import math
from bisect import insort
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Choice, Config, Float, Int, Scalar, Space, default
from study.protocol.plan import REDUCTION
from study.protocol.records import Epoch, Outcome, Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


STARTUP = 10
"""Scores that a search knows before its own study proposes; until then proposals are random (Optuna's default)."""
WIDER = 3
"""How many times as far a widened axis reaches."""


class Rungs:
    """Asynchronous successive halving, stopping variant (Li et al. 2020, "A System for Massively Parallel
    Hyperparameter Tuning", algorithm 2; the rule of Ray's AsyncHyperBandScheduler with one bracket).

    At each rung a trial goes on when it is not below the best 1/``reduction`` of those that came
    there before it; the first one always goes on.
    """

    def __init__(self, epochs: Iterable[int], *, reduction: int = REDUCTION) -> None:
        self._keep = 1 - 1 / reduction
        self._seen: dict[int, set[str]] = {epoch: set() for epoch in epochs}
        self._sorted: dict[int, list[float]] = {epoch: [] for epoch in self._seen}

    def passes(self, trial: str, epoch: int, accuracy: float) -> bool:
        """Whether a trial with this validation accuracy after ``epoch`` goes on; remembers the score.

        One that comes again, after an interruption, had passed.
        """
        seen = self._seen.get(epoch)
        if seen is None or trial in seen:
            return True
        good = not seen or accuracy >= quantile(self._sorted[epoch], self._keep)
        self.remember(trial, epoch, accuracy)
        return good

    def remember(self, trial: str, epoch: int, accuracy: float) -> None:
        """Take in a score that was decided on before; a trial's first one at a rung counts."""
        if epoch in self._seen and trial not in self._seen[epoch]:
            self._seen[epoch].add(trial)
            insort(self._sorted[epoch], accuracy)


def quantile(values: Sequence[float], q: float) -> float:
    """``np.quantile`` of values in ascending order, to the last digit, without looking at all of them."""
    place = (len(values) - 1) * q
    low = math.floor(place)
    left, right, part = values[low], values[min(low + 1, len(values) - 1)], place - low
    return left + (right - left) * part if part < 0.5 else right - (right - left) * (1 - part)


class ArmSearch:
    """Ask for configs of one arm, and tell what became of them."""

    def __init__(
        self, space: Space, rungs: Iterable[int], *, seed: int, known: Sequence[Config] = ()
    ) -> None:
        """``seed`` is that of the pair, the same for every arm. ``known`` settings are proposed first."""
        self._space = space
        self._known = known
        self._rungs = Rungs(rungs)
        self._seed = seed
        self._study = optuna.create_study(direction="maximize")
        self._asked = 0
        self._open: dict[str, optuna.Trial] = {}

    def ask(self, trial_id: str) -> Config:
        """The next Config: the known settings, then random ones, then what its study suggests.

        What proposal number n draws comes from (seed, n) and the trials before it, so that a search
        rebuilt from the ledger proposes what the first would have. A random one comes from (seed, n, parameter)
        alone: the arms of a pair begin with the same values of what they share (METHOD.md 3).
        """
        seed = proposal_seed(self._seed, self._asked)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed & 0xFFFFFFFF)
        place = self._asked - 1  # the restored default came first
        if 0 <= place < len(self._known):
            self._study.enqueue_trial(self._known[place])
        elif sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in self.told) < STARTUP:
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
        """Take in a trial that the ledger has, as if it had been asked for and reported here.

        The first is the default's run on the search's own fold: it is paid already, its epochs enter the rungs, and
        it counts among the proposals (METHOD.md 3).
        """
        scores = {epoch.epoch: epoch.val_accuracy for epoch in epochs}
        for epoch, accuracy in scores.items():
            self._rungs.remember(trial.id, epoch, accuracy)
        state, last = _state(outcome), _last(outcome, scores[max(scores)] if scores else None)
        told = optuna.trial.create_trial(
            params=trial.config,
            distributions={name: _distribution(self._space[name]) for name in trial.config},
            intermediate_values=last,
            state=state,
            value=next(iter(last.values()), None),
        )
        self._study.add_trial(told)
        if outcome is None:
            self._open[trial.id] = optuna.Trial(self._study, self.told[self._asked]._trial_id)
        self._asked += 1

    def report(self, epoch: Epoch) -> bool:
        """Tell a validation accuracy; False when ASHA stops the trial here."""
        return self._rungs.passes(epoch.trial, epoch.epoch, epoch.val_accuracy)

    def tell(self, outcome: Outcome, accuracy: float | None) -> None:
        """Tell how a trial ended, and its last validation accuracy: complete, pruned or failed.

        One that failed by its own doing is told as pruned before it had a score, which TPE puts behind all others: of
        trials told as failed it learns nothing, and it would propose such settings again and again. A trial that the
        budget stopped stays running in the study: nothing was learnt against it.
        """
        trial = self._open.pop(outcome.trial)
        state = _state(outcome)
        for epoch, value in _last(outcome, accuracy).items():
            trial.report(value, epoch)
        if state != TrialState.RUNNING:
            self._study.tell(trial, accuracy if state == TrialState.COMPLETE else None, state=state)

    @property
    def told(self) -> list[FrozenTrial]:
        """Optuna's own view of every trial so far, in the order they were asked for."""
        return self._study.get_trials(deepcopy=False)


def _state(outcome: Outcome | None) -> TrialState:
    if outcome is None or outcome.reason.startswith("budget"):
        return TrialState.RUNNING
    if outcome.state == "finished":
        return TrialState.COMPLETE
    own = outcome.state == "stopped" or outcome.reason.startswith(("diverged", "error"))
    return TrialState.PRUNED if own else TrialState.FAIL


def _last(outcome: Outcome | None, accuracy: float | None) -> dict[int, float]:
    """The last score by its epoch, all that TPE looks at; none of a trial that failed or is not ended."""
    if (
        outcome is None
        or outcome.state == "failed"
        or accuracy is None
        or _state(outcome) == TrialState.RUNNING
    ):
        return {}
    return {outcome.epochs: accuracy}


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


def widen(space: Space, names: Iterable[str]) -> Space:
    """The space with the named numeric axes made three times as wide at either end (not below 0).

    Cooper et al. 2021: an answer should survive a sceptic's search space.
    """
    wide = dict(space)
    for name in names:
        match wide.get(name):
            case Float() as axis:
                low = axis.low / WIDER if axis.log else max(0.0, axis.low - (axis.high - axis.low))
                high = axis.high * WIDER if axis.log or axis.low == 0 else 2 * axis.high - axis.low
                wide[name] = dataclasses.replace(axis, low=low, high=high)
            case Int() as axis:
                low_int = max(1, round(axis.low / WIDER)) if axis.low > 0 else axis.low
                wide[name] = dataclasses.replace(axis, low=low_int, high=axis.high * WIDER)
            case _:
                pass
    return wide


def searched(space: Space, batch_sizes: tuple[int, ...], wide: Iterable[str]) -> Space:
    """What a study really searches of an arm's space: ``restrict``, then ``widen``."""
    return widen(restrict(space, batch_sizes), wide)


def describe(space: Space) -> dict[str, dict[str, Any]]:
    """The space as plain JSON values, for the plan."""
    return {name: {k: v for k, v in vars(axis).items() if k != "when"} for name, axis in space.items()}


def proposal_seed(seed: int, proposal: int) -> int:
    """Of proposal number ``proposal`` of a search: the same for all arms of a pair."""
    return int(np.random.SeedSequence([seed, proposal]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def known(space: Space) -> list[Config]:
    """The recipe's known settings as this space can have them, without those that are its default.

    What memory or data do not allow as batch size is the largest that they do, at a learning rate in proportion (Goyal
    et al. 2017, arXiv:1706.02677); values beyond an axis are its end; axes of the arm's own have their default.
    """
    from search_spaces._shared import KNOWN  # torch comes with it

    usual, found = default(space), list[Config]()
    for recipe in KNOWN:
        config = {name: recipe.config.get(name, value) for name, value in usual.items()}
        sizes = space.get("batch_size")
        if isinstance(sizes, Choice) and config["batch_size"] not in sizes.options:
            size = max(int(option) for option in sizes.options)
            if "lr" in config:
                config["lr"] = float(config["lr"]) * size / float(config["batch_size"])
            config["batch_size"] = size
        for name, axis in space.items():
            match axis:
                case Float() if name in config:
                    config[name] = min(axis.high, max(axis.low, float(config[name])))
                case Choice() if name in config and config[name] not in axis.options:
                    config[name] = axis.default
                case _:
                    pass
        if config != usual and config not in found:
            found.append(config)
    return found


def random_config(space: Space, *, seed: int) -> Config:
    """An i.i.d. Config: every axis uniform on its scale, from ``seed`` and its own name alone.

    Arms that share an axis so draw the same value for it with the same seed, whatever else they have.
    """
    config: Config = {}
    for name, axis in space.items():
        if not axis.active(config):
            continue
        rng = np.random.default_rng([seed, *name.encode()])
        match axis:
            case Float():
                config[name] = float(_between(axis.low, axis.high, float(rng.uniform()), log=axis.log))
            case Int():
                drawn = math.floor(_between(axis.low, axis.high + 1, float(rng.uniform()), log=axis.log))
                config[name] = min(axis.high, drawn)
            case Choice():
                config[name] = axis.options[int(rng.integers(len(axis.options)))]
    return config


def _between(low: float, high: float, share: float, *, log: bool) -> float:
    return low * (high / low) ** share if log else low + (high - low) * share


def restrict(space: Space, batch_sizes: tuple[int, ...]) -> Space:
    """The space with the batch sizes that memory and data allow, the same for every arm.

    A default that fell away is replaced by the largest option left.
    """
    axis = space["batch_size"]
    if not isinstance(axis, Choice):
        return space
    options = tuple(option for option in axis.options if option in batch_sizes)
    default = axis.default if axis.default in options else max(options, key=lambda o: float(o))
    return {**space, "batch_size": Choice(options=options, default=default, when=axis.when)}
