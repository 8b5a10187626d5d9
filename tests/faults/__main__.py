"""See ``campaign``."""

import argparse
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from faults import campaign, played
from faults.ground import SESSIONS, Ground, prepare_ground
from faults.kinds import OUTSIDE


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=campaign.__doc__)
    stages = [*campaign.STAGES, *played.STAGES]
    kinds = ["writes", *OUTSIDE, *campaign.SIDE_BY_SIDE]
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=9.0, help="no study begins that would take longer")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=2, help="studies side by side")
    parser.add_argument("--count", type=int, default=8, help="faults of one study")
    parser.add_argument("--stages", default=",".join(stages), help=f"of {', '.join(stages)}")
    parser.add_argument(
        "--kinds", default=",".join(kinds), help=f"of {', '.join(kinds)}, or 'driver: predictions'"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work here; keep what failed, and undisturbed studies"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="append the results")
    parser.add_argument("--table", type=Path, metavar="FILE", help="only show what was appended")
    given = parser.parse_args()
    for flag, asked, known in (("--stages", given.stages, stages), ("--kinds", given.kinds, kinds)):
        for odd in {word for word in asked.split(",") if word not in known and ":" not in word}:
            parser.error(f"{flag} {odd}: one of {', '.join(known)}")
    if given.table and not given.table.is_file():
        parser.error(f"--table {given.table}: no such file")
    signal.signal(signal.SIGTERM, stop)
    console = Console(highlight=False, markup=False, width=180)
    if given.table:
        rows = [json.loads(line) for line in given.table.read_text().splitlines()]
    else:
        with tempfile.TemporaryDirectory() as temporary:
            rows = run(given, given.keep or Path(temporary), console)
    console.print(table(rows))
    return 0 if all(not row["error"] for row in rows) else 1


def stop(*_: object) -> None:
    for session in SESSIONS:
        session.kill()  # which does nothing to one that has ended
    os._exit(143)


def run(given: argparse.Namespace, folder: Path, console: Console) -> list[dict[str, Any]]:
    """Two studies at a time, until there is no time for another."""
    ground, began, rows = prepare_ground(folder), time.monotonic(), list[dict[str, Any]]()
    kinds, stages = given.kinds.split(","), given.stages.split(",")
    apart = [kind for kind in kinds if kind in campaign.SIDE_BY_SIDE]  # studies of their own
    turns = itertools.cycle([*(stages if len(apart) < len(kinds) else ()), *apart])
    longest, numbers, lock = [0.0], iter(range(given.studies)), threading.Lock()

    def one_after_the_other() -> None:
        while True:
            with lock:
                number, turn = next(numbers, None), next(turns)
            since = time.monotonic()
            if number is None or since - began + longest[0] > 60 * given.minutes:
                return
            row = one(given, ground, folder, turn, f"{given.seed}/{number}", kinds, console)
            with lock:
                rows.append(row)
                longest[0] = max(longest[0], time.monotonic() - since)
                if given.to:
                    with given.to.open("a") as file:
                        file.write(json.dumps(row) + "\n")

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(one_after_the_other) for _ in range(given.at_once)]:
            done.result()
    return rows


def one(
    given: argparse.Namespace,
    ground: Ground,
    folder: Path,
    turn: str,
    name: str,
    kinds: list[str],
    console: Console,
) -> dict[str, Any]:
    if turn in played.STAGES:
        return played.one_study(folder, played.STAGES[turn], name, 2 * given.count, console.print)
    if turn in campaign.SIDE_BY_SIDE:
        return campaign.on_the_wall_clock(ground, turn, name, console.print)
    return campaign.one_study(ground, turn, name, given.count, kinds, console.print)


def table(rows: list[dict[str, Any]]) -> Table:
    """One line per kind of fault, where a study counts for each of its kinds; the last over the studies, each once.

    A dash: not compared, as where the clock decides what a study draws.
    """
    found = Table(
        "kind", "faults", "studies", "lost", "doubled", "spend off by", "verdict same", "not survived", "the last one"
    )  # fmt: skip
    kinds: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    what: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for kind in dict.fromkeys(kind for kind, _ in row["faults"]) or ["none came"]:
            kinds[kind].append(row)
        for kind, said in row["faults"]:
            what[kind].append(said)
    for kind, of in [*sorted(kinds.items()), ("all", rows)]:
        faults = what[kind] if kind != "all" else [said for each in what.values() for said in each]
        counts = ([row[name] for row in of if row[name] is not None] for name in ("lost", "doubled"))
        asked = [row["verdict"] for row in of if row["verdict"] is not None]
        off = [abs(row["difference"]) for row in of if row["difference"] is not None]
        found.add_row(
            kind, str(len(faults)), str(len(of)), *(str(sum(each)) if each else "–" for each in counts),
            f"{max(off):.2g} s" if off else "–", f"{sum(asked)} of {len(asked)}",
            str(sum(bool(row["error"]) for row in of)), faults[-1][:80] if faults else "",
        )  # fmt: skip
    return found


sys.exit(main())
