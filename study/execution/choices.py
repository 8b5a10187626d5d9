"""What is chosen from the measurements: batch sizes, CUDA graphs, layouts and the packing; each choice leaves a note."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from search_spaces import ArmError, Choice
from study.execution import packing
from study.execution.measurements import Measurements, call_all
from study.execution.packing import Way
from study.protocol.question import LAYOUT_AXIS


def fitting(found: Measurements, ways: Sequence[Way], to_come: int = 0) -> list[Way]:
    """The ways that hold the largest peak of all arms, and the roomiest one; drops batch sizes that even that cannot hold.

    ``to_come`` is the memory that the study itself will take.
    """
    roomiest, most = min(ways, key=lambda way: way.trials), max(found.batch_sizes)
    peak = 0.0
    for arm in found.arms:
        batch, share = found.once(
            arm, "largest_batch",
            found.config(arm), found.images, roomiest, found.batch_sizes, to_come, found.graphed[arm],
        )  # fmt: skip
        found.batch_sizes = tuple(b for b in found.batch_sizes if b <= batch)
        peak = max(peak, share)
    if max(found.batch_sizes) < most:
        found.notes.append(f"Batches of more than {max(found.batch_sizes)} do not fit into the memory.")
    kept = [way for way in ways if way is roomiest or packing.fits(way, peak)]
    if len(kept) < len(ways):
        first = min(way.trials for way in ways if way not in kept)
        where = "on one GPU" if roomiest.machine.resource == "gpu" else "into the memory that is free"
        found.notes.append(f"{first} trials do not fit {where}: one takes up to {100 * peak:.0f} % of it.")
    return kept


def fitting_on_a_gpu(found: Measurements, ways: Sequence[Way], alone: Sequence[Way] | None) -> list[Way]:
    """As ``fitting``, after trying the arms' graphs; where not even two trials fit, one has the GPU to itself."""
    sizes = found.batch_sizes
    try:
        try_graphs(found, ways[0])
        return with_gpu(found, fitting(found, ways))
    except ArmError:
        if alone is None:
            raise
        found.batch_sizes, found.notes = sizes, [*found.notes, "Two trials do not fit on one GPU."]
        try_graphs(found, alone[0])
        return with_gpu(found, fitting(found, alone))


def try_graphs(found: Measurements, way: Way) -> None:
    """Capture every arm's step in a process of its own: a failed capture leaves its process useless."""
    untried = list(found.arms)
    while untried:
        with found.meters.apart() as one:
            fault = ""
            while untried and not fault:
                arm = untried.pop(0)
                asked = (found.config(arm), found.images, way.machine, found.channels_last[arm])
                (fault,) = found.timed(arm, [one], "graph_fault", *asked)
                found.graphed[arm] = not fault
                if fault:
                    found.notes.append(
                        f"{arm} trains step by step, its step cannot be a CUDA graph: {fault}."
                    )


def with_gpu(found: Measurements, ways: Sequence[Way]) -> list[Way]:
    """The ways with the GPU's description and what CUDA takes of it; asks the only process on the GPU."""
    ((gpu, context),) = call_all(found.meters.first(1), "gpu")
    return [replace(way, machine=replace(way.machine, gpu=gpu, context_bytes=context)) for way in ways]


def note_mps(found: Measurements) -> None:
    runs = call_all(found.meters.first(1), "mps")[0]
    found.notes.append(f"CUDA MPS {'runs' if runs else 'does not run: trials on one GPU take turns'}.")


def choose_way(found: Measurements, ways: Sequence[Way], left: Callable[[], float]) -> Way:
    """The fastest way, after choosing layouts; ``left()`` seconds of measuring remain, the first way is always measured."""
    usual, before = ways[0], left()
    if not found.measure(usual, (found.batch,)):
        raise ArmError(f"the arms do not fit into the memory with {packing.describe(usual)}")
    step = before - left()  # what one way at one batch size takes for all arms
    if left() > 3 * step:
        _choose_layouts(found, usual)
        _choose_by_option(found, usual, left, 2 * step / len(found.arms))
    else:
        found.notes.append("Layouts were not compared, the budget is small: all train in channels_last.")
    if len(ways) == 1:
        return usual
    batches = tuple(sorted({found.batch, max(found.batch_sizes)}))
    if left() < 2 * len(batches) * step:
        batches = (found.batch,)
    each = " and ".join(map(str, batches))
    found.notes.append(f"Packing chosen by images/s of all trials together, at batch size {each}.")

    def speed_of(way: Way) -> float | None:
        if way is not usual and left() < len(batches) * step:
            found.notes.append(
                f"The budget is too small to measure {packing.describe(way)}, or what comes after it."
            )
            return None
        if not found.measure(way, batches):
            found.notes.append(f"Out of memory with {packing.describe(way)}.")
            return None
        return found.speed(way, batches)

    return packing.fastest(ways, speed_of)


def _choose_layouts(found: Measurements, way: Way) -> None:
    """By the largest batch: with a small one a GPU waits for launches, which no layout changes."""
    batch = max(found.batch_sizes)
    for arm in found.arms:
        if not all(found.measure_one(arm, way, batch, channels_last=layout) for layout in (True, False)):
            continue
        last, first = (
            sum(s.images_per_second for s in found.measured(arm, way, batch, layout))
            for layout in (True, False)
        )
        if first > packing.GAIN * last:
            found.channels_last[arm] = not found.measure_one(arm, way, found.batch, channels_last=False)


def _choose_by_option(found: Measurements, way: Way, left: Callable[[], float], needed: float) -> None:
    """The layout at the other options of an arm's cardinality, while the budget pays for measuring both."""
    for arm in found.arms:
        axis, config = found.arms[arm].space.get(LAYOUT_AXIS), found.config(arm)
        if not isinstance(axis, Choice):
            continue
        for option in axis.options:
            if option == config[LAYOUT_AXIS] or left() < needed:
                continue
            setting = {**config, LAYOUT_AXIS: option, "batch_size": max(found.batch_sizes)}
            last, first = (found.images_per_second(arm, way, setting, layout) for layout in (True, False))
            if last and first:
                found.layouts[arm][str(option)] = first <= packing.GAIN * last
        if contiguous := [option for option, last in found.layouts[arm].items() if not last]:
            found.notes.append(f"{arm} trains contiguously at {LAYOUT_AXIS} {', '.join(contiguous)}.")
