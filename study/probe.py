"""Measures before the search: every arm's complexity, speed, memory and layout, and how trials are best packed.

The measuring runs are the real training loop on made-up images, or on those of a folder that is streamed, in as
many processes side by side as the packing has trials, since neighbours slow each other down. Measuring has a share of the budget:
what that does not pay for is not measured, and said.
"""

import contextlib
import functools
import itertools
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import ray
import ray.exceptions
import torch
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
from search_spaces import Arm, ArmError, Choice, Config, ImageSpec, default
from study import cluster, packing, quick
from study.images import DataError, Images, Streamed
from study.memory import all_memory, free_memory, out_of_memory
from study.packing import Way
from study.plan import Audit, Budget, DataCard, Machine, Packed, PlanError
from study.records import Epoch, Trial, first_line
from study.search import restrict
from study.train import Split, build, fit
from study.worker import device_of, image_spec

Result = TypeVar("Result")
SHARE = 0.03
"""Part of the budget that measuring may take, past what no study can do without."""
MEASURE_SECONDS = 2.0
LEAST_SECONDS = 0.5
"""Of measuring one arm in one way, at least, however small the budget."""
EPOCHS_MEASURED = 4
MOST_IMAGES = 2**16
KILLED = 0.05
"""Part of a machine's memory: when no more is free, Ray (2.60) kills a process."""
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


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one process measured."""

    images_per_second: float
    eval_images_per_second: float
    peak_bytes: int


class Meter:
    """One of the processes that measure side by side; ``cluster.side_by_side`` starts them."""

    def begin(self, pool: Images | None) -> None:
        """Answers when the process is up, torch included. ``pool`` is what to train on instead of made-up images."""
        self._pool = pool

    def complexity(self, name: str, config: Config, images: ImageSpec) -> tuple[int, int]:
        return _named(lambda arm: complexity(arm, config, images), name)

    def quick(self, name: str, images: ImageSpec) -> tuple[float, int]:
        """On the GPU, or one core."""
        device = torch.device("cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(1)
        return _named(lambda arm: quick.images_per_second(arm, images, device), name)

    def speed(
        self,
        name: str,
        config: Config,
        images: ImageSpec,
        machine: Machine,
        channels_last: bool,
        *,
        seconds: float = MEASURE_SECONDS,
    ) -> Speed | None:
        """None when the memory, or the part of the GPU's that is a trial's, is too small."""
        asked = functools.partial(
            speed, config=config, images=images, device=device_of(machine), channels_last=channels_last,
            seconds=seconds, pool=self._pool,
        )  # fmt: skip
        try:
            return _named(asked, name)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return None
        finally:  # here the error, and what it held, is gone
            torch.cuda.empty_cache()

    def largest_batch(
        self,
        name: str,
        config: Config,
        images: ImageSpec,
        way: Way,
        batch_sizes: tuple[int, ...],
        to_come: int,
    ) -> tuple[int, float]:
        """The largest batch that the way's trials can train with, and the share of the memory that one then takes.

        A GPU is filled to see it. Who fills a machine's memory is killed by Ray: there it is reckoned from the smallest
        batch, in proportion, which overstates it by up to a half: the weights do not grow; ``to_come`` is what the study itself will take.
        Raises PlanError when that many trials do not fit with any batch size, ArmError when one does not.
        """
        sizes = sorted(batch_sizes)
        asked = functools.partial(
            self.speed, name, images=images, machine=way.machine, channels_last=True, seconds=0
        )
        cpu = way.machine.resource == "cpu"
        found = (
            _largest_on_cores(asked, name, config, way, sizes, to_come)
            if cpu
            else _largest_on_a_gpu(asked, config, sizes)
        )
        if found is None:
            raise ArmError(f"arm {name} does not fit into the memory even with batches of {sizes[0]}")
        return found

    def mps(self) -> bool:
        """Whether NVIDIA's Multi-Process Service runs here, and kernels of several processes share the card."""
        pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))  # CUDA's default
        return (pipes / "control").exists()


def _largest_on_a_gpu(
    asked: Callable[[Config], Speed | None], config: Config, sizes: Sequence[int]
) -> tuple[int, float] | None:
    for size in reversed(sizes):
        found = asked({**config, "batch_size": size})
        if found is not None:
            free, total = torch.cuda.mem_get_info()
            context = total - free - torch.cuda.memory_reserved()
            return size, (found.peak_bytes + context) / total
    return None


def _largest_on_cores(
    asked: Callable[[Config], Speed | None],
    name: str,
    config: Config,
    way: Way,
    sizes: Sequence[int],
    to_come: int,
) -> tuple[int, float] | None:
    smallest = sizes[0]
    asked({**config, "batch_size": smallest})  # whatever is loaded once is there now
    device_of(way.machine)  # gives back what is left of it
    # the measuring processes stand for those of the study: what they have is taken already
    free = max(1, free_memory() - to_come - int(KILLED * all_memory()))
    resident = psutil.Process().memory_info().rss
    found = asked({**config, "batch_size": smallest})
    if found is None:
        return None
    each = max(0, found.peak_bytes - resident) / smallest
    shares = {size: each * size / free for size in sizes}
    size = packing.largest(way, shares)
    if size is None and way.trials > 1:
        raise PlanError(
            f"the memory has no room for {_told(way)}: of the {free / 2**30:.1f} GiB that are free, {name} takes "
            f"{each * smallest / 2**30:.1f} with batches of {smallest}. Give a larger --fraction, or none"
        )
    size = size or smallest  # one alone has just been trained
    return size, shares[size]


