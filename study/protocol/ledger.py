"""The ledger: one append-only log, written by one process, from which everything else is computed.

``History`` is the folded state (what is known so far); ``Ledger`` is a History that also writes.
Spend, rungs, Optuna's studies and the report are all read from here; nothing else is state.
"""

import fcntl
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from study.protocol.errors import InputError, LedgerError
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
    checksum,
    decode,
    encode,
)
from study.protocol.rundir import PLAN, RunDir

_A_FILE_NAME = re.compile(r"\w[\w.-]{0,199}")
"""What a trial may be called: its checkpoint and its predictions are files of that name."""


class History:
    """All records so far, indexed. Every look-up costs the same however long the study has run."""

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
        """One per look at the test, in their order."""
        self.extension: Extension | None = None
        self.opened: list[TestOpened] = []
        self.torn: str = ""
        """The notice about a torn last line, empty when the file was whole."""
        self.booked: dict[str, float] = defaultdict(float)
        """Resource-seconds booked for each trial, without what was lost."""
        self.ends: Counter[tuple[str, State]] = Counter()
        """How many trials of an arm ended in each state."""
        self.best: dict[str, float] = {}
        """The arm's best validation accuracy at full length in its search; absent before the first."""
        self._seeds: set[int] = set()
        """Of every run before confirmation, which must be fresh."""
        self._open: dict[tuple[str, Phase], dict[str, Trial]] = defaultdict(dict)
        self._of: dict[tuple[str, Phase], list[Trial]] = defaultdict(list)
        self._spent: dict[tuple[str, Phase, int], float] = defaultdict(float)

    def add(self, record: Record) -> None:  # noqa: C901  # one case per kind of record
        """Fold one record in. Raises LedgerError when it contradicts what is known."""
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
                    raise LedgerError(f"a manifest of look {record.look}, for which nobody has asked")
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
        """What the arm's searches found and selection confirmed, over all looks, in the order of the pairs."""
        found = [c for manifest in self.manifests for c in manifest.choices.get(arm, ())]
        return sorted(found, key=lambda choice: choice.pair)

    def in_hand(self, arm: str) -> int:
        """The arm's pair whose find has the best validation mean, as the latest manifest says. Raises KeyError."""
        return {a: pair for manifest in self.manifests for a, pair in manifest.in_hand.items()}[arm]

    def confirmed(self, arm: str, pair: int) -> list[Trial]:
        """The confirmation runs of what the arm's search of this pair found."""
        return [t for t in self._of[arm, "confirm"] if t.pair == pair]

    def of(self, arm: str, phase: Phase) -> list[Trial]:
        """The arm's trials of a phase, in the order they were decided."""
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
        """Validation accuracy after the last epoch (the pre-set rule), None before the first."""
        epochs = self.epochs.get(trial)
        return epochs[-1].val_accuracy if epochs else None

    def fraction(self, trial: str, plan: Plan) -> float:
        """Of a GPU, or CPU cores, that the trial held since it last went on: more than the plan's once memory ran out."""
        resumed = self.resumed.get(trial)
        return resumed[-1].fraction if resumed else plan.machine.fraction

    def spent(self, arm: str, *phases: Phase, pair: int | None = None) -> float:
        """Resource-seconds booked for the arm, in these phases or in all; open trials to their last record."""
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
        accuracy = self.val_accuracy(trial.id)
        if trial.phase == "search" and record.state == "finished" and accuracy is not None:
            self.best[trial.arm] = max(accuracy, self.best.get(trial.arm, accuracy))
        del self._open[trial.arm, trial.phase][trial.id]

    def _add_resumed(self, record: Resumed) -> None:
        """Later epochs are forgotten; what was held for them stays spent, as lost."""
        trial, seen = self._running(record.trial), self.epochs[record.trial]
        if record.epoch > len(seen):
            raise LedgerError(
                f"trial {trial.id} goes on after epoch {record.epoch}, and {len(seen)} are known"
            )
        if record.lost < 0 or record.cost < 0:
            raise LedgerError(f"trial {trial.id} is taken up again at a negative cost")
        del seen[record.epoch :]
        self._spent[trial.arm, trial.phase, trial.pair] += record.cost - self.booked[trial.id]
        self.booked[trial.id] = record.cost
        self._spent[trial.arm, "lost", 0] += record.lost
        self.resumed[trial.id].append(record)

    def _book(self, trial: Trial, held: float) -> None:
        """Bring what the trial has cost to ``held``."""
        cost = held - self.booked[trial.id]
        if cost < 0:
            raise LedgerError(f"trial {trial.id} gives back {-cost:.3f} s of cost")
        self._spent[trial.arm, trial.phase, trial.pair] += cost
        self.booked[trial.id] = held


