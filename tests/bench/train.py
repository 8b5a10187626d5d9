"""Training speed: the seed post's loop against the core, measured in turns in one run.

Both have the same two cores: the post's loop as one process of two threads with its two loading workers, the core as
two trials of one thread each. The table also has the share of the cores' float32 matrix rate that the core
reaches. ``python -m tests.bench.gpu`` measures GPUs.

Command:   python -m tests.bench.train [--arms A,B] --json train.json
"""
# ruff: noqa: T201 - a command speaks to its user

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from bench import post_loop
from bench.timing import at_once, in_turns, parser, processes, save, table
from search_spaces import Arm, Config, ImageSpec, load, load_recipe
from search_spaces._shared import BLOCKS_50, PLANES_50, BottleneckNet, large_stem
from study.data.images import Images
from study.execution import rehearsal
from study.memory import keep_freed
from study.training.augment import cutout, normalise, turn
from study.training.loop import build

CIFAR = ImageSpec(channels=3, size=32, classes=10)
IMAGENET_STEM = "resnet50/imagenet"
"""ResNet-50 as torchvision has it, which shrinks 32 pixels to 8 before its blocks: a sixteenth of the arm's work."""
ARMS = ("resnet50", IMAGENET_STEM, "small_resnet", "small_resnext")
POST_BATCH = 32
BATCHES = (32, 128)
POOL = 4096
"""Random images; the speed does not depend on their content."""


@cache
def pool() -> Images:
    made = torch.randint(
        256, (POOL, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Images(made.numpy(), (torch.arange(POOL) % 10).numpy())


def arm_of(name: str) -> Arm:
    if name != IMAGENET_STEM:
        return load(name)
    stem = large_stem(dataclasses.replace(CIFAR, size=224))
    arm = Arm(lambda _, images: BottleneckNet(images, stem=stem, planes=PLANES_50, blocks=BLOCKS_50))
    return load_recipe("sgd").compose(name, arm)


def config(arm: str, batch: int) -> Config:
    """The post's setting (flip+rotate) with this batch size."""
    return {**arm_of(arm).default(), "batch_size": batch}


def post_speed(arm: str, kind: str, seconds: float, threads: int) -> float:
    """Images/s of the post's loop in this process, without its workers' first batches."""
    torch.set_num_threads(threads)
    device = torch.device(kind)
    model = build(arm_of(arm), config(arm, POST_BATCH), CIFAR, seed=0, device=device, channels_last=False)
    optimizer = post_loop.sgd(model, lr=1e-4, weight_decay=5e-4)
    loader = post_loop.train_loader(pool(), seed=0, batch_size=POST_BATCH)
    steps = post_loop.train_model(model, nn.CrossEntropyLoss(), optimizer, loader, device)
    with contextlib.closing(steps):
        for _ in range(3):
            next(steps)
        images, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds or images == 0:
            images += next(steps)
        return images / passed


def core_speed(arm: str, batch: int, seconds: float) -> float:
    """Images/s of the core on one core, by the probe's own measure."""
    torch.set_num_threads(1)
    keep_freed()
    cpu = torch.device("cpu")
    return rehearsal.speed(arm_of(arm), config(arm, batch), CIFAR, cpu, seconds=seconds).images_per_second


def augment_microseconds(batch: int = 128, repeats: int = 200) -> float:
    """Per image: flip, crop, rotation and an erased square, then normalised, on one thread; the median batch."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(pool().pixels[:batch])

    def chain() -> Tensor:
        return cutout(normalise(turn(images, generator, border=4)), generator)

    return 1e6 / batch * statistics.median(_times(chain, repeats))


def _times(work: Any, repeats: int) -> Iterator[float]:
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        yield time.perf_counter() - began


def on_cpu(arms: Sequence[str], seconds: float, turns: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with processes(1) as post, processes(2) as ours:
        found["matmul_flops"] = rate = _sum(ours, matmul_flops)
        for arm in arms:
            measures = {"post": partial(_sum, post, post_speed, arm, "cpu", seconds, 2)}
            for batch in BATCHES:
                measures[f"core {batch}"] = partial(_sum, ours, core_speed, arm, batch, seconds)
            speeds = in_turns(measures, turns)
            best = _fastest(speeds, "core")
            found[arm] = {**speeds, "matmul_share": _share(arm, speeds[best], rate)}
        found["augment_microseconds"] = at_once(ours[:1], augment_microseconds)[0]
    rows = [
        (
            arm,
            *(f"{found[arm][name]:.0f}" for name in ("post", "core 32", "core 128")),
            f"{100 * found[arm]['matmul_share']:.0f} %",
            f"{found[arm]['core 32'] / found[arm]['post']:.2f}",
            f"{found[arm]['core 128'] / found[arm]['post']:.2f}",
        )
        for arm in arms
    ]
    header = [
        "images/s, 2 cores",
        "post's loop",
        "core, batch 32",
        "core, batch 128",
        "of the matrix rate",
        "ratio at 32",
        "ratio at 128",
    ]
    print(table(header, rows))
    print(f"float32 matrix rate of the cores, measured: {rate / 1e9:.0f} GFLOP/s")
    print(
        f"augmentation: flip+crop+rotate+erase {found['augment_microseconds']:.1f} us per image on one core"
    )
    return found


def _sum(pool: Any, *call: Any) -> float:
    return float(sum(at_once(pool, *call)))


def _share(arm: str, images_per_second: float, flops: float) -> float:
    """The share of the matrix rate that training at this speed reaches."""
    macs = rehearsal.complexity(arm_of(arm), config(arm, POST_BATCH), CIFAR)[1]
    return images_per_second * 6 * macs / flops  # 2 per MAC forward, and twice that backward


def _fastest(speeds: dict[str, float], prefix: str) -> str:
    return max((name for name in speeds if name.startswith(prefix)), key=lambda name: speeds[name])


def matmul_flops(repeats: int = 30) -> float:
    """FLOP/s of a large float32 product on one core."""
    side = 2048
    torch.set_num_threads(1)
    a, b = (torch.randn(side, side) for _ in range(2))
    return 2 * side**3 / statistics.median(list(_times(partial(torch.mm, a, b), repeats))[5:])


def main(arguments: list[str] | None = None) -> None:
    options = parser("train", __doc__)
    options.add_argument("--arms", help="default resnet50 with either stem, and the small arms")
    options.add_argument("--seconds", type=float, default=6.0, help="of every single measure (default 6)")
    options.add_argument("--turns", type=int, default=3, help="measures of each, in turns (default 3)")
    given = options.parse_args(arguments)
    arms = given.arms.split(",") if given.arms else ARMS
    began = time.perf_counter()
    save(given.json, on_cpu(arms, given.seconds, given.turns))
    print(f"measured in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
