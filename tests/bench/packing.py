"""How many trials to run side by side on two cores: every layout in turns, then the choice of the study's probe.

The probe takes the same measures more briefly, within a share of the budget. A layout that runs out of
memory is a row without a speed. ``python -m tests.bench.gpu`` measures the GPU's layouts.

Command:   python -m tests.bench.packing --json packing.json         (two arms on two cores: 4 minutes)
"""
# ruff: noqa: T201 - a command speaks to its user

import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.timing import at_once, parser, processes, save, table
from search_spaces import Config, ImageSpec, load
from study.cli import DEFAULT_ARMS
from study.execution import cluster, packing, profile
from study.execution.meter import Meter
from study.protocol.budget import Budget
from study.protocol.question import DataCard, Machine

CIFAR = ImageSpec(channels=3, size=32, classes=10)
CARD = DataCard(
    spec="made up",
    classes=tuple("0123456789"),
    train=50_000,
    test=10_000,
    size=CIFAR.size,
    channels=CIFAR.channels,
    fingerprint="",
)


METER = Meter()
"""Peak memory of this process."""


def prepared(arm: str, batch: int, way: packing.Way, graphed: bool) -> bool:
    """Whether this process can build the arm and train its first steps within its memory limit."""
    METER.begin(None)
    config: Config = {**load(arm).default(), "batch_size": batch}
    return METER.prepare(arm, config, CIFAR, way.machine, True, graphed)


def measured_here(arm: str, seconds: float) -> tuple[float, int]:
    """Images/s and peak bytes of this process while all train; NaN and 0 if out of memory."""
    found = METER.speed(arm, seconds)
    return (math.nan, 0) if found is None else (found.images_per_second, found.peak_bytes)


def measured(
    arms: Sequence[str],
    batches: Sequence[int],
    ways: Sequence[packing.Way],
    seconds: float,
    turns: int,
    graphed: Sequence[bool] = (False,),
) -> Iterator[dict[str, Any]]:
    """Every arm, batch and layout: images/s of all trials together, and the peak bytes of the largest."""
    with processes(max(way.trials for way in ways)) as pool:
        for arm, batch, graph in itertools.product(arms, batches, graphed):
            peaks: dict[str, int] = {}

            def together(
                way: packing.Way,
                arm: str = arm,
                batch: int = batch,
                graph: bool = graph,
                peaks: dict[str, int] = peaks,
            ) -> float:
                side = pool[: way.trials]
                if not all(at_once(side, prepared, arm, batch, way, graph)):
                    return math.nan
                speeds = at_once(side, measured_here, arm, seconds)  # all at the same time
                peaks[_name(way)] = max(peak for _, peak in speeds)
                return float(sum(speed for speed, _ in speeds))

            speeds: dict[str, list[float]] = {}
            for turn, way in itertools.product(range(turns), ways):
                found = speeds.setdefault(_name(way), [])
                found.append(together(way))
                if turn == turns - 1:
                    yield {
                        "arm": arm, "batch": batch, "graphed": graph, "way": _name(way),
                        "images_per_second": statistics.median(found), "peak_bytes": peaks.get(_name(way), 0),
                    }  # fmt: skip


def _name(way: packing.Way) -> str:
    return f"{way.trials} x {way.machine.threads}"


def on_cores() -> list[packing.Way]:
    """Trials x threads on two cores; no study uses the last, with more threads than cores."""
    found = []
    for trials, threads in ((2, 1), (1, 1), (1, 2), (2, 2)):
        machine = Machine(
            resource="cpu", slots=trials, fraction=float(threads), threads=threads, name="two cores"
        )
        found.append(packing.Way(machine=machine, trials=trials))
    return found


def chosen(arms: Sequence[str], budget: Budget) -> profile.Survey:
    """Measures and choice of a study with this budget."""
    with tempfile.TemporaryDirectory() as folder:
        cluster.connect(None, Path(folder) / "ray.log")
        try:
            return profile.survey({name: load(name) for name in arms}, CARD, budget)
        finally:
            cluster.disconnect()


def main(arguments: list[str] | None = None) -> None:
    options = parser("packing", __doc__)
    options.add_argument("--arms", default=",".join(DEFAULT_ARMS["cpu"]), help="default %(default)s")
    options.add_argument("--batches", default="32,128", help="default %(default)s")
    options.add_argument("--seconds", type=float, default=4.0, help="of every single measure (default 4)")
    options.add_argument("--turns", type=int, default=3, help="measures of each, in turns (default 3)")
    options.add_argument(
        "--budget", default="1cpu-hours", help="of the study that is probed for (%(default)s)"
    )
    given = options.parse_args(arguments)
    arms, began, budget = given.arms.split(","), time.perf_counter(), Budget.parse(given.budget)
    batches = [int(batch) for batch in given.batches.split(",")]
    rows = []
    for row in measured(arms, batches, on_cores(), given.seconds, given.turns):
        rows.append(row)
        save(given.json, {"measured": rows})
    print(as_table(rows))
    survey = chosen(arms, budget)
    print(f"the probe of a {budget} study:")
    for found in survey.packing:
        layout = "channels_last" if found.channels_last else "contiguous"
        print(
            f"  {found.arm}: {found.trials} x {found.threads}, batch {found.batch_size}, {layout}: "
            f"{found.images_per_second:.0f} images/s"
        )
    cost = sum(survey.cost.values())
    print(
        f"  {' '.join(survey.notes)}\n  chosen: {survey.machine.slots} trials side by side, {survey.machine.threads} "
        f"threads each, for {cost:.0f} cpu-seconds, {100 * cost / budget.seconds:.1f} % of the budget"
    )
    save(given.json, {"measured": rows, "probe": dataclasses.asdict(survey)})
    print(f"measured in {time.perf_counter() - began:.0f} s")


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """A row per measure, with its ratio to the first layout of the same arm, batch and step."""
    usual: dict[tuple[Any, ...], float] = {}
    cells = []
    for row in rows:
        key = (row["arm"], row["batch"], row["graphed"])
        speed = row["images_per_second"]
        first = usual.setdefault(key, speed)
        cells.append(
            (
                row["arm"], row["batch"], "graph" if row["graphed"] else "eager", row["way"],
                "out of memory" if math.isnan(speed) else f"{speed:.0f}",
                f"{row['peak_bytes'] / 2**20:.0f}", f"{speed / first:.2f}",
            )
        )  # fmt: skip
    return table(
        [
            "arm",
            "batch",
            "step",
            "trials x threads",
            "images/s of all",
            "MiB of the largest",
            "to the first way",
        ],
        cells,
    )


if __name__ == "__main__":
    main()
