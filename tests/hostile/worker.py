"""One process that draws inputs and gives each to the real commands, under a limit of memory and one of time.

``python -m hostile.worker KIND SEED START STOP FOLDER`` writes one JSON line per input.
"""

import contextlib
import faulthandler
import importlib
import io
import itertools
import json
import os
import random
import re
import resource
import runpy
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

ROOM = 3 * 2**30
"""Bytes of address space that an input may take beside what the imports have."""
LIMIT = 60.0
"""Seconds that an input may take."""
LONGEST = 6000
"""Characters of a line of a refusal."""


class Reached(Exception):  # no error
    """The input was good enough to begin measuring: Ray would start now."""


@dataclass(frozen=True, kw_only=True)
class Met:
    """What became of one input."""

    kind: str
    index: int
    what: str = ""
    commands: list[list[str]] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    fault: str = ""
    """Why it is a finding, empty if it is none."""
    where: str = ""
    """The traceback's end."""
    seconds: float = 0.0
    grown: int = 0
    """Bytes by which the process's peak of memory rose."""


def barrier(put: Callable[[object, str, object], None] = setattr) -> None:
    """A study that would measure, start Ray or begin another process has taken its input."""
    from hostile.ground import ARMS
    from study import planning
    from study.commands import series
    from study.execution import cluster

    def reached(*_: object, **__: object) -> NoReturn:
        raise Reached

    check, own = planning.quick_check, {*ARMS}
    put(cluster, "connect", reached)
    put(planning, "quick_check", lambda *given: reached if {*given[1]} <= own else check(*given))
    put(series, "_process", reached)


def _inside(arguments: list[str], word: str) -> int:
    """What a study does with files of its own by itself, since Ray is up by then: it opens the test, or chooses settings."""
    from study.data.sealed import unseal
    from study.protocol import consistency, selection, validation
    from study.protocol.errors import StudyError
    from study.protocol.rundir import RunDir

    run = RunDir(Path(arguments[0]))
    try:
        plan, history = consistency.load(run)
        if word == "unseal":
            unseal(run.sealed, history.manifests[-1])
        else:
            for arm, pair in ((arm, pair) for arm in plan.arms for pair in range(plan.pairs)):
                selection.choose(plan, history, arm, pair, validation.reader(run))
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _load(arguments: list[str]) -> int:
    before = list(sys.path)
    try:
        sys.argv = ["net/load.py", *arguments]
        runpy.run_path("net/load.py", run_name="__main__")
    finally:
        sys.path[:] = before
        for name in ("listing", "reading"):
            sys.modules.pop(name, None)
    return 0


def command(word: str) -> Callable[[list[str]], int | None]:
    modules = {"study": "study.run", "word": "study.__main__", "analysis": "analysis.__main__"}
    if word in modules:
        found: Callable[[list[str]], int | None] = importlib.import_module(modules[word]).main
        return found
    return _load if word == "load" else lambda arguments: _inside(arguments, word)


def fault_of(code: object, said: str, error: str) -> str:
    """What is wrong with an answer, empty if nothing is."""
    lines = [line for line in re.split(r"\n", error) if line]
    if code not in (0, 1, 2, 3, 4):
        return f"exit code {code!r}"
    if "Traceback" in error or "Traceback" in said:
        return "a traceback is shown"
    if code in (2, 3) and not any("error: " in line for line in lines):
        return f"exit code {code} without a sentence"
    if code == 0 and lines:
        return f"noise: {lines[0][:200]}"
    if longest := [line for line in lines if len(line) > LONGEST]:
        return f"a line of {len(longest[0])} characters"
    if any(not c.isprintable() for line in lines for c in line):
        return f"control characters: {error[:200]!a}"
    return ""


@contextlib.contextmanager
def streams() -> Iterator[tuple[io.TextIOWrapper, io.TextIOWrapper]]:
    """Standard output and error, as a terminal of UTF-8 takes them."""
    before = sys.stdout, sys.stderr, sys.argv
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict", write_through=True) for _ in range(2)
    )
    err.reconfigure(errors="backslashreplace")  # as Python's own
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        sys.stdout, sys.stderr, sys.argv = before


