"""How many trials share a GPU, or the cores of a machine: the possible ways, and the fastest.

All arms of a study are packed alike, so that a resource-second means the same for each of them.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from study.protocol.errors import InputError
from study.protocol.question import Machine, Packed

ON_A_GPU = (2, 3, 4, 8)
"""Trials on one GPU: at least two, so that one computes while another starts, unless two do not fit."""
ON_CORES = (1, 2, 4, 8)
"""Cores, and so threads, of one trial: more threads than cores in all are slower (0.6 x). The whole node comes last."""
MOST_THREADS = 8
GAIN = 1.1
"""Factor by which another way or layout must be faster than the usual one: measurements of two seconds scatter by several percent."""
HEADROOM = 1.2
"""Every trial may grow to this multiple of its measured peak."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the cluster has of one kind of resource."""

    resource: Literal["gpu", "cpu"]
    units: int
    """GPUs, or CPU cores, in all."""
    cores: tuple[int, ...]
    """CPU cores of each node that has such units."""
    name: str
    kind: str = ""
    """Of the GPUs, as Ray calls it; empty where Ray reports none."""
    per_gpu: int = 8
    """Processes per GPU for which its machine has cores and memory."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A packing, and how many trials it puts on one GPU, or on the cores of the smallest node."""

    machine: Machine
    trials: int


def ways(hardware: Hardware, fraction: float | None) -> list[Way]:
    """Every packing to measure, the usual one first; only one if the user gave a ``fraction``.

    Raises InputError if no trial can hold that fraction.
    """
    smallest = min(hardware.cores)
    if hardware.resource == "gpu":
        room = tuple(count for count in ON_A_GPU if count <= hardware.per_gpu)
        shares = room if fraction is None else (int(1 / fraction),)
        return [_on_a_gpu(hardware, count, fraction) for count in shares]
    if fraction is not None and fraction > smallest:
        raise InputError(
            f"--fraction {fraction:g}: a trial can hold at most the {smallest} cores of the smallest node"
        )
    if fraction is not None:
        return [_on_cores(hardware, int(fraction))]
    found = [_on_cores(hardware, count) for count in ON_CORES if count <= smallest]
    return found if found[-1].trials == 1 else [*found, _on_cores(hardware, smallest)]


def _on_a_gpu(hardware: Hardware, trials: int, fraction: float | None) -> Way:
    slots = trials * hardware.units
    machine = Machine(
        resource="gpu",
        slots=slots,
        fraction=fraction or int(10_000 / trials) / 10_000,  # Ray counts in ten thousandths
        threads=max(1, min(MOST_THREADS, sum(hardware.cores) // slots)),
        name=hardware.name,
        kind=hardware.kind,
    )
    return Way(machine=machine, trials=trials)


def _on_cores(hardware: Hardware, threads: int) -> Way:
    machine = Machine(
        resource="cpu",
        slots=sum(cores // threads for cores in hardware.cores),
        fraction=float(threads),
        threads=threads,
        name=hardware.name,
    )
    return Way(machine=machine, trials=min(hardware.cores) // threads)


def describe(way: Way) -> str:
    """``4 trials of 0.25 GPU each``."""
    slots, each = way.machine.slots, f"{way.machine.fraction:g} {way.machine.resource.upper()}"
    return f"{slots} trials of {each} each" if slots > 1 else f"1 trial of {each}"


def speed(rows: Sequence[Packed]) -> float:
    """Images/s of all trials together: the geometric mean over arms, each with the same images at every batch size.

    The arms have equal shares, so a packing that doubles one arm's runs and halves the other's gains nothing.
    """
    arms = {row.arm for row in rows}
    return statistics.geometric_mean(
        statistics.harmonic_mean([row.images_per_second for row in rows if row.arm == arm]) for arm in arms
    )


def fastest(ways: Sequence[Way], speed_of: Callable[[Way], float | None]) -> Way:
    """The first way, unless another is ``GAIN`` times as fast; ``speed_of`` measures one, or returns None if it cannot.

    Ways further from the usual one come later: the first that is slower than the best ends the search.
    """
    best = ways[0]
    most = speed_of(best)
    for way in ways[1:]:
        speed = speed_of(way)
        if speed is None or most is None or speed < most:
            break
        if speed > GAIN * most:
            best, most = way, speed
    return best


def fits(way: Way, share: float) -> bool:
    """Whether all trials of the way may grow to ``HEADROOM`` times ``share``, the part of the memory that one takes."""
    return way.trials * share * HEADROOM <= 1


def largest(way: Way, shares: Mapping[int, float]) -> int | None:
    """The largest of the batch sizes in ``shares`` that fits into memory with ``way``; None if none does."""
    return max((size for size, share in shares.items() if fits(way, share)), default=None)
