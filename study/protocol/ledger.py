"""The ledger: one append-only log, written by one process, from which everything else is computed.

Spend, rungs, Optuna's studies and the report are all read from here; nothing else is state.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from study.protocol.codec import checksum, decode, encode
from study.protocol.errors import LedgerError
from study.protocol.history import History
from study.protocol.records import Beat, Epoch, Record
from study.protocol.rundir import RunDir

LOCKLESS = (
    "; its file system has no locks, and nothing would keep a second driver away. Choose a folder on another one, or have it "
    "mounted with locks (NFS: with its lock service; Lustre: -o flock)"
)


class Ledger(History):
    """A History on disk: each record is written before it counts. One writer at a time."""

    def __init__(self, path: Path) -> None:
        """Continue where the file ends, cutting off a torn last line. Raises LedgerError."""
        super().__init__()
        self.watchers: list[Callable[[Record], None]] = []
        """Called with every record once it is written; they must neither wait nor raise."""
        self._path = path
        self.run = RunDir(path.parent)
        self._whole = True
        """Whether the file ends with the last record."""
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
            hint = LOCKLESS if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP) else ""
            raise LedgerError(f"{path} cannot be written: {error.strerror}{hint}") from error
        except LedgerError:
            os.close(self._file)
            raise

    def add(self, record: Record) -> None:
        """Fold in the record and write it. Raises LedgerError, leaving the file whole, if it cannot be written."""
        text = encode(record, self._last)
        line = text.encode() + b"\n"
        super().add(record)
        try:
            self._cut()
            if os.write(self._file, line) < len(line):
                raise OSError(0, "no space for a whole line")
            if not isinstance(record, Epoch | Beat):  # if the machine fails, it is only trained again
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
        """Cut off what a failed write left behind. Nothing may follow it until that succeeds."""
        if not self._whole:
            os.ftruncate(self._file, self._size)
            self._whole = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def read(path: Path) -> History:
    """Fold the ledger at ``path``. A torn last line is left out; ``torn`` says so.

    Raises LedgerError, with the line's number, for any other line that cannot be read.
    """
    history = History()
    _fold(path, history)
    return history


def records(path: Path) -> Iterator[Record]:
    """Every whole record of the ledger at ``path``, in order. Raises LedgerError as ``read`` does."""
    return _decoded(path, _lines(path))


def _fold(path: Path, history: History) -> tuple[int, str]:
    """Add every whole line to ``history``. Returns their length in bytes and the last one's checksum."""
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
    """All lines of the file; the last is torn, or empty."""
    if path.exists() and not path.is_file():
        raise LedgerError(f"{path} is not a file")
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
