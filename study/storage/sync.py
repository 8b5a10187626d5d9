"""A run kept at a URI: the driver works in a local folder as ever, and a thread copies what changed.

Each round uploads what the ledger names first and the ledger last, so that a study can be resumed from what lies there at any
time. A driver that is lost with its machine loses one round and the time of its upload. The workers of such a study
write the checkpoints of unfinished trials to the URI themselves, and hand their trained nets to the driver: nodes need share no
disk.
"""

import shlex
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePosixPath
from types import TracebackType
from typing import Self

from study.protocol import ledger
from study.protocol.errors import InputError, LedgerError
from study.protocol.records import Outcome, Record
from study.protocol.rundir import CHECKPOINTS, LEDGER, PARTIAL, PREDICTIONS, VALIDATION, RunDir
from study.storage import lease
from study.storage.fetch import fetch, home_of, read
from study.storage.lease import Lease
from study.storage.objects import UNFINISHED, Storage, at_the_edge

CLOSE_SECONDS = 20.0
"""Timeout for the last upload, when the storage fails."""
IMMUTABLE = tuple(f"{folder}/" for folder in (CHECKPOINTS, PREDICTIONS, VALIDATION))
"""Folders whose files never change: equal size, equal content."""

Seen = tuple[int, int]
"""Modification time in ns, and size in bytes."""


class Mirror:
    """Holds the lease on a URI, and brings a run's folder to it. Use it with ``with``.

    Uploads nothing before there is a plan. Reports a failure once and tries again; the study goes on.
    """

    def __init__(self, uri: str, say: Callable[[str], None], *, goes_on: bool) -> None:
        self.uri = uri
        self.say = say
        self._goes_on = goes_on
        self._storage = Storage(uri)
        self._lease = Lease(self._storage, say)
        self._run = RunDir(home_of(uri))
        self._open = False
        """Whether the folder counts: not while a study that goes on is being fetched."""
        self._up: dict[str, Seen] = {}
        """What is at the URI, by name."""
        self._ended: list[str] = []
        """Trials whose checkpoints are to be deleted once the ledger there has their ends."""
        self._trouble = ""
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sync_forever, name="storage", daemon=True)

    @property
    def lost(self) -> str:
        """The driver that took the study over, if any; this process then writes no more."""
        return self._lease.lost

    def __enter__(self) -> Self:
        """Take the lease, and fetch a study that goes on.

        Raises InputError when the URI cannot be read and written, or another driver writes there.
        """
        with at_the_edge(self.uri):
            self._lease.take()
        self._thread.start()
        try:
            if self._goes_on:
                fetch(self.uri, nets=True, say=self.say)
                with at_the_edge(self.uri):
                    self._up = self._same_as_there()
        except BaseException:
            self._end()
            raise
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + CLOSE_SECONDS
        while not (done := self.sync()) and not self.lost and time.monotonic() < deadline:
            time.sleep(1.0)
        self._end()
        if done and self._up:
            self.say(f"all of it is at {self.uri}")
        elif not done and not self.lost:
            missing = [name for name, seen in self._found().items() if self._up.get(name) != seen]
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            self.say(
                f"not yet at {self.uri}: {shown or 'the end of the study'}; it is in {self._run}. When the storage "
                f"works again: python -m study copy {shlex.quote(self.uri)}"
            )

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._lease.release()

    def follow(self, history: ledger.Ledger) -> None:
        """Watch for trials that end, and take those that have ended."""
        self._ended += history.outcomes
        history.watchers.append(self._see)

    def _see(self, record: Record) -> None:
        if isinstance(record, Outcome):
            self._ended.append(record.trial)

    def _same_as_there(self) -> dict[str, Seen]:
        """The folder's files that need no upload."""
        stored = self._storage.files()
        return {
            name: seen
            for name, seen in self._found().items()
            if name.startswith(IMMUTABLE) and name in stored and stored[name].size == seen[1]
        }

    def check(self) -> None:
        """Raises LedgerError when another driver has taken the study over."""
        if self.lost:
            raise LedgerError(
                f"the study at {self.uri} was taken over by {self.lost}: this one stopped, and what it did since then "
                f"is in {self._run} alone"
            )

    def sync(self) -> bool:
        """Upload what changed now; True if everything is there."""
        with self._turn:
            if self.lost:
                return False
            try:
                self._round()
            except OSError as error:
                if not self._trouble:
                    self.say(
                        f"note: {self.uri} cannot be written ({error}). The study goes on in {self._run}, and tries again "
                        f"every {lease.SYNC_SECONDS:g} s"
                    )
                self._trouble = str(error)
                return False
            if self._trouble:
                self.say(f"note: {self.uri} can be written again, and has everything up to now")
            self._trouble = ""
            return not self.lost

    def _sync_forever(self) -> None:
        while not self._stop.wait(lease.SYNC_SECONDS):
            self.sync()

    def _round(self) -> None:
        self._lease.renew()
        if self.lost or not self._open or not self._run.plan.exists():
            return
        ended, self._ended = self._ended, []  # before the ledger is read, which then has their ends
        try:
            content = read(self._run.ledger)
            found = self._found()  # after it was read: all that it names is among them
            seen = found.pop(LEDGER, (0, 0))
            for name in found:
                self._put(name, read(self._run.path / name), found[name])
            self._put(LEDGER, content, (seen[0], len(content)))
            if not self.lost:
                self._forget({*found, LEDGER}, ended)
        except OSError:
            self._ended += ended
            raise

    def _forget(self, kept: set[str], ended: list[str]) -> None:
        """Delete what the folder has no more, and the checkpoints of trials that ended."""
        for name in self._up.keys() - kept:
            self._storage.delete(name)
            del self._up[name]
        for name in self._storage.files(UNFINISHED) if ended else ():
            if PurePosixPath(name).name.rsplit(".", 2)[0] in ended:
                self._storage.delete(name)

    def _put(self, name: str, content: bytes, seen: Seen) -> None:
        """Upload it, unless it is there already or another driver writes now."""
        if self._up.get(name) == seen:
            return
        self._lease.renew_if_due()
        if not self.lost:
            self._storage.put(name, content)
            self._up[name] = seen

    def _found(self) -> dict[str, Seen]:
        """The folder's files, without hidden and half-written ones."""
        found = {}
        home = self._run.path
        for path in sorted(home.rglob("*")):
            if any(part.startswith(".") for part in path.parts[len(home.parts) :]):
                continue
            with suppress(FileNotFoundError):
                if path.is_file() and path.suffix != PARTIAL:
                    found[path.relative_to(home).as_posix()] = (path.stat().st_mtime_ns, path.stat().st_size)
        return found


def copy(uri: str, say: Callable[[str], None]) -> None:
    """Bring what the run's folder on this machine has, and ``uri`` lacks, to ``uri``. Raises InputError."""
    run = RunDir(home_of(uri))
    if not run.plan.exists():
        raise InputError(f"this machine has nothing of {uri}: no study in {run}")
    with Mirror(uri, say, goes_on=True) as mirror:  # closing it uploads
        mirror._ended += ledger.read(run.ledger).outcomes
