"""What one process measures of an arm: its size, its speed, its memory, and whether its step can be a CUDA graph.

The measuring runs are the real training loop on made-up images, or on those of a folder that is streamed. Processes
that measure side by side, since neighbours slow each other down, first get ready and then train during the same seconds.
"""

import contextlib
import functools
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
from search_spaces import Arm, ArmError, Config, ImageSpec
from study.data.images import DataError, Images
from study.execution import packing, quick
from study.execution.packing import Way
from study.execution.trainable import described, device_of
from study.memory import all_memory, free_memory, out_of_memory
from study.protocol.budget import PlanError
from study.protocol.question import Machine
from study.protocol.records import Epoch, Trial
from study.protocol.text import first_line
from study.training.loop import Split, Training, build, eval_batch, predict
from study.training.step import EAGER_STEPS

Result = TypeVar("Result")
MEASURE_SECONDS = 2.0
EVALUATION = 0.25
"""Of the seconds that are trained: evaluation is measured so long."""
STEPS = 4096
"""Of the epoch that is measured, which never ends."""
POOL = 4096
"""Made-up images; the speed does not depend on what they show."""
KILLED = 0.05
"""Part of a machine's memory: when no more is free, Ray (2.60) kills a process."""


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
        self._rehearsal: Rehearsal | None = None

    def complexity(self, name: str, config: Config, images: ImageSpec) -> tuple[int, int]:
        return named(lambda arm: complexity(arm, config, images), name)

    def quick(self, name: str, images: ImageSpec) -> tuple[float, int]:
        """On the GPU, or one core."""
        # Ray hides the GPU from a process that holds none
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(1)
        return named(lambda arm: quick.images_per_second(arm, images, device), name)

    def prepare(
        self,
        name: str,
        config: Config,
        images: ImageSpec,
        machine: Machine,
        channels_last: bool,
        graphed: bool = False,
    ) -> bool:
        """Build the arm and train its first steps; False when the memory, or the part that is a trial's, is too small."""
        self._rehearsal = None  # its memory is free before the next is built
        make = functools.partial(
            Rehearsal, config=config, images=images, device=device_of(machine), channels_last=channels_last,
            graphed=graphed, pool=self._pool,
        )  # fmt: skip

        def ready() -> bool:
            self._rehearsal = named(make, name)
            return True

        return self._if_it_fits(ready) or False

    def speed(self, name: str, seconds: float = MEASURE_SECONDS) -> Speed | None:
        """Train what is prepared for about so many seconds; None when the memory is too small after all."""
        rehearsal, self._rehearsal = self._rehearsal, None
        assert rehearsal is not None
        return self._if_it_fits(lambda: named(lambda _: rehearsal.speed(seconds), name))

    def _if_it_fits(self, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except Exception as error:
            if not out_of_memory(error):
                raise
            return None
        finally:  # here the error, and what it held, is gone
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def graph_fault(
        self, name: str, config: Config, images: ImageSpec, machine: Machine, channels_last: bool
    ) -> str:
        """Why the arm's step must not be replayed as a graph; empty when it may. After a fault this process is useless."""
        device = device_of(machine)
        try:
            return named(
                lambda arm: graph_fault(arm, config, images, device, channels_last=channels_last), name
            )
        except Exception as error:  # noqa: BLE001  # whatever a capture raises: the arm trains without
            return f"{type(error).__name__}: {first_line(error)}"

    def gpu(self) -> tuple[str, int]:
        """The GPU as its driver describes it, and the bytes that CUDA and its libraries take of it in this process.

        To be asked while no other process of ours is on it, after something was trained.
        """
        device = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return described(device), total - free - torch.cuda.memory_reserved()

    def largest_batch(
        self,
        name: str,
        config: Config,
        images: ImageSpec,
        way: Way,
        batch_sizes: tuple[int, ...],
        to_come: int,
        graphed: bool,
    ) -> tuple[int, float]:
        """The largest batch that the way's trials can train with, and the share of the memory that one then takes.

        On a GPU, try until the memory runs out. On a CPU, Ray would kill the process, so extrapolate from the smallest batch, in
        proportion, which overstates it by up to a half: the weights do not grow; ``to_come`` is what the study itself will take.
        Raises PlanError when that many trials do not fit with any batch size, ArmError when one does not.
        """
        sizes = sorted(batch_sizes)

        def asked(size: int) -> Speed | None:
            setting: Config = {**config, "batch_size": size}
            fits = self.prepare(name, setting, images, way.machine, True, graphed)
            return self.speed(name, 0.0) if fits else None

        cpu = way.machine.resource == "cpu"
        found = (
            _largest_on_cores(asked, name, way, sizes, to_come) if cpu else _largest_on_a_gpu(asked, sizes)
        )
        if found is None:
            raise ArmError(f"arm {name} does not fit into the memory even with batches of {sizes[0]}")
        return found

    def mps(self) -> bool:
        """Whether NVIDIA's Multi-Process Service runs here, and kernels of several processes share the card."""
        pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))  # CUDA's default
        return (pipes / "control").exists()


