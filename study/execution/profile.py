"""Measures before the search: every arm's complexity, speed, memory and layout, and how trials are best packed.

``meter`` measures, in as many processes side by side as the packing has trials. Measuring has a share of the budget:
what that does not pay for is not measured, and the plan says so.
"""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.exceptions

from search_spaces import Arm, ArmError, Choice, Config, ImageSpec, default
from study.data.images import DataError, Images, Streamed
from study.execution import cluster, packing
from study.execution.meter import MEASURE_SECONDS, Meter, Speed
from study.execution.packing import Way
from study.execution.trainable import image_spec
from study.protocol.budget import Budget, PlanError
from study.protocol.question import LAYOUT_AXIS, Audit, DataCard, Machine, Packed
from study.scheduling.spaces import restrict

SHARE = 0.03
"""Part of the budget that measuring may take, past what no study can do without."""
LEAST_SECONDS = 0.5
"""Of measuring one arm in one way, at least, however small the budget."""
STEPS_FLOOR = 4
"""A batch size that leaves fewer steps per epoch is no option."""


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
    fraction: float | None = None,
    pool: Images | None = None,
    train_images: int | None = None,
    check: Callable[..., None] | None = None,
) -> Survey:
    """Measure all arms on one GPU, or on one node's cores, and choose the packing that is fastest in all.

    ``train_images`` is how many a run trains on; by default all of the card's.

    ``fraction`` of a GPU, or cores, per trial is the user's choice instead. A ``pool`` that is streamed is trained
    on, so that what its batches take is measured too. ``check`` is called with what tells an arm's speed after a second of
    measuring, ``measure``, and raises PlanError when the budget cannot do. Raises ArmError when an arm
    cannot be built and trained at its default setting, DataError when one of the pool's images cannot be used where
    the arms are measured, PlanError when no trial can hold ``fraction``.
    """
    began = time.monotonic()
    have = cluster.hardware(budget)
    pool_streamed = pool if isinstance(pool, Streamed) else None
    ways = packing.ways(have, fraction)
    held = 1.0 if have.resource == "gpu" else float(min(have.cores))

    def left() -> float:
        return SHARE * budget.seconds / held - (time.monotonic() - began)

    with cluster.side_by_side(Meter, max(way.trials for way in ways), have) as crew:
        meters = _Meters(crew, pool_streamed)
        meters.first(1)
        startup = time.monotonic() - began
        rounds = _Rounds(meters, arms, image_spec(card), _batch_sizes(arms, train_images or card.train))
        rounds.measure_seconds = min(MEASURE_SECONDS, max(LEAST_SECONDS, left() / (4 * len(arms))))
        if check is not None:
            check(measure=rounds.quick)
        if have.resource == "gpu":
            rounds.note_mps()
            fitting = rounds.fitting_on_a_gpu(ways, alone=None if fraction else packing.ways(have, 1.0))
        else:
            # Ray's store gets a copy of images that are in memory
            fitting = rounds.fitting(ways, 0 if pool is None or pool_streamed else pool.pixels.nbytes)
        way = rounds.choose(fitting, left)
        audits = rounds.audits(way, startup)
    if fraction is not None:
        rounds.notes.append(f"The packing was given: --fraction {fraction:g}.")
    total = time.monotonic() - began
    rest = total - sum(rounds.seconds.values())
    rounds.notes.append(
        f"Measuring held {held * total:.0f} {have.resource}-seconds, {100 * held * total / budget.seconds:.1f} % of the budget."
    )
    return Survey(
        audits=audits,
        machine=way.machine,
        cost={arm: held * (seconds + rest / len(arms)) for arm, seconds in rounds.seconds.items()},
        batch_sizes=rounds.batch_sizes,
        packing=tuple(rounds.rows),
        notes=tuple(rounds.notes),
    )


