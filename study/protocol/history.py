"""What is known so far: all records of a ledger, folded and indexed in memory."""

import re
from collections import Counter, defaultdict

from study.protocol.errors import LedgerError
from study.protocol.plan import Plan
from study.protocol.records import (
    Beat,
    Choice,
    Cost,
    Epoch,
    Extension,
    Manifest,
    Outcome,
    Phase,
    Record,
    Resumed,
    Scored,
    Session,
    State,
    TestOpened,
    Trial,
    Tuning,
)

_A_FILE_NAME = re.compile(r"\w[\w.=+@-]{0,199}")
"""A trial's name: its checkpoint and its predictions are files of that name."""


class History:
    """All records so far, indexed. A look-up costs the same however long the study has run."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.trials: dict[str, Trial] = {}
        self.epochs: dict[str, list[Epoch]] = defaultdict(list)
        self.outcomes: dict[str, Outcome] = {}
        self.resumed: dict[str, list[Resumed]] = defaultdict(list)
        self.costs: list[Cost] = []
        self.scores: dict[str, Scored] = {}
        self.tuning: Tuning | None = None
        self.manifests: list[Manifest] = []
        """One per look at the test set, in order."""
        self.extension: Extension | None = None
        self.opened: list[TestOpened] = []
        self.torn: str = ""
        """A notice about a torn last line; empty if the file was whole."""
        self.booked: dict[str, float] = defaultdict(float)
        """Resource-seconds booked for each trial, losses excluded."""
        self.ends: Counter[tuple[str, State]] = Counter()
        """How many trials of an arm ended in each state."""
        self.best: dict[str, float] = {}
        """Each arm's best validation score at full length in its searches; absent before the first."""
        self._seeds: set[int] = set()
        """Seeds of every run before confirmation, whose own must be fresh."""
        self._open: dict[tuple[str, Phase], dict[str, Trial]] = defaultdict(dict)
        self._of: dict[tuple[str, Phase], list[Trial]] = defaultdict(list)
        self._spent: dict[tuple[str, Phase, int], float] = defaultdict(float)

    def add(self, record: Record) -> None:  # noqa: C901  # one case per kind of record
        """Fold in one record. Raises LedgerError if it contradicts an earlier one."""
        match record:
            case Session():
                if self.sessions and record.plan != self.sessions[0].plan:
                    raise LedgerError("a session of another plan")
                self.sessions.append(record)
            case Trial():
                if record.id in self.trials:
                    raise LedgerError(f"trial {record.id} is there twice")
                if record.phase == "confirm" and record.seed in self._seeds:
                    raise LedgerError(f"the seed of {record.id} was seen by the search that it is to confirm")
                self._seeds |= {record.seed} if record.phase != "confirm" else set()
                if not _A_FILE_NAME.fullmatch(record.id):
                    raise LedgerError(f"trial {record.id!r} cannot name a file")
                self.trials[record.id] = self._open[record.arm, record.phase][record.id] = record
                self._of[record.arm, record.phase].append(record)
            case Epoch():
                self._add_epoch(record)
            case Beat():
                for trial_id, held in record.held.items():
                    self._book(self._running(trial_id), held)
            case Resumed():
                self._add_resumed(record)
            case Outcome():
                self._add_outcome(record)
            case Cost():
                self.costs.append(record)
                self._spent[record.arm, record.phase, 0] += record.cost
            case Tuning():
                self.tuning = record
            case Manifest():
                if record.look != len(self.manifests) + 1:
                    raise LedgerError(
                        f"a manifest of look {record.look} after {len(self.manifests)}: each is final"
                    )
                if record.look > 1 and (self.extension is None or self.extension.look != record.look):
                    raise LedgerError(f"a manifest of look {record.look}, which was never asked for")
                self.manifests.append(record)
            case Extension():
                if self.extension is not None:
                    raise LedgerError("a second extension: a study is extended once")
                self.extension = record
            case TestOpened():
                self.opened.append(record)
            case Scored():
                self.scores[record.trial] = record

    def choices(self, arm: str) -> list[Choice]:
        """What the arm's searches send to confirmation, over all looks, in the order of the pairs."""
        found = [c for manifest in self.manifests for c in manifest.choices.get(arm, ())]
        return sorted(found, key=lambda choice: choice.pair)

    def in_hand(self, arm: str) -> int:
        """The arm's pair whose find has the best mean validation score, by the latest manifest. Raises KeyError."""
        return {a: pair for manifest in self.manifests for a, pair in manifest.in_hand.items()}[arm]

    def confirmed(self, arm: str, pair: int) -> list[Trial]:
        """The confirmation runs of what the arm's search of this pair found, in order."""
        return [t for t in self._of[arm, "confirm"] if t.pair == pair]

    def of(self, arm: str, phase: Phase) -> list[Trial]:
        """The arm's trials of a phase, in the order of their decisions."""
        return self._of[arm, phase]

    def running(self, arm: str, phase: Phase) -> list[Trial]:
        """Trials of this arm and phase that have no Outcome yet."""
        return list(self._open[arm, phase].values())

    @property
    def open(self) -> list[Trial]:
        """All trials that have no Outcome yet."""
        return [trial for trials in self._open.values() for trial in trials.values()]

    def full_length(self, arm: str, phase: Phase) -> list[Trial]:
        """Trials of this arm and phase that ran to the end."""
        return [t for t in self._of[arm, phase] if self.finished(t.id)]

    def finished(self, trial: str) -> bool:
        outcome = self.outcomes.get(trial)
        return outcome is not None and outcome.state == "finished"

    def val_accuracy(self, trial: str) -> float | None:
        """Validation accuracy after the last epoch, as fixed in advance; None before the first."""
        epochs = self.epochs.get(trial)
        return epochs[-1].val_accuracy if epochs else None

    def val_score(self, trial: str) -> float | None:
        """Validation score, on the study's metric, after the last epoch; None before the first."""
        epochs = self.epochs.get(trial)
        return epochs[-1].val_score if epochs else None

    def fraction(self, trial: str, plan: Plan) -> float:
        """Part of a GPU, or CPU cores, that the trial holds since it last resumed: above the plan's once it ran out of memory."""
        resumed = self.resumed.get(trial)
        return resumed[-1].fraction if resumed else plan.machine.fraction

    def spent(self, arm: str, *phases: Phase, pair: int | None = None) -> float:
        """Resource-seconds booked for the arm, in these phases or in all; running trials up to their last record."""
        if len(phases) == 1 and pair is not None:
            return self._spent.get((arm, phases[0], pair), 0.0)
        return sum(
            cost
            for (a, phase, i), cost in self._spent.items()
            if a == arm and (not phases or phase in phases) and pair in (None, i)
        )

    def _running(self, trial_id: str) -> Trial:
        trial = self.trials.get(trial_id)
        if trial is None:
            raise LedgerError(f"a record of the unknown trial {trial_id}")
        if trial_id in self.outcomes:
            raise LedgerError(f"trial {trial_id} had ended already")
        return trial

    def _add_epoch(self, record: Epoch) -> None:
        trial, seen = self._running(record.trial), self.epochs[record.trial]
        if record.epoch != len(seen) + 1:
            raise LedgerError(f"epoch {record.epoch} of trial {trial.id} after {len(seen)}")
        self._book(trial, record.cost)
        seen.append(record)

    def _add_outcome(self, record: Outcome) -> None:
        trial = self._running(record.trial)
        self._book(trial, record.cost)
        self.outcomes[trial.id] = record
        self.ends[trial.arm, record.state] += 1
        score = self.val_score(trial.id)
        if trial.phase == "search" and record.state == "finished" and score is not None:
            self.best[trial.arm] = max(score, self.best.get(trial.arm, score))
        del self._open[trial.arm, trial.phase][trial.id]

    def _add_resumed(self, record: Resumed) -> None:
        """Forget later epochs; what was held for them stays spent, as lost."""
        trial, seen = self._running(record.trial), self.epochs[record.trial]
        if record.epoch > len(seen):
            raise LedgerError(
                f"trial {trial.id} resumes after epoch {record.epoch}, and only {len(seen)} are known"
            )
        if record.lost < 0 or record.cost < 0:
            raise LedgerError(f"trial {trial.id} resumes at a negative cost")
        del seen[record.epoch :]
        self._spent[trial.arm, trial.phase, trial.pair] += record.cost - self.booked[trial.id]
        self.booked[trial.id] = record.cost
        self._spent[trial.arm, "lost", 0] += record.lost
        self.resumed[trial.id].append(record)

    def _book(self, trial: Trial, held: float) -> None:
        """Raise the trial's booked cost to ``held``."""
        cost = held - self.booked[trial.id]
        if cost < 0:
            raise LedgerError(f"trial {trial.id} gives back {-cost:.3f} s of cost")
        self._spent[trial.arm, trial.phase, trial.pair] += cost
        self.booked[trial.id] = held
