"""The study's decisions: what runs next, when a running trial stops, and what becomes of a lost one.

Joins ``phases`` (what comes next), ``slots`` (which trial holds what), ``retries`` (which trials resume) and the arms'
searches, and writes each decision to the ledger. The next trial goes to the arm that has spent least; after the search, to
the arm that has most left to do. Knows no Ray: anything that starts trials and reports back can drive it.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search_spaces import Arm, Config, default, load_recipe
from search_spaces._names import in_files
from study.protocol import accounting, selection
from study.protocol.allocation import search_fold
from study.protocol.errors import StudyError
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Outcome, Resumed, Trial
from study.protocol.validation import Reader, reader
from study.scheduling.phases import Due, Phases
from study.scheduling.retries import LossKind, Retries
from study.scheduling.sampler import ArmSearch
from study.scheduling.slots import Slots
from study.scheduling.spaces import known, of_photographs, random_config, searched


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all parts, distinct for distinct parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, kw_only=True)
class Start:
    """A trial to start now, from the beginning or from its checkpoint."""

    trial: Trial
    epochs: int
    """Epochs of it that the ledger has."""
    again: bool
    fraction: float
    """Part of a GPU, or CPU cores, that it holds."""


class Schedule:
    """Whoever runs the trials asks ``next`` and calls ``report``, ``end`` and ``lost``."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        arms: Mapping[str, Arm],
        *,
        clock: Callable[[], float] = time.monotonic,
        kept: Reader | None = None,
    ) -> None:
        """Continues the study where the ledger ends. ``kept`` reads how the runs did on their validation images; by
        default from the files beside the ledger."""
        self.plan = plan
        self.ledger = ledger
        self.slots = Slots(plan, ledger, clock)
        self.retries = Retries(plan, ledger)
        self._phases = Phases(plan, ledger, self.slots)
        self._kept = kept or reader(ledger.run)
        photographs = of_photographs(plan.spaces)
        self._spaces = {
            name: searched(arm.space, plan.batch_sizes, plan.widen, plan.judged, photographs=photographs)
            for name, arm in arms.items()
        }
        self.defaults = {name: default(space) for name, space in self._spaces.items()}
        further = ledger.extension.pairs if ledger.extension else 0
        settings = load_recipe(plan.recipe).known
        self.searches = {
            (name, pair): ArmSearch(
                space, plan.rungs, seed=derive_seed(plan.seed, "sampler", pair), known=known(space, settings)
            )
            for name, space in self._spaces.items()
            for pair in range(plan.pairs + further)
        }
        for phase in ("baseline", "search"):
            for trial in ledger.trials.values():
                if trial.phase == phase and (phase == "search" or trial.id in ledger.outcomes):
                    self._restore(trial)
        for trial in ledger.open:
            epochs = ledger.epochs[trial.id]
            if epochs and (epochs[-1].stop or len(epochs) == trial.epochs):
                self._book_end(trial, "", ledger.booked[trial.id])  # only its end had not been written
            else:
                self.retries.wait(trial.id, ledger.fraction(trial.id, plan), "study interrupted")

    def _restore(self, trial: Trial) -> None:
        """Add the trial to its search; a default's run, to every search on its fold."""
        outcome = self.ledger.outcomes.get(trial.id)
        pairs = [p for a, p in self.searches if a == trial.arm and search_fold(self.plan, p) == trial.fold]
        for pair in pairs if trial.phase == "baseline" else [trial.pair]:
            try:
                self.searches[trial.arm, pair].restore(trial, self.ledger.epochs[trial.id], outcome)
            except (KeyError, ValueError) as error:
                raise StudyError(
                    f"trial {trial.id} has a setting that the search of {trial.arm} does not have: {error}"
                ) from error

    # -- what runs next

    @property
    def done(self) -> bool:
        """Whether every confirmation run of the last look has ended."""
        return self._phases.done

    def next(self) -> Start | None:
        """The next trial, which now holds its slot and is in the ledger; None while there is nothing to start.

        Raises FinalError if the study can never finish.
        """
        if self.retries.first is not None:
            return self._resume()
        if not self.slots.fits(self.plan.machine.fraction):
            return None
        self._advance()
        for arm in sorted(self._phases.arms, key=self._phases.turn):
            if (due := self._phases.due(arm)) is not None:
                return self._start(arm, due)
        return None

    def _resume(self) -> Start | None:
        """The first trial that waits to resume; None until running trials make room for it."""
        retry = self.retries.first
        if retry is None or not self.slots.fits(retry.fraction):
            return None
        self.retries.resume(retry)
        self.slots.take(
            retry.trial, retry.fraction, base=self.ledger.booked[retry.trial], reason=retry.reason
        )
        trial, epochs = self.ledger.trials[retry.trial], len(self.ledger.epochs[retry.trial])
        return Start(trial=trial, epochs=epochs, again=True, fraction=retry.fraction)

    def _start(self, arm: str, due: Due) -> Start:
        index = len(self.ledger.of(arm, due.phase))
        trial_id = f"{in_files(arm)}-{due.phase}-{index:04d}"
        trial = Trial(
            id=trial_id,
            arm=arm,
            phase=due.phase,
            index=index,
            pair=due.pair,
            config=self._drawn(arm, due, index, trial_id) if due.config is None else due.config,
            seed=derive_seed(self.plan.seed, "run", arm, due.phase, index),
            fold=due.fold,
            epochs=self.plan.epochs,
        )
        self.ledger.add(trial)
        fraction = self.plan.machine.fraction
        self.slots.take(trial.id, fraction)
        return Start(trial=trial, epochs=0, again=False, fraction=fraction)

    def _drawn(self, arm: str, due: Due, index: int, trial_id: str) -> Config:
        """The default, a random setting (with the same number, arms share the values of the axes they share), or a proposal."""
        if due.phase == "baseline":
            return self.defaults[arm]
        if due.phase == "slice":
            return random_config(self._spaces[arm], seed=derive_seed(self.plan.seed, "slice", index))
        return self.searches[arm, due.pair].ask(trial_id)

    def _advance(self) -> None:
        """Write down what has become known: the tuning share, then the manifest."""
        plan, ledger, phases, arms = self.plan, self.ledger, self._phases, self._phases.arms
        if phases.baseline_over and not all(phases.tuned(arm) for arm in arms):
            ledger.add(accounting.tuning_share(plan, ledger, arms))
        if phases.pending and phases.selection_over:
            ledger.add(selection.manifest(plan, ledger, arms, phases.pairs, self._kept))

    # -- what becomes of running trials

    def report(self, epoch: Epoch) -> bool:
        """Book an epoch at what its trial has held until now; False if the trial must stop here."""
        trial = self.ledger.trials[epoch.trial]
        epoch = dataclasses.replace(epoch, cost=self.slots.held(trial.id))
        if trial.phase == "search":
            passed = self.searches[trial.arm, trial.pair].report(epoch)
            if epoch.epoch < trial.epochs:
                epoch = dataclasses.replace(epoch, stop=self._why_stop(trial, epoch, passed=passed))
        self.ledger.add(epoch)
        return not epoch.stop

    def _why_stop(self, trial: Trial, epoch: Epoch, *, passed: bool) -> str:
        if not passed:
            return f"asha: below the best third at epoch {epoch.epoch}"
        if self._phases.left_of(trial.arm, trial.pair) <= 0:
            return f"budget: the search share was spent at epoch {epoch.epoch}"
        return ""

    def resumed(self, trial_id: str, epoch: int, seconds: float) -> None:
        """Book where a trial resumed: after ``seconds`` of training beyond the end of ``epoch``."""
        hold, epochs = self.slots[trial_id], self.ledger.epochs[trial_id]
        counts = (epochs[epoch - 1].cost if epoch else 0.0) + seconds * hold.fraction
        cost = min(counts, hold.base)
        lost = self.slots.held(trial_id) - cost
        record = Resumed(
            trial=trial_id, epoch=epoch, reason=hold.reason, cost=cost, lost=lost, fraction=hold.fraction
        )
        self.ledger.add(record)
        self.slots.take(trial_id, hold.fraction, base=cost)

    def end(self, trial_id: str, failure: str = "") -> Outcome:
        """Book the end of a trial: as failed if there is a ``failure``, else as it was decided."""
        return self._book_end(self.ledger.trials[trial_id], failure, self.slots.release(trial_id))

    def lost(self, trial_id: str, kind: LossKind, reason: str) -> Outcome | None:
        """A trial's worker is gone: the trial resumes, or ends if the cause must be its own."""
        fraction, reason = self.retries.after_loss(trial_id, kind, reason, self.slots[trial_id].fraction)
        if fraction is None:
            return self.end(trial_id, reason)
        self._set_aside(trial_id, fraction, reason)
        return None

    def put_back(self, trial_id: str, reason: str) -> None:
        """A trial's worker never began: the trial resumes, which does not count against it."""
        self._set_aside(trial_id, self.slots[trial_id].fraction, reason)

    def _set_aside(self, trial_id: str, fraction: float, reason: str) -> None:
        self.slots.book([trial_id])
        self.slots.release(trial_id)
        self.retries.wait(trial_id, fraction, reason)

    def _book_end(self, trial: Trial, failure: str, cost: float) -> Outcome:
        epochs = self.ledger.epochs[trial.id]
        stopped = epochs[-1].stop if epochs else ""
        outcome = Outcome(
            trial=trial.id,
            state="failed" if failure else "stopped" if stopped else "finished",
            reason=failure or stopped or "full length",
            epochs=len(epochs),
            cost=cost,
        )
        self.ledger.add(outcome)
        if trial.phase == "baseline":
            self._restore(trial)
        if trial.phase == "search":
            self.searches[trial.arm, trial.pair].tell(outcome, self.ledger.val_score(trial.id))
        return outcome
