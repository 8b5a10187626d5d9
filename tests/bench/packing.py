"""How many trials to run side by side: all of them measured in turns, then what the study's probe chooses.

On a CPU trials x threads, on a GPU 1, 2, 3, 4 and 8 trials on the card with the memory of the largest. The
probe measures in short what this measures at length, within a share of the budget that is given.

What was measured of an arm is written at once, what the probe chooses at the end. Out of memory is a row without
a speed.

Command:   python -m tests.bench.packing --json packing.json         (two arms on two cores: 4 minutes)
"""
# ruff: noqa: T201 - a command speaks to its user

import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.timing import at_once, in_turns, parser, processes, save, table
from search_spaces import Config, ImageSpec, load
from study import cluster, probe
from study.memory import keep_freed, out_of_memory
from study.options import DEFAULT_ARMS
from study.packing import ON_A_GPU
from study.plan import Budget, DataCard

ON_TWO_CORES = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Trials x threads; the last has more threads than cores, which no study does."""
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


def one(arm: str, batch: int, kind: str, threads: int, seconds: float) -> tuple[float, int]:
    """Images/s and peak bytes of one trial in this process; NaN and 0 where memory ended."""
    torch.set_num_threads(threads)
    if kind == "cpu":
        keep_freed()
    config: Config = {**load(arm).default(), "batch_size": batch}
    try:
        found = probe.speed(load(arm), config, CIFAR, torch.device(kind), seconds=seconds)
    except Exception as error:
        if not out_of_memory(error):
            raise
        return math.nan, 0
    finally:  # the next has the card to itself
        torch.cuda.empty_cache()
    return found.images_per_second, found.peak_bytes


def measured(
    arms: Sequence[str], batch: int, kind: str, seconds: float, turns: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each arm, by trials x threads: images/s of all trials together, and the peak bytes of the largest."""
    ways = ON_TWO_CORES if kind == "cpu" else [(trials, 1) for trials in ON_A_GPU]
    with processes(max(trials for trials, _ in ways)) as pool:
        for arm in arms:
            peaks: dict[str, int] = {}

            def together(trials: int, threads: int, arm: str = arm, peaks: dict[str, int] = peaks) -> float:
                side: Sequence[ProcessPoolExecutor] = pool[:trials]
                speeds = at_once(side, one, arm, batch, kind, threads, seconds)
                peaks[f"{trials} x {threads}"] = max(peak for _, peak in speeds)
                return float(sum(speed for speed, _ in speeds))

            measures = {
                f"{trials} x {threads}": partial(together, trials, threads) for trials, threads in ways
            }
            speeds = in_turns(measures, turns)
            yield arm, {way: {"images_per_second": speeds[way], "peak_bytes": peaks[way]} for way in speeds}


def chosen(arms: Sequence[str], budget: Budget) -> probe.Survey:
    """What a study of this budget would measure and choose."""
    with tempfile.TemporaryDirectory() as folder:
        cluster.connect(None, Path(folder) / "ray.log")
        try:
            return probe.survey({name: load(name) for name in arms}, CARD, budget)
        finally:
            cluster.disconnect()


def main(arguments: list[str] | None = None) -> None:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    resource = "gpu" if kind == "cuda" else "cpu"
    options = parser("packing", __doc__)
    options.add_argument("--arms", default=",".join(DEFAULT_ARMS[resource]), help="default %(default)s")
    options.add_argument("--batch", type=int, default=128, help="default 128")
    options.add_argument("--seconds", type=float, default=4.0, help="of every single measure (default 4)")
    options.add_argument("--turns", type=int, default=3, help="measures of each, in turns (default 3)")
    options.add_argument(
        "--budget", default=f"1{resource}-hours", help="of the study that is probed for (%(default)s)"
    )
    given = options.parse_args(arguments)
    arms, began, budget = given.arms.split(","), time.perf_counter(), Budget.parse(given.budget)
    found: dict[str, dict[str, Any]] = {}
    for arm, ways in measured(arms, given.batch, kind, given.seconds, given.turns):
        found[arm] = ways
        save(given.json, {"measured": found})
    usual = "2 x 1" if kind == "cpu" else "1 x 1"
    rows = [
        (
            arm,
            way,
            "out of memory" if math.isnan(row["images_per_second"]) else f"{row['images_per_second']:.0f}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            f"{row['images_per_second'] / found[arm][usual]['images_per_second']:.2f}",
        )
        for arm in arms
        for way, row in found[arm].items()
    ]
    print(table(["arm", "trials x threads", "images/s of all", "MiB of the largest", f"to {usual}"], rows))
    survey = chosen(arms, budget)
    print(f"the probe of a {budget} study:")
    for row in survey.packing:
        layout = "channels_last" if row.channels_last else "contiguous"
        print(
            f"  {row.arm}: {row.trials} x {row.threads}, batch {row.batch_size}, {layout}: {row.images_per_second:.0f} images/s"
        )
    cost = sum(survey.cost.values())
    print(
        f"  {' '.join(survey.notes)}\n  chosen: {survey.machine.slots} trials side by side, {survey.machine.threads} "
        f"threads each, for {cost:.0f} {resource}-seconds, {100 * cost / budget.seconds:.1f} % of the budget"
    )
    save(given.json, {"measured": found, "probe": dataclasses.asdict(survey)})
    print(f"measured in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