def load(run: RunDir) -> tuple[Plan, History]:
    """Plan and ledger of the study in the folder ``run``, wherever it came from: they must belong together.

    The plan is that of all arms, also of one that was added later.
    Raises InputError or LedgerError.
    """
    run.check_links()
    plan, history = Plan.load(run.plan), read(run.ledger)
    plan = plan.extended(history.extension)
    try:
        check(history, plan)
    except LedgerError as error:
        raise LedgerError(f"{run.ledger}: {error}") from error
    check_question(history, plan_hash(run))
    return plan, history


def plan_hash(run: RunDir) -> str:
    """SHA-256 of the plan in the folder ``run``, as a Session has it."""
    return hashlib.sha256(run.plan.read_bytes()).hexdigest()


def check_question(history: History, plan: str) -> None:
    """Raises InputError when the study began with another plan than that of this hash: it was edited since."""
    if history.sessions and history.sessions[0].plan != plan:
        raise InputError(
            f"{PLAN} is not the one that the study began with: put that back, or ask the new question in a new study"
        )


def read(path: Path) -> History:
    """Fold the ledger at ``path``. A torn last line is left out and said in ``torn``.

    Raises LedgerError, with the line's number, for any other line that cannot be read.
    """
    history = History()
    _fold(path, history)
    return history


def records(path: Path) -> Iterator[Record]:
    """Every whole record of the ledger at ``path``, in order. Raises LedgerError as ``read`` does."""
    return _decoded(path, _lines(path))


def _fold(path: Path, history: History) -> tuple[int, str]:
    """Add every whole line to ``history``; the bytes that they take, and the last one's checksum."""
    lines = _lines(path)
    if lines[-1]:
        history.torn = f"the last line of {path.name} was torn and is left out"
    for number, record in enumerate(_decoded(path, lines), start=1):
        try:
            History.add(history, record)
        except LedgerError as error:
            raise LedgerError(f"{path}, line {number}: {error}") from error
    last = lines[-2].decode() if len(lines) > 1 else ""
    return sum(map(len, lines[:-1])) + len(lines) - 1, checksum(last)


def _lines(path: Path) -> list[bytes]:
    """The last one is torn, or empty."""
    if path.exists() and not path.is_file():
        raise LedgerError(f"{path} is no file")
    try:
        return path.read_bytes().split(b"\n")
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}") from error


def _decoded(path: Path, lines: list[bytes]) -> Iterator[Record]:
    last = ""
    for number, line in enumerate(lines[:-1], start=1):
        try:
            text = line.decode()
            yield decode(text, last)
        except ValueError as error:
            raise LedgerError(f"{path}, line {number}: {error}") from error
        last = checksum(text)