class _Meters:
    """The measuring processes; one that is new is told what to train on, and is up when it is handed out."""

    def __init__(self, crew: cluster.Crew, pool: Images | None) -> None:
        self._crew, self._pool, self._begun = crew, pool, 0

    def first(self, count: int) -> list[Any]:
        actors = self._crew.first(count)
        if count > self._begun:
            _all(actors[self._begun :], "begin", self._pool)
            self._begun = count
        return actors

    @contextlib.contextmanager
    def apart(self) -> Iterator[Any]:
        """One of its own, for what may leave a process useless."""
        with self._crew.apart() as one:
            _all([one], "begin", self._pool)
            yield one


class _Rounds:
    """The measurements, one arm and one way at a time; ``seconds`` is what each arm's have taken."""

    def __init__(
        self, meters: _Meters, arms: Mapping[str, Arm], images: ImageSpec, batch_sizes: tuple[int, ...]
    ) -> None:
        self.batch_sizes = batch_sizes
        self.seconds = dict.fromkeys(arms, 0.0)
        self.rows: list[Packed] = []
        self.notes: list[str] = []
        self.measure_seconds = MEASURE_SECONDS
        self._meters, self._arms, self._images = meters, arms, images
        self._channels_last = dict.fromkeys(arms, True)
        self._layouts: dict[str, dict[str, bool]] = {arm: {} for arm in arms}
        self._graphed = dict.fromkeys(arms, False)
        self._measured: dict[tuple[str, Way, int, bool], list[Speed]] = {}

    def quick(self, arm: str) -> tuple[float, int]:
        """``quick.images_per_second`` where the arms are measured."""
        found: tuple[float, int] = self._timed(arm, self._meters.first(1), "quick", self._images)[0]
        return found

    def fitting(self, ways: Sequence[Way], to_come: int = 0) -> list[Way]:
        """The ways that hold all arms' largest peak, and the roomiest; batch sizes that this cannot hold are dropped."""
        roomiest, most = min(ways, key=lambda way: way.trials), max(self.batch_sizes)
        peak = 0.0
        for arm in self._arms:
            asked = (
                self._config(arm), self._images, roomiest, self.batch_sizes, to_come, self._graphed[arm]
            )  # fmt: skip
            ((batch, share),) = self._timed(arm, self._meters.first(1), "largest_batch", *asked)
            self.batch_sizes = tuple(b for b in self.batch_sizes if b <= batch)
            peak = max(peak, share)
        if max(self.batch_sizes) < most:
            self.notes.append(f"Batches of more than {max(self.batch_sizes)} do not fit into the memory.")
        kept = [way for way in ways if way is roomiest or packing.fits(way, peak)]
        if len(kept) < len(ways):
            first = min(way.trials for way in ways if way not in kept)
            where = "on one GPU" if roomiest.machine.resource == "gpu" else "into the memory that is free"
            self.notes.append(f"{first} trials do not fit {where}: one takes up to {100 * peak:.0f} % of it.")
        return kept

    def fitting_on_a_gpu(self, ways: Sequence[Way], alone: Sequence[Way] | None) -> list[Way]:
        """As ``fitting``, the arms' graphs tried before; where not even two trials fit, one has the GPU to itself."""
        sizes = self.batch_sizes
        try:
            self.try_graphs(ways[0])
            return self.described(self.fitting(ways))
        except ArmError:
            if alone is None:
                raise
            self.batch_sizes, self.notes = sizes, [*self.notes, "Two trials do not fit on one GPU."]
            self.try_graphs(alone[0])
            return self.described(self.fitting(alone))

    def try_graphs(self, way: Way) -> None:
        """Capture every arm's step in a process of its own: one that failed leaves its process useless."""
        untried = list(self._arms)
        while untried:
            with self._meters.apart() as one:
                fault = ""
                while untried and not fault:
                    arm = untried.pop(0)
                    asked = (self._config(arm), self._images, way.machine, self._channels_last[arm])
                    (fault,) = self._timed(arm, [one], "graph_fault", *asked)
                    self._graphed[arm] = not fault
                    if fault:
                        self.notes.append(
                            f"{arm} trains step by step, its step cannot be a CUDA graph: {fault}."
                        )

    def described(self, ways: Sequence[Way]) -> list[Way]:
        """The ways with what the GPU is, and what CUDA takes of it; asked of the only process that is on it."""
        ((gpu, context),) = _all(self._meters.first(1), "gpu")
        told = {"gpu": gpu, "context_bytes": context}
        return [replace(way, machine=replace(way.machine, **told)) for way in ways]

    def note_mps(self) -> None:
        runs = _all(self._meters.first(1), "mps")[0]
        self.notes.append(f"CUDA MPS {'runs' if runs else 'does not run: trials on one GPU take turns'}.")

    def choose(self, ways: Sequence[Way], left: Callable[[], float]) -> Way:
        """The fastest way; ``left()`` seconds of measuring remain, the first way is measured whatever it takes."""
        usual, before = ways[0], left()
        if not self._measure(usual, (self._batch,)):
            raise ArmError(f"the arms do not fit into the memory that there is with {packing.told(usual)}")
        step = before - left()  # what one way at one batch size takes for all arms
        if left() > 3 * step:
            self._choose_layouts(usual)
            self._choose_by_option(usual, left, 2 * step / len(self._arms))
        else:
            self.notes.append("Layouts were not compared, the budget is small: all train in channels_last.")
        if len(ways) == 1:
            return usual
        batches = tuple(sorted({self._batch, max(self.batch_sizes)}))
        if left() < 2 * len(batches) * step:
            batches = (self._batch,)
        each = " and ".join(map(str, batches))
        self.notes.append(f"Packing chosen by images/s of all trials together, at batch size {each}.")

        def speed_of(way: Way) -> float | None:
            if way is not usual and left() < len(batches) * step:
                self.notes.append(
                    f"The budget is too small to measure {packing.told(way)}, or what comes after it."
                )
                return None
            if not self._measure(way, batches):
                self.notes.append(f"Out of memory with {packing.told(way)}.")
                return None
            return self._speed(way, batches)

        return packing.fastest(ways, speed_of)

    def audits(self, way: Way, startup: float) -> dict[str, Audit]:
        """At the default setting, in the way and layout that were chosen; the mean over its processes."""
        found = {}
        for name in self._arms:
            asked = (self._config(name), self._images)
            ((params, macs),) = self._timed(name, self._meters.first(1), "complexity", *asked)
            speeds = self._measured[name, way, self._batch, self._channels_last[name]]
            found[name] = Audit(
                params=params,
                macs=macs,
                images_per_second=statistics.mean(s.images_per_second for s in speeds),
                eval_images_per_second=statistics.mean(s.eval_images_per_second for s in speeds),
                peak_bytes=max(s.peak_bytes for s in speeds),
                startup_seconds=startup,
                channels_last=self._channels_last[name],
                layouts=self._layouts[name],
                graphed=self._graphed[name],
            )
        return found

    def _choose_layouts(self, way: Way) -> None:
        """By the largest batch: with a small one a GPU waits for launches, which no layout changes."""
        batch = max(self.batch_sizes)
        for arm in self._arms:
            if not all(self._measure_one(arm, way, batch, channels_last=layout) for layout in (True, False)):
                continue
            last, first = (
                sum(s.images_per_second for s in self._measured[arm, way, batch, layout])
                for layout in (True, False)
            )
            if first > packing.GAIN * last:
                self._channels_last[arm] = not self._measure_one(arm, way, self._batch, channels_last=False)

    def _choose_by_option(self, way: Way, left: Callable[[], float], needed: float) -> None:
        """The layout at the other options of an arm's cardinality, while the budget pays for measuring both."""
        for arm in self._arms:
            axis, config = self._arms[arm].space.get(LAYOUT_AXIS), self._config(arm)
            if not isinstance(axis, Choice):
                continue
            for option in axis.options:
                if option == config[LAYOUT_AXIS] or left() < needed:
                    continue
                setting = {**config, LAYOUT_AXIS: option, "batch_size": max(self.batch_sizes)}
                last, first = (self._images_per_second(arm, way, setting, layout) for layout in (True, False))
                if last and first:
                    self._layouts[arm][str(option)] = first <= packing.GAIN * last
            if contiguous := [option for option, last in self._layouts[arm].items() if not last]:
                self.notes.append(f"{arm} trains contiguously at {LAYOUT_AXIS} {', '.join(contiguous)}.")

    def _images_per_second(self, arm: str, way: Way, config: Config, channels_last: bool) -> float:
        """Of all the way's trials together; 0 when the memory is too small."""
        speeds = self._speeds(arm, way, config, channels_last)
        return sum(s.images_per_second for s in speeds) if speeds else 0.0

    def _speeds(self, arm: str, way: Way, config: Config, channels_last: bool) -> list[Speed] | None:
        meters = self._meters.first(way.trials)
        asked = (config, self._images, way.machine, channels_last, self._graphed[arm])
        if not all(self._timed(arm, meters, "prepare", *asked)):
            return None
        speeds = self._timed(arm, meters, "speed", self.measure_seconds)  # all of them in the same seconds
        return speeds if all(speeds) else None

    def _speed(self, way: Way, batches: tuple[int, ...]) -> float:
        return packing.speed(
            [
                row
                for row in self.rows
                if row.fraction == way.machine.fraction
                and row.batch_size in batches
                and row.channels_last == self._channels_last[row.arm]
            ]
        )

    def _measure(self, way: Way, batches: tuple[int, ...]) -> bool:
        """False when an arm ran out of memory."""
        return all(
            self._measure_one(arm, way, batch, channels_last=self._channels_last[arm])
            for arm, batch in itertools.product(self._arms, batches)
        )

    def _measure_one(self, arm: str, way: Way, batch: int, *, channels_last: bool) -> bool:
        if (arm, way, batch, channels_last) in self._measured:
            return True
        speeds = self._speeds(arm, way, {**self._config(arm), "batch_size": batch}, channels_last)
        if speeds is None:
            return False
        self._measured[arm, way, batch, channels_last] = speeds
        self.rows.append(
            Packed(
                arm=arm,
                trials=way.trials,
                fraction=way.machine.fraction,
                threads=way.machine.threads,
                batch_size=batch,
                channels_last=channels_last,
                images_per_second=sum(s.images_per_second for s in speeds),
                peak_bytes=max(s.peak_bytes for s in speeds),
            )
        )
        return True

    def _timed(self, arm: str, meters: list[Any], method: str, *arguments: Any, **named: Any) -> list[Any]:
        began = time.monotonic()
        try:
            return _all(meters, method, arm, *arguments, **named)
        finally:
            self.seconds[arm] += time.monotonic() - began

    def _config(self, arm: str) -> Config:
        return default(restrict(self._arms[arm].space, self.batch_sizes))

    @property
    def _batch(self) -> int:
        """The default batch size; the axis is the same for all arms."""
        return int(self._config(next(iter(self._arms)))["batch_size"])


def _all(meters: Sequence[Any], method: str, *arguments: Any, **named: Any) -> list[Any]:
    """The method's results in all these processes, called at the same time; its errors name the arm."""
    try:
        return list(ray.get([getattr(meter, method).remote(*arguments, **named) for meter in meters]))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, ArmError | DataError | PlanError) else error) from None
    except ray.exceptions.RayError as error:  # killed, by the system for want of memory for example
        raise cluster.ClusterError(
            f"a process that measured the arms is gone: {cluster.last_line(error)}"
        ) from error


def _batch_sizes(arms: Mapping[str, Arm], train: int) -> tuple[int, ...]:
    """The batch sizes that all arms share and that leave enough steps in an epoch; at least the smallest."""
    axes = [axis for arm in arms.values() if isinstance(axis := arm.space.get("batch_size"), Choice)]
    if len(axes) != len(arms):
        raise ArmError("every arm needs the shared axes: space={**RECIPE, ...} from search_spaces._shared")
    shared = sorted(set.intersection(*({int(o) for o in axis.options} for axis in axes)))
    return tuple(b for b in shared if b * STEPS_FLOOR <= train) or tuple(shared[:1])
