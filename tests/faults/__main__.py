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
    turns = itertools.cycle(enumerate([*stages, *(kind for kind in kinds if kind in campaign.SIDE_BY_SIDE)]))
    longest, numbers, lock = [0.0], iter(range(given.studies)), threading.Lock()

    def one_after_the_other() -> None:
        while True:
            with lock:
                number, (_, turn) = next(numbers, None), next(turns)
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
    """One line per kind of fault; a study with several counts for each of its kinds."""
    found = Table(
        "kind", "faults", "lost", "doubled", "spend off by", "verdict same", "not survived", "the last one"
    )
    kinds: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        for kind, what in row["faults"]:
            kinds[kind].append(row | {"what": what})
    whole = [row for each in kinds.values() for row in each]
    for kind, of in [*sorted(kinds.items()), ("all", whole)]:
        asked = [row["verdict"] for row in of if row["verdict"] is not None]
        found.add_row(
            kind, str(len(of)), str(sum(row["lost"] for row in of)), str(sum(row["doubled"] for row in of)),
            f"{max((row['difference'] for row in of), default=0):.2g} s", f"{sum(asked)} of {len(asked)}",
            str(sum(bool(row["error"]) for row in of)), of[-1]["what"][:90] if of else "",
        )  # fmt: skip
    return found


sys.exit(main())
