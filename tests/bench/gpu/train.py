"""Speed of one trial: today's core, the static step, its graph, and the two loops a user would otherwise run.

Images/s for every batch size, then the layouts, the evaluation at several sizes, one profiled step, and grouped 3x3
convolutions alone in both layouts. All on random images on the device; the post's loop has its own.
"""
# ruff: noqa: T201 - a command speaks to its user

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from support import old_core
from torch import nn
from torch.nn import functional

from bench.gpu import kernels
from bench.gpu.common import (
    a_net,
    a_run,
    config,
    device,
    options,
    pool,
    seconds_of,
    speed,
    synchronised,
    write,
)
from bench.train import post_speed
from study.memory import out_of_memory
from study.training.augment import normalise
from study.training.evaluation import EVAL_PIXELS, predict
from study.training.randomness import repeatable

CARDINALITIES = (1, 2, 4, 8, 16, 32, 64)
STAGES = ((64, 32), (128, 16), (256, 8), (512, 4))
"""Planes and pixels of the four stages at 32 pixels."""
WIDTHS = {1: 64, 2: 80, 4: 96, 8: 112, 16: 128, 32: 128, 64: 192}
"""Channels of the first stage's 3x3 convolution by cardinality, near the arm's own."""


def steps_of(batch: int) -> int:
    """Steps of an epoch of some tenths of a second."""
    return max(12, min(40, 8192 // batch))


def timm_speed(net: nn.Module, batch: int, steps: int) -> float:
    """A plain loop as timm's: AMP in bfloat16, channels_last, any kernel cuDNN finds fastest, one synchronisation a step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loss_of = nn.CrossEntropyLoss()
    pixels, labels = pool()
    net.train()

    def epoch() -> None:
        for i in range(steps):
            rows = slice(i * batch % (len(labels) - batch + 1), None)
            images = pixels[rows][:batch]
            target = labels[rows][:batch]
            flipped = torch.where(torch.rand(batch, 1, 1, 1, device=device()) < 0.5, images.flip(-1), images)
            inputs = normalise(flipped).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast(device().type, dtype=torch.bfloat16, enabled=device().type == "cuda"):
                loss = loss_of(net(inputs), target)
            loss.backward()
            optimizer.step()
            synchronised()

    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False):
        epoch()
        began = synchronised()
        epoch()
        return steps * batch / (synchronised() - began)


def core_speed(net: nn.Module, arm: str, batch: int, **how: Any) -> float:
    steps = steps_of(batch)
    run = a_run(net, arm, config(arm, batch), steps=steps, epochs=3, **how)
    return speed(run, steps * batch)


def evaluation(net: nn.Module, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Images/s and peak bytes of evaluating this many images at once."""
    pixels, _ = pool()
    rows, found = torch.arange(4000, device=device()), {}
    kept = dict(EVAL_PIXELS)
    try:
        for size in sizes:
            EVAL_PIXELS[device().type] = size * 32**2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            took = seconds_of(lambda: predict(net, pixels, rows), repeats=1, warm=1)
            peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
            found[str(size)] = {"images_per_second": len(rows) / took, "peak_bytes": peak}
    finally:
        EVAL_PIXELS.update(kept)
    return found


def profiled(net: nn.Module, arm: str, batch: int, **how: Any) -> dict[str, Any]:
    """Kernels of one eager step: their number, the slowest, and the device's busy share."""
    run = a_run(net, arm, config(arm, batch), steps=8, epochs=1, **how)
    for _ in range(4):
        run.advance(0.0)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    began = synchronised()
    with repeatable():
        run._step.run()
    wall = synchronised() - began
    with repeatable(), torch.profiler.profile(activities=activities) as profile:
        run._step.run()
        synchronised()
    rows = [
        e for e in profile.key_averages() if e.self_device_time_total > 0 and e.device_type.name == "CUDA"
    ]
    rows.sort(key=lambda e: -e.self_device_time_total)
    busy = sum(e.self_device_time_total for e in rows) / 1e6
    return {
        "batch": batch,
        "kernels": sum(e.count for e in rows),
        "seconds": wall,
        "busy seconds": busy,
        "busiest": [[e.key[:90], e.count, e.self_device_time_total / 1e3] for e in rows[:15]],
    }


def grouped(batch: int, seconds: float) -> list[dict[str, Any]]:
    """Forward and backward milliseconds of each stage's 3x3 convolution, by cardinality and layout."""
    ends = time.monotonic() + seconds
    found: list[dict[str, Any]] = []
    for groups in CARDINALITIES:
        for layout in (torch.channels_last, torch.contiguous_format):
            row: dict[str, Any] = {"cardinality": groups, "channels_last": layout is torch.channels_last}
            for planes, pixels in STAGES:
                if time.monotonic() > ends:
                    return found
                width = WIDTHS[groups] * planes // 64
                kernel = torch.randn(width, width // groups, 3, 3, device=device(), requires_grad=True)
                x = torch.randn(batch, width, pixels, pixels, device=device(), requires_grad=True)
                kind = torch.bfloat16 if torch.cuda.is_available() else torch.float32
                k, x = (
                    t.detach().to(kind).contiguous(memory_format=layout).requires_grad_() for t in (kernel, x)
                )

                def work(x: Any = x, k: Any = k, groups: int = groups) -> None:
                    y = functional.conv2d(x, k, padding=1, groups=groups)
                    torch.autograd.grad(y, (x, k), torch.ones_like(y))

                with repeatable():
                    row[f"{planes}x{pixels}"] = 1e3 * seconds_of(work, repeats=5, warm=2)
            found.append(row)
    return found


class Measures:
    """Takes measures while time remains, and rewrites the file after each."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.out, self.ends = out, time.monotonic() + seconds
        self.found: dict[str, Any] = {
            "speeds": {}, "layouts": {}, "evaluation": {}, "profile": {}, "left out": [], "errors": []
        }  # fmt: skip

    def take(self, table: dict[str, Any], name: str, work: Callable[[], Any]) -> None:
        if time.monotonic() > self.ends:
            self.found["left out"].append(name)
            return
        began = time.monotonic()
        try:
            table[name] = work()
        except Exception as error:  # noqa: BLE001  # the other measures still count
            table[name] = "out of memory" if out_of_memory(error) else None
            self.found["errors"].append(f"{name}: {type(error).__name__}: {error}"[:300])
        said = f"{table[name]:.0f}" if isinstance(table[name], float) else table[name]
        print(f"{name}: {str(said)[:60]}  ({time.monotonic() - began:.1f} s)", flush=True)
        write(self.out, "train", self.found)

    @property
    def left(self) -> float:
        return max(0.0, self.ends - time.monotonic())


WAYS: dict[str, dict[str, Any]] = {
    "today": {"module": old_core},
    "eager": {},
    "cast": {"graphed": True, "halved": False},
    "graph": {"graphed": True},
    "fused": {"graphed": True, "fused": True},
}
"""today: before the static step. cast: the graph with autocast's own casts of the weights."""


def speeds_of(measures: Measures, arm: str, batches: list[int], ways: list[str]) -> None:
    nets = [a_net(arm, config(arm, batches[0])) for _ in range(2)]
    speeds: dict[str, Any] = measures.found["speeds"].setdefault(arm, {})
    for batch in batches:
        for way in ways:
            if way == "timm":
                work = partial(timm_speed, nets[0], batch, steps_of(batch))
            elif way == "post":
                continue
            else:
                work = partial(core_speed, nets[way == "fused"], arm, batch, **WAYS[way])
            measures.take(speeds, f"{way} {batch}", work)
    if torch.cuda.is_available():
        large = min(256, batches[-1])
        for name, net in zip((arm, f"{arm} fused"), nets, strict=True):
            how = {"fused": True} if "fused" in name else {}
            measures.take(measures.found["profile"], name, partial(profiled, net, arm, large, **how))


def main() -> None:
    parser = options(__doc__, "train")
    parser.add_argument("--ways", default="today,graph,fused,timm,post", help="of the loops (%(default)s)")
    parser.add_argument("--tiles", type=Path, help="kernels.json, whose best tiles are used")
    given = parser.parse_args()
    measures, ways = Measures(given.out, given.seconds), given.ways.split(",")
    batches, arms = [int(b) for b in given.batches.split(",")], given.arms.split(",")
    cuda = torch.cuda.is_available()
    if given.tiles and cuda:
        kernels.use(given.tiles)
    for arm in arms:
        speeds_of(measures, arm, batches, ways)
    large = min(256, batches[-1])
    for arm in arms:
        net = a_net(arm, config(arm, large), channels_last=False)
        measures.take(measures.found["layouts"], arm, partial(core_speed, net, arm, large, graphed=True))
    net = a_net(arms[0], config(arms[0], batches[0]))
    sizes = (500, 1000, 4000) if cuda else (16, 32)
    measures.take(measures.found["evaluation"], arms[0], partial(evaluation, net, sizes))
    for arm in arms if "post" in ways else ():
        post = partial(post_speed, arm, device().type, 2.0 if cuda else 0.2, 2)
        measures.take(measures.found["speeds"][arm], "post", post)
    measures.found["grouped"] = grouped(256, measures.left) if cuda else grouped(2, min(2.0, measures.left))
    write(given.out, "train", measures.found)


if __name__ == "__main__":
    main()