def survey(
    arms: Mapping[str, Arm],
    card: DataCard,
    budget: Budget,
    *,
    fraction: float | None = None,
    pool: Images | None = None,
    check: Callable[..., None] | None = None,
) -> Survey:
    """Measure all arms on one GPU, or on one node's cores, and choose the packing that is fastest in all.

    ``fraction`` of a GPU, or cores, per trial is the user's choice instead. A ``pool`` that is streamed is trained
    on, so that what its batches take is measured too. ``check`` is called with what tells an arm's speed after a second of
    measuring, ``measure``, and raises PlanError when the budget cannot do. Raises ArmError when an arm
    cannot be built and trained at its default setting, DataError when one of the pool's images cannot be used where
    the arms are measured, PlanError when no trial can hold ``fraction``.
    """
    began = time.monotonic()
    have = cluster.hardware(budget)
    ways = packing.ways(have, fraction)
    held = 1.0 if have.resource == "gpu" else float(min(have.cores))

    def left() -> float:
        return SHARE * budget.seconds / held - (time.monotonic() - began)

    with cluster.side_by_side(Meter, max(way.trials for way in ways), have) as meters:
        _all(meters, "begin", pool if isinstance(pool, Streamed) else None)
        startup = time.monotonic() - began
        rounds = _Rounds(meters, arms, image_spec(card), _batch_sizes(arms, card.train))
        rounds.measure_seconds = min(MEASURE_SECONDS, max(LEAST_SECONDS, left() / (4 * len(arms))))
        if check is not None:
            check(measure=rounds.quick)
        if have.resource == "gpu":
            rounds.note_mps()
        # Ray's store gets a copy of images that are in memory
        to_come = 0 if pool is None or isinstance(pool, Streamed) else pool.pixels.nbytes
        way = rounds.choose(rounds.fitting(ways, to_come), left)
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


