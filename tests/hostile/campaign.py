"""Hostile input at size: draw damaged files and command lines, give them to the real commands, and count what is no clean answer.

    python -m tests.hostile --count 1200 --seed 0 --kinds flags,plans
    python -m tests.hostile --again plans/17 --seed 0

Every input is drawn from (seed, kind, number) alone. Clean is: exit code 0, or a sentence and exit code 2 or 3, within 60 s and 3 GiB; an
exception, a dead or silent process, control characters, or a file written elsewhere is a finding. Ray is where the commands stop.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hostile.kinds import KINDS
from hostile.worker import LIMIT, Met
from study.commands.loader import LOAD

AT_ONCE = 400
"""Inputs per process."""
RESULTS = Path(tempfile.gettempdir()) / "hostile.jsonl"


def prepare(folder: Path) -> Path:
    """The ground, unless it is there: a copy of the sources and the valid files."""
    from hostile import ground

    if not (folder / "base").exists():
        ground.grow(folder / "base")
    shutil.rmtree(folder / "tree", ignore_errors=True)
    ground.tree(folder / "tree")
    (folder / "base" / "net" / "load.py").write_text(LOAD)
    return folder


def drawn(folder: Path, kind: str, seed: int, start: int, stop: int) -> Iterator[Met]:
    """Meet the inputs of these numbers, in as many processes as it takes."""
    while start < stop:
        for met in _one_process(folder, kind, seed, start, min(stop, start + AT_ONCE)):
            start = met.index + 1
            yield met


def _one_process(folder: Path, kind: str, seed: int, start: int, stop: int) -> Iterator[Met]:
    tree = folder / "tree"
    shutil.rmtree(folder / f"home-{kind}", ignore_errors=True)
    words = [sys.executable, "-m", "hostile.worker", kind, str(seed), str(start), str(stop), str(folder)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            words, cwd=tree, env=_environment(tree), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        at = start
        for line in process.stdout:
            met = Met(**json.loads(line))
            at = met.index + 1
            yield met
        if at < stop:
            errors.seek(0)
            said = errors.read()[-3000:]
            fault = f"silent for {LIMIT:g} s" if "Timeout" in said else f"the process died: {process.wait()}"
            yield Met(
                kind=kind, index=at, what="", commands=[], codes=[], fault=fault, where=said, seconds=LIMIT
            )


def _environment(tree: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{tree}:{tree / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def campaign(
    folder: Path,
    kinds: Sequence[str],
    *,
    seed: int,
    start: int,
    stop: int,
    results: Path | None = None,
    jobs: int = 1,
) -> dict[str, list[Met]]:
    """Everything that was met, by kind; findings are appended to ``results`` as they come, and a line of counts per kind."""
    prepare(folder)

    def one_kind(kind: str) -> list[Met]:
        began, met = time.monotonic(), []
        for one in drawn(folder, kind, seed, start, stop):
            met.append(one)
            if one.fault and results:
                _append(results, vars(one) | {"seed": seed})
        if results:
            about = {"kind": kind, "seed": seed, "start": start, "seconds": round(time.monotonic() - began)}
            _append(results, about | _counts(met))
        return met

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(kinds, pool.map(one_kind, kinds), strict=True))


def _append(results: Path, line: Mapping[str, object]) -> None:
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _counts(met: Sequence[Met]) -> dict[str, float]:
    return {
        "inputs": len(met),
        "refused": sum(any(c in (2, 3) for c in m.codes) and not m.fault for m in met),
        "findings": sum(bool(m.fault) for m in met),
        "slowest, s": round(max((m.seconds for m in met), default=0.0), 1),
        "grown, MiB": max((m.grown >> 20 for m in met), default=0),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=100, help="inputs of each kind")
    parser.add_argument("--start", type=int, default=0, help="number of the first one")
    parser.add_argument("--jobs", type=int, default=1, help="kinds at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", metavar="KIND/NUMBER", help="one input, with all that is known of it")
    parser.add_argument("--ground", type=Path, help="a folder for the valid files, kept for the next time")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    given = parser.parse_args()
    kinds, start, count = given.kinds.split(","), given.start, given.count
    if given.again:
        kind, _, number = given.again.partition("/")
        kinds, start, count = [kind], int(number), 1
    console = Console(highlight=False, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as temporary:
        found = campaign(
            given.ground or Path(temporary),
            kinds,
            seed=given.seed,
            start=start,
            stop=start + count,
            results=None if given.again else given.results,
            jobs=given.jobs,
        )
    table = Table("kind", *_counts([]))
    for kind, met in found.items():
        for one in met:
            if one.fault or given.again:
                said = f"{one.fault or 'clean'}\n  {one.what}\n  {one.commands} {one.codes}\n{one.where}"
                console.print(f"{kind}/{one.index}: {said}")
        table.add_row(kind, *map(str, _counts(met).values()))
    console.print(table)
    return 1 if any(one.fault for met in found.values() for one in met) else 0
