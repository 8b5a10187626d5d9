"""Measures one arm in this process: its complexity, its speed, its memory, and whether its step can be a CUDA graph.

The measuring runs are the real training loop on made-up images, or on those of a folder that is streamed.
"""

import contextlib
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import Arm, Config, ImageSpec
from study.data.images import Images
from study.protocol.records import Epoch, Trial
from study.training.evaluation import Split, eval_batch, predict
from study.training.loop import Training, build
from study.training.optimizers import rate_name
from study.training.step import EAGER_STEPS

MEASURE_SECONDS = 2.0
EVALUATION = 0.25
"""Seconds of measuring evaluation per second of measuring training."""
STEPS = 4096
"""Steps of the measured epoch, which never ends."""
POOL = 4096
"""Made-up images; the speed does not depend on their content."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one process measured."""

    images_per_second: float
    eval_images_per_second: float
    peak_bytes: int


class Rehearsal:
    """A training run made for measuring: built, and its first steps done."""

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
        """Train for about ``seconds``, one step at least, then evaluate."""
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
        """The clock, once the device has finished its work."""
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
    """Train the arm in this process for about ``seconds`` after a warm-up.

    On made-up images, unless there is a ``pool``, whose batches are fetched.
    """
    how = {"channels_last": channels_last, "graphed": graphed}
    return Rehearsal(arm, config, images, device, pool=pool, **how).speed(seconds)


def graph_fault(
    arm: Arm, config: Config, images: ImageSpec, device: torch.device, *, channels_last: bool
) -> str:
    """What is wrong with the arm's step as a graph: it gives other digits than step by step, as a net does that draws
    from Python's random numbers. Empty if nothing is; raises what a capture raises.
    """
    eager, graph = (
        _curve(arm, config, images, device, channels_last=channels_last, graphed=graphed)
        for graphed in (False, True)
    )
    return "" if eager == graph else "it gives other digits than step by step"


def complexity(arm: Arm, config: Config, images: ImageSpec) -> tuple[int, int]:
    """Trainable parameters, and multiply-accumulates of one forward pass of one image. Allocates no weights."""
    with torch.device("meta"):
        net = arm.build(config, images).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            net(torch.empty(1, images.channels, images.size, images.size))
    return sum(p.numel() for p in net.parameters() if p.requires_grad), counter.get_total_flops() // 2


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
    """A run of ``steps`` per epoch over made-up images, or images from all over the pool; and its data."""
    batch = int(config["batch_size"])
    there = POOL if pool is None else len(pool)
    shape = (there, images.channels, images.size, images.size)
    random = torch.Generator(device).manual_seed(0)
    # as many as are evaluated at once: on a GPU that is part of the measured memory
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
    calm: Config = {**config, rate_name(config): 1e-4}  # nothing to learn here, and nothing may diverge
    trial = Trial(
        id="probe", arm="", phase="probe", index=0, pair=0, config=calm, seed=0, fold=0, epochs=epochs
    )
    net = build(arm, calm, images, seed=0, device=device, channels_last=channels_last)
    run = Training(net, trial, data, classes=images.classes, warmup=arm.warmup, graphed=graphed)
    return run, data


def _curve(arm: Arm, config: Config, images: ImageSpec, device: torch.device, **how: bool) -> list[object]:
    """The measures of two short epochs."""
    run, _ = _run(arm, config, images, device, steps=2 * EAGER_STEPS, epochs=2, pool=None, **how)

    def digits(epoch: Epoch) -> object:
        return epoch.train_loss, epoch.train_accuracy, epoch.val_loss, epoch.val_accuracy

    return [digits(epoch) for epoch in run.epochs()]


def _forget_peak(device: torch.device) -> None:
    """Count peak memory from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # in some containers: then it is the whole process's peak
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
