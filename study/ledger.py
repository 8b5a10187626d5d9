"""The ledger: one append-only log, written by one process, from which everything else is computed.

``History`` is the folded state (what is known so far); ``Ledger`` is a History that also writes.
Spend, rungs, Optuna's studies and the report are all read from here; nothing else is state.
"""

import fcntl
import os
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Self

from study.records import (
    Cost,
    Epoch,
    Manifest,
    Outcome,
    Phase,
    Record,
    Scored,
    TestOpened,
    Trial,
    Tuning,
    decode,
    encode,
)

FILE = "ledger.jsonl"


class LedgerError(ValueError):
    """A ledger that cannot be trusted or written; the message says where and why."""


class History:
    """All records so far, indexed. Every look-up costs the same however long the study has run."""

    def __init__(self) -> None:
        self.trials: dict[str, Trial] = {}
        self.epochs: dict[str, list[Epoch]] = defaultdict(list)
        self.outcomes: dict[str, Outcome] = {}
        self.costs: list[Cost] = []
        self.scores: dict[str, Scored] = {}
        self.tuning: Tuning | None = None
        self.manifest: Manifest | None = None
        self.opened: list[TestOpened] = []
        self.torn: str = ""
        """The notice about a torn last line, empty when the file was whole."""
        self._open: dict[str, Trial] = {}
        self._of: dict[tuple[str, Phase], list[Trial]] = defaultdict(list)
        self._spent: dict[tuple[str, Phase, int], float] = defaultdict(float)

    def add(self, record: Record) -> None:
        """Fold one record in. Raises LedgerError when it contradicts what is known."""
        match record:
            case Trial():
                if record.id in self.trials:
                    raise LedgerError(f"trial {record.id} is there twice")
                self.trials[record.id] = self._open[record.id] = record
                self._of[record.arm, record.phase].append(record)
            case Epoch() | Outcome():
                self._book(record)
            case Cost():
                self.costs.append(record)
                self._spent[record.arm, record.phase, 0] += record.cost
            case Tuning():
                self.tuning = record
            case Manifest():
                if self.manifest is not None:
                    raise LedgerError("a second manifest: the first one is final")
                self.manifest = record
            case TestOpened():
                self.opened.append(record)
            case Scored():
                self.scores[record.trial] = record

    def of(self, arm: str, phase: Phase) -> list[Trial]:
        """The arm's trials of a phase, in the order they were decided."""
        return self._of[arm, phase]

    def running(self, arm: str, phase: Phase) -> list[Trial]:
        """Trials of this arm and phase that have no Outcome yet."""
        return [t for t in self._open.values() if (t.arm, t.phase) == (arm, phase)]

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

    def spent(self, arm: str, *phases: Phase, island: int | None = None) -> float:
        """Resource-seconds booked for the arm, in these phases or in all; open trials to their last report."""
        return sum(
            cost
            for (a, phase, i), cost in self._spent.items()
            if a == arm and (not phases or phase in phases) and island in (None, i)
        )

    def _book(self, record: Epoch | Outcome) -> None:
        trial, seen = self.trials.get(record.trial), self.epochs[record.trial]
        if trial is None:
            raise LedgerError(f"a record of the unknown trial {record.trial}")
        if trial.id in self.outcomes:
            raise LedgerError(f"trial {trial.id} had ended already")
        cost = record.cost - (seen[-1].cost if seen else 0.0)
        if cost < 0:
            raise LedgerError(f"trial {trial.id} gives back {-cost:.3f} s of cost")
        self._spent[trial.arm, trial.phase, trial.island] += cost
        if isinstance(record, Epoch):
            seen.append(record)
        else:
            self.outcomes[trial.id] = record
            del self._open[trial.id]


def read(path: Path) -> History:
    """Fold the ledger at ``path``. A torn last line is left out and said in ``torn``.

    Raises LedgerError, with the line's number, for any other line that cannot be read.
    """
    history = History()
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}") from error
    if lines[-1]:
        history.torn = f"the last line of {path.name} was torn and is left out"
    for number, line in enumerate(lines[:-1], start=1):
        try:
            history.add(decode(line.decode()))
        except ValueError as error:
            raise LedgerError(f"{path}, line {number}: {error}") from error
    return history


class Ledger(History):
    """A History that writes: each record is on disk before it counts. One writer at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise LedgerError(f"{path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise LedgerError(f"{path} is being written by another process") from error

    def add(self, record: Record) -> None:
        line = encode(record).encode() + b"\n"
        super().add(record)
        self._file.write(line)
        self._file.flush()
        if not isinstance(record, Epoch):  # an epoch lost with the machine is only trained again
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
