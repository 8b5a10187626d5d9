"""Ends its own process at one step of one write: the campaign's, in the driver (``clocked``) and in workers (``sitecustomize``).

``WRITES``, an environment variable of JSON, is what the campaign asks for: ``home`` (the run's folder), ``trace`` (a file that gets
a line per step) and ``ends``, a list of ``{role, file, nth, how, part, mark}``: in a process of this role, at the ``nth`` step of
such a file, ``before`` it, ``within`` what it writes (after ``part`` of its bytes), or ``after`` it; with ``power`` the machine goes
down at this moment: what this process wrote to the ledger and renamed, and did not sync, is gone too (a name: its folder).
``mark`` is a file that says so: each end comes once. Steps are opening, every write to the system, syncing, replacing, cutting and removing; what C++ writes (Ray, Tune) is not seen.
"""

import builtins
import io
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "WRITES"
RECORD = re.compile(rb'"record":"(\w+)"')
PARTIAL = re.compile(r"\.\d+\.partial$")
REPORT = ("report.html", "report.md", "verdict.json", "figures")
UNSEEN = ("ray.log", ".tune")


class Steps:
    """All steps of this process, in order."""

    def __init__(self, role: str, home: str, trace: str, ends: list[dict[str, Any]]) -> None:
        self._role, self._home, self._trace = role, home.rstrip("/") + "/", trace
        self._ends = [end for end in ends if end["role"] == role]
        self._count: Counter[str] = Counter()
        self._record = ""
        self._synced: dict[str, int] = {}
        """Bytes of the ledger that survive a power cut."""
        self._renamed: list[tuple[Path, Path, bytes | None]] = []
        """Old and new names of files whose new ones would not, and what was there before."""
        self._write, self._open = os.write, os.open

    def file(self, path: object, content: bytes = b"") -> str:
        """What the file at ``path`` is called, empty outside the run's folder; of a ledger with the kind of its last record."""
        text = str(Path(os.fsdecode(path)).absolute()) if isinstance(path, str | bytes | os.PathLike) else ""
        if not text.startswith(self._home):
            return ""
        name = PARTIAL.sub("", text[len(self._home) :]).replace(".before.pt", ".pt")
        top = name.split("/")[0]
        if top == "ledger.jsonl":
            found = RECORD.search(content)
            self._record = found[1].decode() if found else self._record
            return f"ledger: {self._record}"
        return "" if top in UNSEEN else "report" if top in REPORT else top

    def take(self, step: str, path: object, act: Callable[[bytes], Any], content: bytes = b"") -> Any:
        file = self.file(path, content)
        if not file:
            return act(content)
        self._count[file] += 1
        if self._trace:
            self._put(self._trace, os.O_APPEND, f"{self._role}\t{file}\t{step}\n")
        for end in self._ends:
            if end["file"] == file and self._count[file] == end["nth"]:
                self._end(end, step, path, act, content)
        return act(content)

    def _end(
        self, end: dict[str, Any], step: str, path: object, act: Callable[[bytes], Any], content: bytes
    ) -> None:
        how = end["how"] if content or end["how"] in ("after", "power") else "before"
        cut = max(1, int(end["part"] * len(content)))
        said = f"{how} {cut} of {len(content)} bytes" if how == "within" else how
        try:
            self._put(end["mark"], os.O_EXCL, f"{said}, step {self._count[end['file']]}: {step} {path}")
        except FileExistsError:  # it came before
            return
        if how != "before":
            act(content[:cut] if how == "within" else content)
        if how == "power":
            if step == "sync":
                self.syncs(str(path), Path(str(path)).stat().st_size)
            self._cut_power()
        os.kill(os.getpid(), signal.SIGKILL)

    def renames(self, old: str, new: str) -> None:
        if self.file(new):
            there = Path(new).absolute()
            before = there.read_bytes() if there.exists() else None
            self._renamed.append((Path(old).absolute(), there, before))

    def syncs(self, path: str, size: int) -> None:
        self._synced[path] = size
        self._renamed = [each for each in self._renamed if str(each[1].parent) != path]

    def _cut_power(self) -> None:
        for old, new, before in reversed(self._renamed):
            new.rename(old)
            if before is not None:
                new.write_bytes(before)
        for name, size in self._synced.items():
            if name.endswith("ledger.jsonl"):
                os.truncate(name, size)

    def _put(self, path: str, how: int, text: str) -> None:
        file = self._open(path, os.O_WRONLY | os.O_CREAT | how, 0o644)
        self._write(file, text.encode())
        os.close(file)


def watch(role: str) -> None:
    """Count this process's steps from now on, if the campaign asks for it."""
    if VARIABLE not in os.environ:
        return
    asked = json.loads(os.environ[VARIABLE])
    steps = Steps(role, asked["home"], asked["trace"], asked["ends"])
    builtins.open = io.open = opening(steps)
    for name, function in calls(steps).items():
        setattr(os, name, function)


def opening(steps: Steps) -> Any:
    """``open``, whose files count what they write."""
    plain = io.open

    class Counted(io.FileIO):
        def write(self, content: Any) -> int:
            return int(steps.take("write", self.name, super().write, bytes(content)))

    def opened(file: Any, mode: str = "r", buffering: int = -1, *text: Any, **more: Any) -> Any:
        writes = set(mode) & set("wxa") and "+" not in mode
        if not writes or not steps.file(file):
            return plain(file, mode, buffering, *text, **more)
        raw = steps.take("open", file, lambda _: Counted(file, mode.replace("b", "").replace("t", "")))
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *text, **more)

    return opened


def calls(steps: Steps) -> dict[str, Any]:
    """What replaces the functions of these names in ``os``."""
    write, sync, cut, replace, unlink = os.write, os.fsync, os.ftruncate, os.replace, os.unlink

    def named(file: int) -> str:
        return str(Path(f"/proc/self/fd/{file}").readlink())

    def written(file: int, content: Any) -> int:
        """Only the ledger is written by ``os.write``."""
        return int(steps.take("write", named(file), lambda part: write(file, part), bytes(content)))

    def synced(file: Any) -> None:
        number = getattr(file, "fileno", lambda: file)()
        steps.take("sync", named(number), lambda _: sync(number))
        steps.syncs(named(number), os.fstat(number).st_size)

    def truncated(file: int, size: int) -> None:
        steps.take("cut", named(file), lambda _: cut(file, size))
        steps.syncs(named(file), size)

    def replaced(old: Any, new: Any, **more: Any) -> None:
        steps.renames(old, new)
        steps.take("replace", new, lambda _: replace(old, new, **more))

    def removed(path: Any, **more: Any) -> None:
        steps.take("remove", path, lambda _: unlink(path, **more))

    return {
        "write": written, "fsync": synced, "ftruncate": truncated, "replace": replaced, "unlink": removed,
    }  # fmt: skip
