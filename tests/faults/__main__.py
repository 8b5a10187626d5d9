"""See ``campaign``."""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from faults import campaign, played
from faults.ground import prepare_ground
from faults.kinds import OUTSIDE


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=campaign.__doc__)
    stages = [*campaign.STAGES, *played.STAGES]
    kinds = ["writes", *OUTSIDE, *campaign.SIDE_BY_SIDE]
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=9.0, help="no study begins that would take longer")
    parser.add_argument("--studies", type=int, default=1000)
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
    console = Console(highlight=False, markup=False, width=180)
    if given.table:
        rows = [json.loads(line) for line in given.table.read_text().splitlines()]
    else:
        with tempfile.TemporaryDirectory() as temporary:
            rows = run(given, given.keep or Path(temporary), console)
    console.print(table(rows))
    return 0 if all(not row["error"] for row in rows) else 1


def run(given: argparse.Namespace, folder: Path, console: Console) -> list[dict[str, Any]]:
    ground, began, rows, longest = prepare_ground(folder), time.monotonic(), list[dict[str, Any]](), 0.0
    kinds, stages = given.kinds.split(","), given.stages.split(",")
    beside = [kind for kind in kinds if kind in campaign.SIDE_BY_SIDE]
    turns = [*stages, *beside]
    for number in range(given.studies):
        since, turn = time.monotonic(), turns[number % len(turns)]
        if since - began + longest > 60 * given.minutes:
            break
        name = f"{given.seed}/{number}"
        if turn in played.STAGES:
            row = played.one_study(folder, played.STAGES[turn], name, 2 * given.count, console.print)
        elif turn in beside:
            row = campaign.on_the_wall_clock(ground, turn, name, console.print)
        else:
            row = campaign.one_study(ground, turn, name, given.count, kinds, console.print)
        rows.append(row)
        longest = max(longest, time.monotonic() - since)
        if given.to:
            with given.to.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return rows


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
