"""A run at a URI: kept there from a folder of this machine, and fetched back.

The driver works in a local folder as ever. A thread of its own copies what changed to the URI every
``SYNC_SECONDS``: what the ledger names first, the ledger last, so that what lies there can always be gone on
with. A driver that is lost with its machine takes that long, and the time of one upload, with it. The workers of a
study at a URI write the checkpoints of unfinished trials there themselves, and hand their trained nets to the
driver: nodes need share no disk.
"""

import hashlib
import json
import os
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from study.protocol import ledger
from study.protocol.history import LedgerError
from study.protocol.ledger import CLAIM
from study.protocol.plan import FILE
from study.protocol.records import Outcome, Record
from study.protocol.settings import SETTINGS
from study.storage.objects import UNFINISHED, Storage, StorageError, at_the_edge, is_uri

SYNC_SECONDS = SETTINGS.sync_seconds
LEASE_ROUNDS = 3
"""So many rounds without a sign of life, and another driver may take the study over."""
SETTLE_SECONDS = 1.0
"""Two drivers that claim a study at once see after this time whose claim lasted."""
CLOSE_SECONDS = 20.0
"""So long a study that ends tries to bring everything to a storage that fails."""
IMMUTABLE = ("checkpoints/", "predictions/", "validation/")
"""Folders whose files never change: equal size, equal content."""


def home_of(uri: str) -> Path:
    """The folder of this machine that stands for the run at ``uri``."""
    folder = uri.partition("?")[0].rstrip("/")
    name = re.sub(r"[^\w-]", "-", folder.rpartition("/")[2])
    return Path("runs") / f"{name}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def check_new(uri: str) -> None:
    """Raises StorageError when ``uri`` cannot be read, or has something already."""
    with at_the_edge(uri):
        found = Storage(uri).files().keys() - {CLAIM}
    if found:
        study = FILE in found
        raise StorageError(
            f"{uri} holds {'a study' if study else 'something else'} already and is left as it is: give another folder"
            + (f"; python -m analysis {shlex.quote(uri)} shows that study" if study else "")
        )


def local(run: Path | str, *, nets: bool = False) -> Path:
    """The folder of a run that is named by its folder, or by a URI: then it is fetched."""
    return fetch(str(run), nets=nets) if is_uri(run) else Path(run)


def fetch(uri: str, *, nets: bool = False, say: Callable[[str], None] = lambda _: None) -> Path:
    """Bring the run at ``uri`` into its folder on this machine, trained nets too if asked; that folder.

    A folder whose ledger says all that the storage's says, and perhaps more, is kept. One that says otherwise is
    set aside: the study went on elsewhere. Raises StorageError.
    """
    home, storage = home_of(uri), Storage(uri)
    with at_the_edge(uri):
        found = storage.files()
        plan, content = storage.get(FILE) or b"", storage.get(ledger.FILE) or b""
        ours, lines = _read(home / FILE), _whole(_read(home / ledger.FILE))
        if not plan and not ours:
            raise StorageError(f"{uri}: there is no study (no {FILE})")
        ahead = bool(ours) and plan in (b"", ours) and lines.startswith(_whole(content))
        behind = ours in (b"", plan) and _whole(content).startswith(lines)
        if not ahead and not behind:
            aside = home.rename(home.with_name(f"{home.name}.before-{time.strftime('%Y%m%d-%H%M%S')}"))
            say(f"note: the study went on elsewhere; what only this machine had of it is in {aside}")
        for name, stored in found.items():
            parts, path = PurePosixPath(name).parts, home / name
            if name in (CLAIM, ledger.FILE) or parts[0] == UNFINISHED:
                continue
            if ".." in parts or PurePosixPath(name).is_absolute():
                raise StorageError(f"{uri} holds {name!r}, which no study wrote")
            if parts[0] == "checkpoints" and not nets:
                continue
            if path.exists() and (ahead or path.stat().st_mtime == stored.mtime):  # fetched before
                continue
            if (fetched := storage.get(name)) is not None:
                _replace(path, fetched, stored.mtime)
        if not ahead and ledger.FILE in found:
            _replace(home / ledger.FILE, content, found[ledger.FILE].mtime)
    return home