class Rehearsal:
    """A training run that is only measured: built, and its first steps done."""

    def __init__(
        self,
        arm: Arm,
        config: Config,
        images: ImageSpec,
        device: torch.device,
        *,
        channels_last: bool = True,
        graphed: bool = False,
        pool: Images | None = None,
    ) -> None:
        _forget_peak(device)
        self._device, self._batch = device, int(config["batch_size"])
        self._run, self._data = _run(
            arm, config, images, device, steps=STEPS, epochs=1, channels_last=channels_last, graphed=graphed,
            pool=pool,
        )  # fmt: skip
        for _ in range(EAGER_STEPS + 2 if graphed else 1):
            self._run.advance(0.0)

    def speed(self, seconds: float) -> Speed:
        """Train for about so many seconds, one step at least, then evaluate."""
        before, began = self._run.steps_done, self._now()
        self._run.advance(seconds)
        trained = (self._run.steps_done - before) * self._batch / (self._now() - began)
        count, began = 0, self._now()
        while not count or self._now() - began < EVALUATION * seconds:
            count += len(predict(self._run.net, self._data.images, self._data.val))
        return Speed(
            images_per_second=trained,
            eval_images_per_second=count / (self._now() - began),
            peak_bytes=_peak_bytes(self._device),
        )

    def _now(self) -> float:
        """The clock, once the device has done what was asked of it."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def speed(
    arm: Arm,
    config: Config,
    images: ImageSpec,
    device: torch.device,
    *,
    channels_last: bool = True,
    graphed: bool = False,
    seconds: float = MEASURE_SECONDS,
    pool: Images | None = None,
) -> Speed:
    """Train the arm in this process for about so many seconds after a warm-up.

    On made-up images, unless there is a ``pool`` whose batches have to be fetched.
    """
    how = {"channels_last": channels_last, "graphed": graphed}
    return Rehearsal(arm, config, images, device, pool=pool, **how).speed(seconds)


def graph_fault(
    arm: Arm, config: Config, images: ImageSpec, device: torch.device, *, channels_last: bool
) -> str:
    """What is wrong with the arm's step as a graph: that it gives other digits than step by step, as a net does that
    draws from Python's random numbers. Empty when nothing is; raises what a capture raises.
    """
    eager, graph = (
        _curve(arm, config, images, device, channels_last=channels_last, graphed=graphed)
        for graphed in (False, True)
    )
    return "" if eager == graph else "it gives other digits than step by step"


def complexity(arm: Arm, config: Config, images: ImageSpec) -> tuple[int, int]:
    """Trainable parameters, and multiply-accumulates of one forward pass of one image; allocates no weights."""
    with torch.device("meta"):
        net = arm.build(config, images).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            net(torch.empty(1, images.channels, images.size, images.size))
    return sum(p.numel() for p in net.parameters() if p.requires_grad), counter.get_total_flops() // 2


def named(function: Callable[[Arm], Result], name: str) -> Result:
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


def _largest_on_a_gpu(asked: Callable[[int], Speed | None], sizes: Sequence[int]) -> tuple[int, float] | None:
    for size in reversed(sizes):
        found = asked(size)
        if found is not None:
            free, total = torch.cuda.mem_get_info()
            context = total - free - torch.cuda.memory_reserved()
            return size, (found.peak_bytes + context) / total
    return None


def _largest_on_cores(
    asked: Callable[[int], Speed | None], name: str, way: Way, sizes: Sequence[int], to_come: int
) -> tuple[int, float] | None:
    smallest = sizes[0]
    asked(smallest)  # whatever is loaded once is there now
    device_of(way.machine)  # gives back what is left of it
    # the measuring processes stand for those of the study: what they have is taken already
    free = max(1, free_memory() - to_come - int(KILLED * all_memory()))
    resident = psutil.Process().memory_info().rss
    found = asked(smallest)
    if found is None:
        return None
    each = max(0, found.peak_bytes - resident) / smallest
    shares = {size: each * size / free for size in sizes}
    size = packing.largest(way, shares)
    if size is None and way.trials > 1:
        raise PlanError(
            f"the memory has no room for {packing.told(way)}: of the {free / 2**30:.1f} GiB that are free, {name} takes "
            f"{each * smallest / 2**30:.1f} with batches of {smallest}. Give a larger --fraction, or none"
        )
    size = size or smallest  # one alone has just been trained
    return size, shares[size]


def _run(
    arm: Arm,
    config: Config,
    images: ImageSpec,
    device: torch.device,
    *,
    steps: int,
    epochs: int,
    channels_last: bool,
    graphed: bool,
    pool: Images | None,
) -> tuple[Training, Split]:
    """A run of so many steps per epoch over images that are made up, or from all over the pool, and its data."""
    batch = int(config["batch_size"])
    there = POOL if pool is None else len(pool)
    shape = (there, images.channels, images.size, images.size)
    random = torch.Generator(device).manual_seed(0)
    # as many as are evaluated at once: on a GPU that is part of the memory that is measured
    held_out = eval_batch(shape, device) if device.type == "cuda" else min(batch, there)
    rows = torch.arange(steps * batch, device=device) * (there // 2 + 1) % there
    data = Split(
        images=torch.randint(256, shape, dtype=torch.uint8, device=device, generator=random)
        if pool is None
        else pool,
        labels=torch.arange(there, device=device) % images.classes,
        train=rows,
        val=torch.arange(held_out, device=device) % there,
    )
    calm: Config = {**config, "lr": 1e-4}  # nothing to learn here, and nothing that could diverge
    trial = Trial(
        id="probe", arm="", phase="probe", index=0, pair=0, config=calm, seed=0, fold=0, epochs=epochs
    )
    net = build(arm, calm, images, seed=0, device=device, channels_last=channels_last)
    return Training(net, trial, data, classes=images.classes, graphed=graphed), data


def _curve(arm: Arm, config: Config, images: ImageSpec, device: torch.device, **how: bool) -> list[object]:
    """The measures of two short epochs."""
    run, _ = _run(arm, config, images, device, steps=2 * EAGER_STEPS, epochs=2, pool=None, **how)

    def digits(epoch: Epoch) -> object:
        return epoch.train_loss, epoch.train_accuracy, epoch.val_loss, epoch.val_accuracy

    return [digits(epoch) for epoch in run.epochs()]


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