class Ledger(History):
    """A History that writes: each record is on disk before it counts. One writer at a time."""

    def __init__(self, path: Path) -> None:
        """Goes on where the file ends, without a torn last line. Raises LedgerError."""
        super().__init__()
        self.watchers: list[Callable[[Record], None]] = []
        """Told every record once it is written; they must neither wait nor raise."""
        self._path = path
        self.run = RunDir(path.parent)
        self._whole = True
        """Whether the file ends where the last record does."""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise LedgerError(f"{path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size, self._last = _fold(path, self)
            os.ftruncate(self._file, self._size)
            self.run.sign()
        except BlockingIOError as error:
            os.close(self._file)
            raise LedgerError(f"{path} is being written by {self.run.holder()}") from error
        except OSError as error:
            os.close(self._file)
            raise LedgerError(f"{path} cannot be written: {error.strerror}") from error
        except LedgerError:
            os.close(self._file)
            raise

    def add(self, record: Record) -> None:
        """Fold the record in and write it. Raises LedgerError, and leaves the file whole, when it cannot be written."""
        text = encode(record, self._last)
        line = text.encode() + b"\n"
        super().add(record)
        try:
            self._cut()
            if os.write(self._file, line) < len(line):
                raise OSError(0, "no space for a whole line")
            if not isinstance(record, Epoch | Beat):  # one lost with the machine is only trained again
                os.fsync(self._file)
        except OSError as error:
            self._whole = False
            with suppress(OSError):
                self._cut()
            raise LedgerError(
                f"{self._path} cannot be written: {error.strerror}. What was written before is whole"
            ) from error
        self._size, self._last = self._size + len(line), checksum(text)
        for watch in self.watchers:
            watch(record)

    def _cut(self) -> None:
        """Take off what a write that failed has left. Until that succeeds nothing may follow it."""
        if not self._whole:
            os.ftruncate(self._file, self._size)
            self._whole = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def check(history: History, plan: Plan) -> None:
    """Raises LedgerError when a record cannot belong to a study of ``plan``: it was written by hand."""
    arms = set(plan.arms)
    pairs = plan.pairs + (history.extension.pairs if history.extension else 0)
    for trial in history.trials.values():
        searched = trial.phase in ("search", "select", "confirm")
        if trial.arm not in arms or not 0 <= trial.pair < (pairs if searched else 1):
            raise LedgerError(f"trial {trial.id} is of no arm or pair of the plan")
        if not 0 <= trial.fold < plan.folds:
            raise LedgerError(f"trial {trial.id} is of no fold of the plan")
        if trial.epochs != plan.epochs or (
            history.finished(trial.id) and len(history.epochs[trial.id]) != trial.epochs
        ):
            raise LedgerError(f"trial {trial.id} is of another length than the plan's {plan.epochs} epochs")
    if strangers := {cost.arm for cost in history.costs} - arms:
        raise LedgerError(f"a cost of {min(strangers)!r}, which is no arm of the plan")
    tuning, extension = history.tuning, history.extension
    added = set(extension.arms) if extension and not extension.pairs else set()
    if tuning is not None and (
        not arms - added <= tuning.full_run.keys() <= arms or min(tuning.full_run.values()) <= 0
    ):
        raise LedgerError("the tuning share is not one for each arm of the plan")
    _check_manifests(history, plan)


def _check_manifests(history: History, plan: Plan) -> None:
    pairs = {1: range(plan.pairs)}
    arms = {1: set(plan.arms)}
    if (extension := history.extension) is not None:
        arms[1] -= set(extension.arms) if not extension.pairs else set()
        arms[extension.look] = set(extension.arms)
        further = range(plan.pairs, plan.pairs + extension.pairs)
        pairs[extension.look] = further if extension.pairs else range(plan.pairs)
    named: list[str] = []
    for manifest in history.manifests:
        if manifest.choices.keys() != arms[manifest.look] or manifest.in_hand.keys() != arms[manifest.look]:
            raise LedgerError("a manifest has not one setting for each of its arms and pairs")
        for found in manifest.choices.values():
            if [choice.pair for choice in found] != list(pairs[manifest.look]):
                raise LedgerError("a manifest has not one setting for each of its arms and pairs")
            named += [t for choice in found for t in choice.trials]
    named += [t for opened in history.opened for t in opened.trials]
    if unknown := {*named, *history.scores} - history.trials.keys():
        raise LedgerError(f"manifest, test or scores of unknown trials {', '.join(sorted(unknown))}")
