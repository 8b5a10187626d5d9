"""A run that lies at a URI, brought to a folder of this machine."""

import hashlib
import os
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from study.protocol.errors import InputError
from study.protocol.rundir import CHECKPOINTS, CLAIM, LEDGER, PLAN, RunDir, replacing
from study.storage.lease import SYNC_SECONDS
from study.storage.objects import UNFINISHED, Storage, at_the_edge, is_uri


def home_of(uri: str) -> Path:
    """The folder of this machine that stands for the run at ``uri``."""
    folder = uri.partition("?")[0].rstrip("/")
    name = re.sub(r"[^\w-]", "-", folder.rpartition("/")[2])
    return Path("runs") / f"{name}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def check_new(uri: str) -> None:
    """Raises InputError when ``uri`` cannot be read, or holds anything."""
    with at_the_edge(uri):
        found = Storage(uri).files().keys() - {CLAIM}
    if found:
        study = PLAN in found
        raise InputError(
            f"{uri} holds {'a study' if study else 'something else'} already and is left as it is: give another folder"
            + (f"; python -m analysis {shlex.quote(uri)} shows that study" if study else "")
        )


def has_study(uri: str) -> bool:
    """Whether there is a plan at ``uri``, or here in its folder. Raises InputError when the storage cannot be read."""
    with at_the_edge(uri):
        return RunDir(home_of(uri)).plan.is_file() or Storage(uri).get(PLAN) is not None


def local(run: Path | str, *, nets: bool = False) -> Path:
    """The run's folder, fetched if ``run`` is a URI."""
    return fetch(str(run), nets=nets) if is_uri(run) else Path(run)


def fetch(uri: str, *, nets: bool = False, say: Callable[[str], None] = lambda _: None) -> Path:
    """Bring the run at ``uri``, with ``nets`` its checkpoints too, into its folder on this machine; that folder.

    Keeps a folder whose ledger has all records of the storage's, and perhaps more. Sets aside one with other records: the study
    went on elsewhere. Raises InputError.
    """
    home, storage = home_of(uri), Storage(uri)
    ours = RunDir(home)
    with at_the_edge(uri):
        found = storage.files()
        plan, content = storage.get(PLAN) or b"", storage.get(LEDGER) or b""
        our_plan, our_lines = read(ours.plan), whole_lines(read(ours.ledger))
        if not plan and not our_plan:
            raise InputError(f"{uri}: there is no study (no {PLAN})")
        ahead = bool(our_plan) and plan in (b"", our_plan) and our_lines.startswith(whole_lines(content))
        behind = our_plan in (b"", plan) and whole_lines(content).startswith(our_lines)
        if not ahead and not behind:
            aside = home.rename(home.with_name(f"{home.name}.before-{time.strftime('%Y%m%d-%H%M%S')}"))
            say(f"note: the study went on elsewhere; this machine's own records of it are now in {aside}")
        for name, stored in found.items():
            parts, path = PurePosixPath(name).parts, home / name
            if name in (CLAIM, LEDGER) or parts[0] == UNFINISHED:
                continue
            if ".." in parts or PurePosixPath(name).is_absolute():
                raise InputError(f"{uri} holds {name!r}, which no study wrote")
            if parts[0] == CHECKPOINTS and not nets:
                continue
            if path.exists() and (ahead or path.stat().st_mtime == stored.mtime):  # fetched before
                continue
            if (fetched := storage.get(name)) is not None:
                _replace(path, fetched, stored.mtime)
        if not ahead and LEDGER in found:
            _replace(ours.ledger, content, found[LEDGER].mtime)
    return home


def refresher(run: str, *, every: float = SYNC_SECONDS) -> Callable[[], None]:
    """A function that brings the fetched ledger of a run at a URI up to date, at most once in ``every`` seconds.

    It raises InputError when the storage fails. For a folder it does nothing.
    """
    asked = time.monotonic()

    def refresh() -> None:
        nonlocal asked
        if not is_uri(run) or time.monotonic() < asked + every:
            return
        asked, path = time.monotonic(), RunDir(home_of(run)).ledger
        with at_the_edge(run):
            content = Storage(run).get(LEDGER) or b""
        if len(content) > path.stat().st_size and content.startswith(whole_lines(read(path))):
            _replace(path, content, path.stat().st_mtime)

    return refresh


def whole_lines(content: bytes) -> bytes:
    """A ledger without its torn last line."""
    return content[: content.rfind(b"\n") + 1]


def read(path: Path) -> bytes:
    """Empty when there is no such file."""
    return path.read_bytes() if path.is_file() else b""


def _replace(path: Path, content: bytes, mtime: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)
        file.flush()  # a later write would change the time again
        os.utime(file.fileno(), (mtime, mtime))