class _Rounds:
    """The measurements, one arm and one way at a time; ``seconds`` is what each arm's have taken."""

    def __init__(
        self, meters: list[Any], arms: Mapping[str, Arm], images: ImageSpec, batch_sizes: tuple[int, ...]
    ) -> None:
        self.batch_sizes = batch_sizes
        self.seconds = dict.fromkeys(arms, 0.0)
        self.rows: list[Packed] = []
        self.notes: list[str] = []
        self.measure_seconds = MEASURE_SECONDS
        self._meters, self._arms, self._images = meters, arms, images
        self._channels_last = dict.fromkeys(arms, True)
        self._measured: dict[tuple[str, Way, int, bool], list[Speed]] = {}

    def quick(self, arm: str) -> tuple[float, int]:
        """``quick.images_per_second`` where the arms are measured."""
        found: tuple[float, int] = self._timed(arm, self._meters[:1], "quick", self._images)[0]
        return found

    def fitting(self, ways: Sequence[Way], to_come: int = 0) -> list[Way]:
        """The ways that hold all arms' largest peak, and the roomiest; batch sizes that this cannot hold are dropped."""
        roomiest, most = min(ways, key=lambda way: way.trials), max(self.batch_sizes)
        peak = 0.0
        for arm in self._arms:
            asked = (self._config(arm), self._images, roomiest, self.batch_sizes, to_come)
            ((batch, share),) = self._timed(arm, self._meters[:1], "largest_batch", *asked)
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

    def note_mps(self) -> None:
        runs = _all(self._meters[:1], "mps")[0]
        self.notes.append(f"CUDA MPS {'runs' if runs else 'does not run: trials on one GPU take turns'}.")

    def choose(self, ways: Sequence[Way], left: Callable[[], float]) -> Way:
        """The fastest way; ``left()`` seconds of measuring remain, the first way is measured whatever it takes."""
        usual, before = ways[0], left()
        if not self._measure(usual, (self._batch,)):
            raise ArmError(f"the arms do not fit into the memory that there is with {_told(usual)}")
        step = before - left()  # what one way at one batch size takes for all arms
        if left() > 3 * step:
            self._choose_layouts(usual)
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
                self.notes.append(f"The budget is too small to measure {_told(way)}, or what comes after it.")
                return None
            if not self._measure(way, batches):
                self.notes.append(f"Out of memory with {_told(way)}.")
                return None
            return self._speed(way, batches)

        return packing.fastest(ways, speed_of)

    def audits(self, way: Way, startup: float) -> dict[str, Audit]:
        """At the default setting, in the way and layout that were chosen; the mean over its processes."""
        found = {}
        for name in self._arms:
            asked = (self._config(name), self._images)
            ((params, macs),) = self._timed(name, self._meters[:1], "complexity", *asked)
            speeds = self._measured[name, way, self._batch, self._channels_last[name]]
            found[name] = Audit(
                params=params,
                macs=macs,
                images_per_second=statistics.mean(s.images_per_second for s in speeds),
                eval_images_per_second=statistics.mean(s.eval_images_per_second for s in speeds),
                peak_bytes=max(s.peak_bytes for s in speeds),
                startup_seconds=startup,
                channels_last=self._channels_last[name],
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
        asked = ({**self._config(arm), "batch_size": batch}, self._images, way.machine, channels_last)
        speeds = self._timed(
            arm, self._meters[: way.trials], "speed", *asked, seconds=self.measure_seconds
        )  # fmt: skip
        if not all(speeds):
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


def speed(
    arm: Arm,
    config: Config,
    images: ImageSpec,
    device: torch.device,
    *,
    channels_last: bool = True,
    seconds: float = MEASURE_SECONDS,
    pool: Images | None = None,
) -> Speed:
    """Train the arm in this process for about so many seconds of steps after a warm-up.

    On made-up images, unless there is a ``pool`` whose batches have to be fetched.
    """
    batch = int(config["batch_size"])
    _forget_peak(device)
    passes = functools.partial(_epochs, arm, config, images, device, channels_last=channels_last, pool=pool)
    *_, warm = passes(batch, epochs=2)
    step = max(warm.train_seconds, 1e-5)
    epochs = max(1, min(EPOCHS_MEASURED, int(seconds / (2 * step))))
    count = batch * max(2, min(int(seconds / epochs / step), MOST_IMAGES // batch))
    measured = passes(count, epochs=epochs)
    return Speed(
        images_per_second=count / statistics.median(e.train_seconds for e in measured),
        eval_images_per_second=count / statistics.median(e.eval_seconds for e in measured),
        peak_bytes=_peak_bytes(device),
    )


def complexity(arm: Arm, config: Config, images: ImageSpec) -> tuple[int, int]:
    """Trainable parameters, and multiply-accumulates of one forward pass of one image; allocates no weights."""
    with torch.device("meta"):
        net = arm.build(config, images).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            net(torch.empty(1, images.channels, images.size, images.size))
    return sum(p.numel() for p in net.parameters() if p.requires_grad), counter.get_total_flops() // 2


def _told(way: Way) -> str:
    slots, each = way.machine.slots, f"{way.machine.fraction:g} {way.machine.resource.upper()}"
    return f"{slots} trials of {each} each" if slots > 1 else f"1 trial of {each}"


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


def _named(function: Callable[[Arm], Result], name: str) -> Result:
    """``function(arm)``, with the arm's name on whatever its code raises; memory and images are no fault of the arm."""
    try:
        return function(search_spaces.load(name))
    except Exception as error:  # any fault of an arm becomes a sentence with its name
        if isinstance(error, ArmError | DataError) or out_of_memory(error):
            raise
        raise ArmError(
            f"arm {name} cannot be built and trained at its default setting: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from None


def _batch_sizes(arms: Mapping[str, Arm], train: int) -> tuple[int, ...]:
    """The batch sizes that all arms share and that leave enough steps in an epoch; at least the smallest."""
    axes = [axis for arm in arms.values() if isinstance(axis := arm.space.get("batch_size"), Choice)]
    if len(axes) != len(arms):
        raise ArmError("every arm needs the shared axes: space={**RECIPE, ...} from search_spaces._shared")
    shared = sorted(set.intersection(*({int(o) for o in axis.options} for axis in axes)))
    return tuple(b for b in shared if b * STEPS_FLOOR <= train) or tuple(shared[:1])


def _epochs(
    arm: Arm,
    config: Config,
    images: ImageSpec,
    device: torch.device,
    count: int,
    *,
    epochs: int,
    channels_last: bool,
    pool: Images | None,
) -> list[Epoch]:
    """Passes over ``count`` images, made up or from all over the pool, which are validated on too."""
    random = torch.Generator().manual_seed(0)
    shape = (count, images.channels, images.size, images.size)
    made = torch.randint(256, shape, dtype=torch.uint8, generator=random).to(device) if pool is None else pool
    there = count if pool is None else len(pool)
    rows = torch.linspace(0, there - 1, count, dtype=torch.float64).long().to(device)
    data = Split(
        images=made,
        labels=torch.arange(there, device=device) % images.classes,
        train=rows,
        val=rows,
    )
    calm: Config = {**config, "lr": 1e-4}  # nothing to learn here, and nothing that could diverge
    trial = Trial(
        id="probe", arm="", phase="probe", index=0, pair=0, config=calm, seed=0, fold=0, epochs=epochs
    )
    net = build(arm, calm, images, seed=0, device=device, channels_last=channels_last)
    return list(fit(net, trial, data, classes=images.classes))


def _forget_peak(device: torch.device) -> None:
    """Peak memory counts from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # not every container allows it: then the peak is the process's
            Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
