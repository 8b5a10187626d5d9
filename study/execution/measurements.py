"""The measurements of all arms: one arm and one way at a time, in the batch sizes and layouts chosen so far."""

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from study.execution import cluster, packing, tasks  # first: they set what Ray reads when it is imported

# isort: split
import ray
import ray.exceptions

from search_spaces import Arm, ArmError, Config, ImageSpec, default
from study.data.images import Images
from study.execution.packing import Way
from study.execution.rehearsal import MEASURE_SECONDS, Speed
from study.protocol.errors import InputError, StudyError
from study.protocol.question import Audit, Packed
from study.scheduling.spaces import restrict


class Meters:
    """The measuring processes; a new one has its images and is up when it is handed out."""

    def __init__(self, crew: tasks.Crew, pool: Images | None, recipe: str) -> None:
        self._crew, self._pool, self._recipe, self._begun = crew, pool, recipe, 0

    def first(self, count: int) -> list[Any]:
        actors = self._crew.first(count)
        if count > self._begun:
            call_all(actors[self._begun :], "begin", self._pool, self._recipe)
            self._begun = count
        return actors

    @contextlib.contextmanager
    def apart(self) -> Iterator[Any]:
        """An extra one, for what may leave a process useless."""
        with self._crew.apart() as one:
            call_all([one], "begin", self._pool, self._recipe)
            yield one


class Measurements:
    """What was measured, and what was chosen because of it, up to now."""

    def __init__(
        self, meters: Meters, arms: Mapping[str, Arm], images: ImageSpec, batch_sizes: tuple[int, ...]
    ) -> None:
        self.meters, self.arms, self.images = meters, arms, images
        self.batch_sizes = batch_sizes
        self.measure_seconds = MEASURE_SECONDS
        self.seconds = dict.fromkeys(arms, 0.0)
        """What measuring each arm took."""
        self.rows: list[Packed] = []
        self.notes: list[str] = []
        self.channels_last = dict.fromkeys(arms, True)
        self.layouts: dict[str, dict[str, bool]] = {arm: {} for arm in arms}
        """As ``Audit.layouts``."""
        self.graphed = dict.fromkeys(arms, False)
        self._found: dict[tuple[str, Way, int, bool], list[Speed]] = {}

    def config(self, arm: str) -> Config:
        """The arm's default setting, with a batch size that fits."""
        return default(restrict(self.arms[arm].space, self.batch_sizes))

    @property
    def batch(self) -> int:
        """The default batch size; the axis is the same for all arms."""
        return int(self.config(next(iter(self.arms)))["batch_size"])

    def timed(self, arm: str, meters: list[Any], method: str, *arguments: Any) -> list[Any]:
        """The method's results for the arm in all these processes; the time counts as the arm's."""
        began = time.monotonic()
        try:
            return call_all(meters, method, arm, *arguments)
        finally:
            self.seconds[arm] += time.monotonic() - began

    def once(self, arm: str, method: str, *arguments: Any) -> Any:
        """As ``timed``, in one process."""
        return self.timed(arm, self.meters.first(1), method, *arguments)[0]

    def rough_speed(self, arm: str) -> tuple[float, int]:
        """``feasibility.images_per_second`` where the arms are measured."""
        found: tuple[float, int] = self.once(arm, "rough_speed", self.images)
        return found

    def measure(self, way: Way, batches: tuple[int, ...]) -> bool:
        """Measure all arms in their layouts; False if one ran out of memory."""
        return all(
            self.measure_one(arm, way, batch, channels_last=self.channels_last[arm])
            for arm, batch in itertools.product(self.arms, batches)
        )

    def measure_one(self, arm: str, way: Way, batch: int, *, channels_last: bool) -> bool:
        """Measure unless it was measured before; False if the memory is too small."""
        if (arm, way, batch, channels_last) in self._found:
            return True
        speeds = self._speeds(arm, way, {**self.config(arm), "batch_size": batch}, channels_last)
        if speeds is None:
            return False
        self._found[arm, way, batch, channels_last] = speeds
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

    def measured(self, arm: str, way: Way, batch: int, channels_last: bool) -> list[Speed]:
        """One speed per process. Raises KeyError if it was not measured."""
        return self._found[arm, way, batch, channels_last]

    def images_per_second(self, arm: str, way: Way, config: Config, channels_last: bool) -> float:
        """Of all the way's trials together; 0 if the memory is too small."""
        speeds = self._speeds(arm, way, config, channels_last)
        return sum(s.images_per_second for s in speeds) if speeds else 0.0

    def _speeds(self, arm: str, way: Way, config: Config, channels_last: bool) -> list[Speed] | None:
        meters = self.meters.first(way.trials)
        asked = (config, self.images, way.machine, channels_last, self.graphed[arm])
        if not all(self.timed(arm, meters, "prepare", *asked)):
            return None
        speeds = self.timed(arm, meters, "speed", self.measure_seconds)  # all of them in the same seconds
        return speeds if all(speeds) else None

    def speed(self, way: Way, batches: tuple[int, ...]) -> float:
        """``packing.speed`` of the way at these batch sizes, every arm in its layout."""
        return packing.speed(
            [
                row
                for row in self.rows
                if row.fraction == way.machine.fraction
                and row.batch_size in batches
                and row.channels_last == self.channels_last[row.arm]
            ]
        )

    def audits(self, way: Way, startup: float) -> dict[str, Audit]:
        """At the default setting, in the chosen way and layout; the mean over its processes."""
        found = {}
        for name in self.arms:
            params, macs = self.once(name, "complexity", self.config(name), self.images)
            speeds = self.measured(name, way, self.batch, self.channels_last[name])
            found[name] = Audit(
                params=params,
                macs=macs,
                images_per_second=statistics.mean(s.images_per_second for s in speeds),
                eval_images_per_second=statistics.mean(s.eval_images_per_second for s in speeds),
                peak_bytes=max(s.peak_bytes for s in speeds),
                startup_seconds=startup,
                channels_last=self.channels_last[name],
                layouts=self.layouts[name],
                graphed=self.graphed[name],
            )
        return found


def call_all(meters: Sequence[Any], method: str, *arguments: Any) -> list[Any]:
    """The method's results in all these processes, called at the same time. Errors of an arm name it."""
    try:
        return list(ray.get([getattr(meter, method).remote(*arguments) for meter in meters]))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, ArmError | InputError) else error) from None
    except ray.exceptions.RayError as error:  # killed, as by the system for want of memory
        raise StudyError(f"a process that measured the arms is gone: {cluster.last_line(error)}") from error