def text_of(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8", "replace")


def give(argv: list[str]) -> tuple[int, str, str]:
    """Exit code, fault and traceback of one command line."""
    code: object = 0
    with streams() as (out, err), warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            code = command(argv[0])(argv[1:])
        except Reached:
            return 0, "", ""
        except SystemExit as stopped:
            code = stopped.code or 0
        except BaseException as error:  # noqa: BLE001  # that is a finding
            shown = "".join(traceback.format_exception(error)[-6:])
            return -1, f"{type(error).__name__}: {str(error)[:200]}", shown[-3000:]
        said, told = text_of(out), text_of(err)
    return int(code or 0) if isinstance(code, int) else -1, fault_of(code or 0, said, told), told[-1500:]


def state(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything in it, but other workers' homes and drawn arms: a file's size, time and place on disk, a folder's mode."""
    found: dict[str, tuple[int, ...]] = {}
    left = [str(folder)]
    while left:
        with contextlib.suppress(FileNotFoundError), os.scandir(left.pop()) as inside:
            for entry in inside:
                if entry.name.startswith(("home-", "drawn_")):
                    continue
                s = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    found[entry.path] = (s.st_mode,)
                    left.append(entry.path)
                else:
                    found[entry.path] = (s.st_mode, s.st_size, s.st_mtime_ns, s.st_ino)
    return found


def unlike(one: dict[str, tuple[int, ...]], two: dict[str, tuple[int, ...]]) -> set[Path]:
    return {Path(path) for path in one.keys() | two.keys() if one.get(path) != two.get(path)}


def places(argv: list[str]) -> list[str]:
    """Where it asks for something to be written."""
    pairs = [word.partition("=")[::2] for word in argv] + list(itertools.pairwise(argv))
    return [place for flag, place in pairs if flag in ("--to", "--out")]


def meet(kind: str, seed: int, index: int, base: Path, home: Path) -> Met:
    """Draw the input and give it to its commands, the first that fails being the last."""
    import search_spaces
    from hostile.ground import copied
    from hostile.kinds import KINDS

    rng = random.Random(f"{seed}/{kind}/{index}")
    outside = base.parent, base.parent / f"home-{kind}-own"
    codes: list[int] = []
    fault = where = ""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with contextlib.chdir(copied(base, home)):
        what, commands = KINDS[kind](rng, home)
        asked = [home / place for argv in commands for place in places(argv)]
        before_it = state(home), *map(state, outside)
        for argv in commands:
            code, fault, where = give(argv)
            codes.append(code)
            if fault:
                fault = f"{fault} [{' '.join(argv)[:150]}]"
                break
        inputs = {home / path.name for path in base.iterdir()} - {home / "run", home / "begun"}
        after_it = state(home), *map(state, outside)
    changed = {path for one, two in zip(before_it, after_it, strict=True) for path in unlike(one, two)}
    changed -= {
        path for path in changed if path.is_relative_to(home) and inputs.isdisjoint({path, *path.parents})
    }
    changed -= {path for path in changed for place in asked if path.is_relative_to(os.path.normpath(place))}
    shutil.rmtree(home)
    for arm in (Path(search_spaces.__file__).parent).glob("drawn_*.py"):
        arm.unlink()
    if changed:
        fault = fault or f"writes elsewhere: {sorted(map(str, changed))[:5]}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    seconds = time.monotonic() - began
    return Met(
        kind=kind,
        index=index,
        what=what,
        commands=commands,
        codes=codes,
        fault=fault,
        where=where if fault else "",
        seconds=seconds,
        grown=grown,
    )


def main(arguments: list[str]) -> int:
    kind, seed, start, stop, folder = arguments[0], *map(int, arguments[1:4]), Path(arguments[4])
    import torch

    from study import run  # noqa: F401
    from study.commands import export, predict  # noqa: F401  # before the limit

    torch.set_num_threads(1)
    barrier()
    have = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (have + ROOM, have + ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wire = os.fdopen(os.dup(1), "w")
    for index in range(start, stop):
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        met = meet(kind, seed, index, folder / "base", folder / f"home-{kind}-{start}")
        print(json.dumps(asdict(met)), file=wire, flush=True)
    faulthandler.cancel_dump_traceback_later()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
