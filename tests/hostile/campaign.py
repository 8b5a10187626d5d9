"""Hostile input at size: draw damaged files and command lines, give them to the real commands, and count what is no clean answer.

    python -m tests.hostile --count 1200 --seed 0 --minutes 9 --ground /tmp/ground
    python -m tests.hostile --again plans/17 --seed 0

Every input is drawn from (seed, kind, number) alone. Clean is: exit code 0, or a sentence and exit code 2 or 3, within 60 s and 3 GiB; an
exception, a dead or silent process, control characters, or a file written elsewhere is a finding. Ray is where the commands stop. Findings
and counts are appended to a file: the same command once more goes on where the file ends, and its table is over all of the file.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hostile import ground
from hostile.kinds import KINDS
from hostile.worker import LIMIT, Met
from study.commands.export import write_reading
from study.commands.loader import LOAD

AT_ONCE = 600
"""Inputs per process, whose imports take as long as a hundred."""
KEPT = 50
"""Inputs between two lines of results."""
RESULTS = Path(tempfile.gettempdir()) / "hostile.jsonl"


def prepare(folder: Path) -> None:
    """The ground: a copy of the sources as they are now, and the valid files, unless they are there."""
    if not (folder / "base").exists():
        ground.grow(folder / "base")
    for old in (folder / "tree", *folder.glob("home-*")):
        shutil.rmtree(old, ignore_errors=True)
    ground.tree(folder / "tree")
    (folder / "base" / "net" / "load.py").write_text(LOAD)
    write_reading(folder / "base" / "net")


def drawn(folder: Path, kind: str, seed: int, start: int, stop: int) -> Generator[Met]:
    """Meet the inputs of these numbers, in as many processes as it takes."""
    while start < stop:
        for met in _one_process(folder, kind, seed, start, stop):
            start = met.index + 1
            yield met


def _one_process(folder: Path, kind: str, seed: int, start: int, stop: int) -> Generator[Met]:
    tree = folder / "tree"
    words = [sys.executable, "-m", "hostile.worker", kind, *map(str, (seed, start, stop, folder))]
    own = (
        folder / f"home-{kind}-own"
    )  # the user's home and the place for temporary files, where Ray's folder is
    (own / "ray").mkdir(parents=True, exist_ok=True)
    caches = {"MPLCONFIGDIR": "home-mpl", "HF_HOME": "home-hf", "TORCHINDUCTOR_CACHE_DIR": "home-torch"}
    put = {name: str(folder / cache) for name, cache in caches.items()}
    put |= {"HOME": str(own), "TMPDIR": str(own), "PYTHONDONTWRITEBYTECODE": "1"}
    put |= {"PYTHONPATH": f"{tree}:{tree / 'tests'}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            words, cwd=tree, env=os.environ | put, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        at = start
        try:
            for line in process.stdout:
                met = Met(**json.loads(line))
                at = met.index + 1
                yield met
        except GeneratorExit:  # time is up
            process.kill()
            raise
        if at < stop:
            errors.seek(0)
            said = errors.read()[-3000:]
            fault = f"silent for {LIMIT:g} s" if "Timeout" in said else f"the process died: {process.wait()}"
            yield Met(kind=kind, index=at, fault=fault, where=said, seconds=LIMIT)


def campaign(
    folder: Path,
    kinds: Sequence[str],
    *,
    seed: int,
    numbers: range,
    results: Path,
    jobs: int = 1,
    minutes: float = math.inf,
) -> list[Met]:
    """Meet the inputs that ``results`` lacks, none after ``minutes``; findings and counts are appended to it."""
    prepare(folder)
    until = time.monotonic() + 60 * minutes
    begun = {kind: numbers.start for kind in kinds}
    for line in _lines(results):
        if "inputs" in line and line["seed"] == seed and line["kind"] in begun:
            begun[line["kind"]] = max(begun[line["kind"]], line["start"] + line["inputs"])

    def meet(kind: str) -> list[Met]:
        every: list[Met] = []
        for start in range(begun[kind], numbers.stop, AT_ONCE):
            coming = drawn(folder, kind, seed, start, min(numbers.stop, start + AT_ONCE))
            while time.monotonic() < until and (met := list(itertools.islice(coming, KEPT))):
                every += met
                for one in met:
                    if one.fault:
                        _append(results, vars(one) | {"seed": seed})
                _append(results, {"kind": kind, "seed": seed, "start": met[0].index} | _counts(met))
            coming.close()
        return every

    with ThreadPoolExecutor(jobs) as pool:  # kinds of which few are met come first
        return [one for met in pool.map(meet, sorted(kinds, key=begun.__getitem__)) for one in met]


def _lines(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def _append(results: Path, line: Mapping[str, object]) -> None:
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _counts(met: Sequence[Met]) -> dict[str, float]:
    return {
        "inputs": len(met),
        "refused": sum(any(c in (2, 3) for c in m.codes) and not m.fault for m in met),
        "findings": sum(bool(m.fault) for m in met),
        "seconds": round(sum(m.seconds for m in met)),
        "slowest": round(max((m.seconds for m in met), default=0.0), 1),
        "grown": max((m.grown >> 20 for m in met), default=0),
    }


def table(results: Path, seed: int) -> Table:
    """All that the file has of this seed, by kind."""
    shown = Table("kind", "inputs", "refused", "findings", "seconds", "slowest, s", "memory grew by, MiB")
    lines = [line for line in _lines(results) if "inputs" in line and line["seed"] == seed]
    counted = {(line["kind"], line["start"]): line for line in lines}.values()  # two may have met the same
    for kind in dict.fromkeys(line["kind"] for line in counted):
        own = [line for line in counted if line["kind"] == kind]
        sums = [sum(line[what] for line in own) for what in ("inputs", "refused", "findings", "seconds")]
        shown.add_row(
            kind, *map(str, sums), *(str(max(line[what] for line in own)) for what in ("slowest", "grown"))
        )
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=100, help="inputs of each kind")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after these")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", metavar="KIND/NUMBER", help="one input, with all that is known of it")
    parser.add_argument("--ground", type=Path, help="a folder for the valid files, kept for the next time")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    given = parser.parse_args()
    kind, _, number = (given.again or f"{given.kinds.partition(',')[0]}/0").partition("/")
    if not number.isdigit() or {*given.kinds.split(","), kind} - set(KINDS):
        parser.error(f"kinds are {', '.join(KINDS)}, and --again takes KIND/NUMBER")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.ground or Path(temporary)
        if given.again:
            prepare(folder)
            met = list(drawn(folder, kind, given.seed, int(number), int(number) + 1))
        else:
            met = campaign(
                folder, given.kinds.split(","), seed=given.seed, numbers=range(given.count), results=given.results,
                jobs=given.jobs, minutes=given.minutes,
            )  # fmt: skip
    for one in met:
        if one.fault or given.again:
            said = f"{one.fault or 'clean'}\n  {one.what}\n  {one.commands} {one.codes}\n{one.where}"
            console.print(f"{one.kind}/{one.index}: {said}")
    if not given.again:
        console.print(table(given.results, given.seed))
    return 1 if any(one.fault for one in met) else 0
