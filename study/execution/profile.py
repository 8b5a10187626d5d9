"""Measures before the search: every arm's complexity, speed, memory and layout, and how trials are best packed.

Measuring has a share of the budget: whatever that share cannot pay for is skipped, and the plan says so. What no study can do
without is measured all the same (starting the processes, half a second of each arm in one way, its memory), and is more than
that share of a small budget: 19 to 90 core-seconds for the tiny arms on digits, from a quiet to a very busy machine, which is 4
to 25 % of 2 to 15 cpu-minutes, and 132 for the small arms at 224 pixels, 11 % of 20. The plan says so from 5 % on.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search_spaces import RECIPE, Arm, ArmError, Choice
from study.data.images import Images, Streamed
from study.execution import choices, cluster, packing, tasks
from study.execution.measurements import Measurements, Meters, call_all
from study.execution.meter import Meter
from study.execution.rehearsal import MEASURE_SECONDS
from study.protocol.budget import Budget
from study.protocol.question import Audit, DataCard, Machine, Packed
from study.training.trial import image_spec

SHARE = 0.03
"""Part of the budget that measuring may take, beyond what no study can do without."""
LEAST_SECONDS = 0.5
"""Seconds of measuring one arm in one way, at least, however small the budget."""
STEPS_FLOOR = 4
"""Steps per epoch below which a batch size is no option."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was measured, and how trials will be packed because of it."""

    audits: dict[str, Audit]
    machine: Machine
    cost: dict[str, float]
    """Resource-seconds that measuring each arm held."""
    batch_sizes: tuple[int, ...]
    packing: tuple[Packed, ...]
    notes: tuple[str, ...]


def survey(
    arms: Mapping[str, Arm],
    card: DataCard,
    budget: Budget,
    *,
    recipe: str = RECIPE,
    fraction: float | None = None,
    pool: Images | None = None,
    train_images: int | None = None,
    check: Callable[..., None] | None = None,
) -> Survey:
    """Measure all arms on one GPU, or on one node's cores, and choose the packing that is fastest overall.

    ``fraction`` of a GPU, or cores, per trial is the user's choice instead. A streamed ``pool`` is trained on, so that fetching its
    batches is measured too. ``train_images`` is what a run trains on; by default all of the card's. ``check`` is called with
    ``measure``, which tells an arm's speed after a second, and raises InputError if the budget cannot do. Raises ArmError if an arm
    cannot be trained at its default setting, InputError if an image of the pool cannot be used, or no trial can hold ``fraction``.
    """
    began = time.monotonic()
    have = cluster.hardware(budget)
    streamed = pool if isinstance(pool, Streamed) else None
    ways = packing.ways(have, fraction)
    held = 1.0 if have.resource == "gpu" else float(min(have.cores))

    def left() -> float:
        return SHARE * budget.seconds / held - (time.monotonic() - began)

    with tasks.side_by_side(Meter, max(way.trials for way in ways), have) as crew:
        meters = Meters(crew, streamed, recipe)
        call_all(meters.first(1), "check_cores", min(have.cores) if have.resource == "cpu" else 0)
        startup = time.monotonic() - began
        found = Measurements(
            meters, arms, image_spec(card), shared_batch_sizes(arms, train_images or card.train)
        )
        found.measure_seconds = min(MEASURE_SECONDS, max(LEAST_SECONDS, left() / (4 * len(arms))))
        if check is not None:
            check(measure=found.rough_speed)
        if have.resource == "gpu":
            choices.note_mps(found)
            fitting = choices.fitting_on_a_gpu(found, ways, None if fraction else packing.ways(have, 1.0))
        else:
            # Ray's store gets a copy of images that are in memory
            fitting = choices.fitting(found, ways, 0 if pool is None or streamed else pool.pixels.nbytes)
        way = choices.choose_way(found, fitting, left)
        audits = found.audits(way, startup)
    if fraction is not None:
        found.notes.append(f"The packing was given: --fraction {fraction:g}.")
    total = time.monotonic() - began
    rest = total - sum(found.seconds.values())
    found.notes.append(
        f"Measuring held {held * total:.0f} {have.resource}-seconds, {100 * held * total / budget.seconds:.1f} % of the budget."
    )
    return Survey(
        audits=audits,
        machine=way.machine,
        cost={arm: held * (seconds + rest / len(arms)) for arm, seconds in found.seconds.items()},
        batch_sizes=found.batch_sizes,
        packing=tuple(found.rows),
        notes=tuple(found.notes),
    )


def shared_batch_sizes(arms: Mapping[str, Arm], train: int) -> tuple[int, ...]:
    """The batch sizes that all arms share, or that one is pinned to, and that leave enough steps in an epoch; at least the smallest."""
    axes = [axis for arm in arms.values() if isinstance(axis := arm.space.get("batch_size"), Choice)]
    if len(axes) != len(arms):
        raise ArmError('a recipe needs the axis "batch_size", a Choice, which all arms share')
    options = [{int(o) for o in axis.options} for axis in axes]
    pinned = set[int]().union(*(own for own in options if len(own) == 1))
    free = [own for own in options if len(own) > 1]
    shared = sorted(pinned | (set.intersection(*free) if free else set()))
    return tuple(b for b in shared if b * STEPS_FLOOR <= train) or tuple(shared[:1])