def refresher(run: str, *, every: float = SYNC_SECONDS) -> Callable[[], None]:
    """Brings the ledger of a run at a URI up to date, in the folder that ``fetch`` made, as often as it changes there.

    It raises StorageError when the storage fails. For a folder it does nothing.
    """
    asked = time.monotonic()

    def refresh() -> None:
        nonlocal asked
        if not is_uri(run) or time.monotonic() < asked + every:
            return
        asked, path = time.monotonic(), home_of(run) / ledger.FILE
        with at_the_edge(run):
            content = Storage(run).get(ledger.FILE) or b""
        if len(content) > path.stat().st_size and content.startswith(_whole(_read(path))):
            _replace(path, content, path.stat().st_mtime)

    return refresh


def _whole(content: bytes) -> bytes:
    """A ledger's whole lines."""
    return content[: content.rfind(b"\n") + 1]


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _replace(path: Path, content: bytes, mtime: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    os.utime(partial, (mtime, mtime))
    partial.replace(path)


# -- a run on its way to its URI


class Mirror:
    """Holds the claim on a URI, and brings a run's folder to it. To be used with ``with``.

    Nothing goes there before there is a plan. What fails is said once and tried again; the study goes on.
    """

    def __init__(self, uri: str, say: Callable[[str], None], *, goes_on: bool) -> None:
        self.uri = uri
        self.say = say
        self.lost = ""
        """Who has taken the study over; this process then writes no more."""
        self._goes_on = goes_on
        self._storage = Storage(uri)
        self._home = home_of(uri)
        self._key = secrets.token_hex(8)
        self._since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._renewals = 0
        self._renewed = 0.0
        self._open = False
        """Whether the folder is what counts: not while a study that goes on is being fetched."""
        self._up: dict[str, tuple[int, int]] = {}
        """Name -> modification time and size of what is at the URI."""
        self._ended: list[str] = []
        """Trials whose checkpoints are to be deleted once the ledger there has their ends."""
        self._trouble = ""
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)

    def __enter__(self) -> Self:
        """Claim the URI, and fetch a study that goes on.

        Raises StorageError when it cannot be read and written, or another driver writes there.
        """
        with at_the_edge(self.uri):
            self._claim()
        self._thread.start()
        try:
            if self._goes_on:
                fetch(self.uri, nets=True, say=self.say)
                with at_the_edge(self.uri):
                    self._up = self._as_there()
        except BaseException:
            self._release()
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
        self._release()
        if done and self._up:
            self.say(f"all of it is at {self.uri}")
        elif not done and not self.lost:
            missing = [name for name, seen in self._found().items() if self._up.get(name) != seen]
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            self.say(
                f"not yet at {self.uri}: {shown or 'the end of the study'}; it is in {self._home}. When the storage "
                f"works again: python -m study copy {shlex.quote(self.uri)}"
            )

    def _release(self) -> None:
        self._stop.set()
        self._thread.join()
        if not self.lost:
            with suppress(OSError):
                self._storage.delete(CLAIM)

    def follow(self, history: ledger.Ledger) -> None:
        """See trials end from now on, and those that have ended."""
        self._ended += history.outcomes
        history.watchers.append(self._see)

    def _see(self, record: Record) -> None:
        if isinstance(record, Outcome):
            self._ended.append(record.trial)

    def _as_there(self) -> dict[str, tuple[int, int]]:
        """What lies in the folder as it does at the URI."""
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
                f"is in {self._home} alone"
            )

    def sync(self) -> bool:
        """Bring what changed to the URI, now; whether all is there."""
        with self._turn:
            if self.lost:
                return False
            try:
                self._round()
            except OSError as error:
                if not self._trouble:
                    self.say(
                        f"note: {self.uri} cannot be written ({error}). The study goes on in {self._home}, and it "
                        f"is tried again every {SYNC_SECONDS:g} s"
                    )
                self._trouble = str(error)
                return False
            if self._trouble:
                self.say(f"note: {self.uri} can be written again, and has everything up to now")
            self._trouble = ""
            return not self.lost

    def _run(self) -> None:
        while not self._stop.wait(SYNC_SECONDS):
            self.sync()

    def _round(self) -> None:
        self._renew()
        if self.lost or not self._open or not (self._home / FILE).exists():
            return
        ended, self._ended = self._ended, []  # before the ledger is read, which then has their ends
        try:
            content = _read(self._home / ledger.FILE)
            found = self._found()  # after it was read: all that it names is among them
            seen = found.pop(ledger.FILE, (0, 0))
            for name in found:
                self._put(name, _read(self._home / name), found[name])
            self._put(ledger.FILE, content, (seen[0], len(content)))
            if not self.lost:
                self._forget({*found, ledger.FILE}, ended)
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

    def _put(self, name: str, content: bytes, seen: tuple[int, int]) -> None:
        """Unless it is there already, or another driver writes now."""
        if self._up.get(name) == seen:
            return
        if time.monotonic() > self._renewed + SYNC_SECONDS:
            self._renew()
        if not self.lost:
            self._storage.put(name, content)
            self._up[name] = seen

    def _found(self) -> dict[str, tuple[int, int]]:
        """The folder's files but those of the moment: name -> modification time and size."""
        found = {}
        for path in sorted(self._home.rglob("*")):
            name = path.relative_to(self._home).as_posix()
            if any(part.startswith(".") for part in path.parts[len(self._home.parts) :]):
                continue
            with suppress(FileNotFoundError):
                if path.is_file() and not path.name.endswith((".partial", ".tmp")):
                    found[name] = (path.stat().st_mtime_ns, path.stat().st_size)
        return found

    # -- the claim: who writes, since when, and a count that only a living driver moves

    def _claim(self) -> None:
        before = self._storage.get(CLAIM)
        if before is not None:
            wait = LEASE_ROUNDS * SYNC_SECONDS
            self.say(
                f"{_told(before)} wrote to {self.uri}: waiting up to {wait:g} s to see whether it still does"
            )
            deadline = time.monotonic() + wait
            while time.monotonic() < deadline and (now := self._storage.get(CLAIM)) is not None:
                if now != before:
                    raise self._taken(now)
                time.sleep(SYNC_SECONDS / 10)
        self._renew()
        time.sleep(SETTLE_SECONDS)
        self._renew()
        if self.lost:
            raise StorageError(f"{self.uri} is being written by {self.lost}")

    def _taken(self, claim: bytes) -> StorageError:
        return StorageError(
            f"{self.uri} is being written by {_told(claim)}: one study has one driver. Stop that one, or give another "
            "folder"
        )

    def _renew(self) -> None:
        """Show that this driver lives, or find out that another one has taken over."""
        now = self._storage.get(CLAIM) if self._renewals else None
        if now is not None and self._key.encode() not in now:
            self.lost = _told(now)
            return
        self._renewals += 1
        who = f"process {os.getpid()} on {socket.gethostname()}"
        claim = {"who": who, "since": self._since, "key": self._key, "renewals": self._renewals}
        self._storage.put(CLAIM, json.dumps(claim).encode())
        self._renewed = time.monotonic()


def _told(claim: bytes) -> str:
    try:
        said = json.loads(claim)
        return f"{said['who']}, since {said['since']}"
    except (ValueError, KeyError, TypeError):
        return "another driver"


def copy(uri: str, say: Callable[[str], None]) -> None:
    """Bring what the run's folder on this machine has, and ``uri`` has not, to ``uri``. Raises StorageError."""
    if not (home_of(uri) / FILE).exists():
        raise StorageError(f"this machine has nothing of {uri}: no study in {home_of(uri)}")
    with Mirror(uri, say, goes_on=True) as mirror:  # closing it does it
        mirror._ended += ledger.read(home_of(uri) / ledger.FILE).outcomes
