"""Which faults a study gets, and when: drawn from the steps that an undisturbed one was seen to take."""

import dataclasses
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.kinds import ENDING, OUTSIDE, TRAINING

EVERY_SESSION = (".claimed", "ledger: ", "sealed_test.npz", "plan.json")
"""Files whose writes come early in every session, or until they are whole."""
RARE = 5
HOW = ("before", "within", "within", "after", "power")
_NUMBERS = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of a study. ``at``: the step of the undisturbed study at which it comes."""

    at: int
    kind: str
    end: dict[str, Any] | None = None
    """For one within a write, what ``inside/writes.py`` needs to know."""
    moment: int = 0
    """For one from outside, the epochs or records that it waits for."""

    @property
    def ends_driver(self) -> bool:
        return self.end["role"] == "driver" if self.end else self.kind in ENDING


def wishes(home: Path, ends: Sequence[dict[str, Any]], trace: Path | None = None) -> str:
    return json.dumps({"home": str(home), "trace": str(trace or ""), "ends": list(ends)})


def drawn(run: Path, count: int, dice: random.Random, kinds: Sequence[str]) -> list[Fault]:
    """``count`` faults in the order of their coming: first a kind, then one of its moments, all alike probable."""
    steps = [tuple(line.split("\t")) for line in run.with_name("trace").read_text().splitlines()]
    places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    known: list[tuple[int, int]] = []
    """At every step, the epochs and the records that the ledger has."""
    epochs = total = 0
    for at, (role, file, step) in enumerate(steps):
        if f"{role}: {file}" in kinds or "writes" in kinds:
            places[role, file].append(at)
        known.append((epochs, total))
        if step == "write" and file.startswith("ledger") and not file.endswith("Beat"):
            epochs, total = epochs + file.endswith("Epoch"), total + 1
    options: list[Any] = [*places, *(kind for kind in kinds if kind in OUTSIDE and epochs)]
    found = []
    for _ in range(count):
        match dice.choice(options):
            case (role, file):
                at = dice.choice(places[role, file])
                if len(places[role, file]) < RARE and file not in EVERY_SESSION:
                    options.remove((role, file))  # it may not come again
                end = {"role": role, "file": file, "how": dice.choice(HOW),
                       "part": dice.random()}  # fmt: skip
                found.append(Fault(at=at, kind=f"{role}: {file}", end=end))
            case kind:
                training = kind in TRAINING
                most = (epochs if training else total) * (2 if kind == "memory full" else 3) // 3
                moment = dice.randrange(1, max(2, most))
                at = next((i for i, seen in enumerate(known) if seen[not training] >= moment), len(steps))
                found.append(Fault(at=at, kind=str(kind), moment=moment))
    found.sort(key=lambda fault: fault.at)
    return [f if f.end is None else dataclasses.replace(f, end=f.end | {"before": places[f.end["role"], f.end["file"]]})
            for f in found]  # fmt: skip


def ends_of(
    faults: Sequence[Fault], since: int, folder: Path
) -> tuple[list[dict[str, Any]], dict[int, Path]]:
    """What the session that begins at step ``since`` has to do, up to the first fault that ends it; and the marks, by fault."""
    folder.mkdir(exist_ok=True)
    found, marks = [], {}
    for fault in faults:
        if fault.end is not None:
            first = 0 if fault.end["file"] in EVERY_SESSION else since
            nth = sum(first <= at <= fault.at for at in fault.end["before"])
            marks[id(fault)] = mark = folder / str(next(_NUMBERS))
            wish = {k: v for k, v in fault.end.items() if k != "before"}
            found.append(wish | {"nth": max(1, nth), "mark": str(mark)})
        if fault.ends_driver:
            break
    return found, marks
