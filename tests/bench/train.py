"""Training speed: the seed post's loop against the core, measured in turns in one run.

On a CPU both have the same two cores: the post's loop as one process of two threads with its two loading
workers, the core as two trials of one thread each. On a GPU both have the card, and both layouts are measured;
then compiling, for some minutes: at the smallest batch, where launches take the time, and at the fastest. What it
costs and what it gains say after how many images it pays. Beside the speeds stands the share that the core
reaches of the machine's matrix rate: float32 on a CPU, bfloat16 on a GPU. The GPU's file is written after every
arm and every compile.

Command:   python -m tests.bench.train [--device cuda] [--arms A,B] --json train.json
"""
# ruff: noqa: T201 - a command speaks to its user

import contextlib
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import post_loop
from bench.timing import at_once, in_turns, parser, processes, save, table
from search_spaces import Arm, Config, ImageSpec, load
from search_spaces._shared import BLOCKS_50, PLANES_50, RECIPE, BottleneckNet, large_stem
from study import probe
from study import train as core
from study.augment import cutout, normalise, turn
from study.data import Images
from study.memory import keep_freed
from study.records import Trial
from study.train import Split, build, fit

CIFAR = ImageSpec(channels=3, size=32, classes=10)
IMAGENET_STEM = "resnet50/imagenet"
"""ResNet-50 as torchvision has it, which shrinks 32 pixels to 8 before its blocks: a sixteenth of the arm's work."""
ARMS = {
    "cpu": ("resnet50", IMAGENET_STEM, "small_resnet", "small_resnext"),
    "cuda": ("resnet50", "resnext50", "small_resnet"),
}
POST_BATCH = 32
BATCHES = {"cpu": (32, 128), "cuda": (32, 128, 256)}
COMPILERS = ("default", "reduce-overhead")
"""Modes of torch.compile; the second records CUDA graphs."""
COMPILE_SECONDS = 150.0
"""After so many seconds no further compile begins; one takes a minute."""
POOL = 4096
"""Made-up images; the speed does not hang on what they show."""


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
    return Arm(
        lambda _, images: BottleneckNet(images, stem=stem, planes=PLANES_50, blocks=BLOCKS_50), space=RECIPE
    )


def config(arm: str, batch: int) -> Config:
    """The post's setting (flip+rotate), but for the batch size."""
    return {**arm_of(arm).default(), "batch_size": batch}


def post_speed(arm: str, kind: str, seconds: float, threads: int) -> float:
    """Images/s of the post's loop in this process, its workers' first batches not counted."""
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


def core_speed(arm: str, kind: str, batch: int, seconds: float, channels_last: bool = True) -> float:
    """Images/s of the core in this process, by the probe's own measure."""
    if kind == "cpu":
        torch.set_num_threads(1)
        keep_freed()
    device = torch.device(kind)
    return probe.speed(
        arm_of(arm), config(arm, batch), CIFAR, device, channels_last=channels_last, seconds=seconds
    ).images_per_second


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
        found["matmul_flops"] = rate = _sum(ours, matmul_flops, "cpu")
        for arm in arms:
            measures = {"post": partial(_sum, post, post_speed, arm, "cpu", seconds, 2)}
            for batch in BATCHES["cpu"]:
                measures[f"core {batch}"] = partial(_sum, ours, core_speed, arm, "cpu", batch, seconds)
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


def on_gpu(
    arms: Sequence[str],
    seconds: float,
    turns: int,
    path: Path | None,
    compile_seconds: float = COMPILE_SECONDS,
) -> dict[str, Any]:
    rate = matmul_flops("cuda")
    print(f"bfloat16 matrix rate, measured: {rate / 1e12:.0f} TFLOP/s", flush=True)
    found: dict[str, Any] = {"matmul_flops": rate}
    for arm in arms:
        measures = {"post": partial(post_speed, arm, "cuda", seconds, 2)}
        for batch in BATCHES["cuda"]:
            for layout in (True, False):
                name = f"core {batch} {'channels_last' if layout else 'contiguous'}"
                measures[name] = partial(core_speed, arm, "cuda", batch, seconds, layout)
        speeds = in_turns(measures, turns)
        best = _fastest(speeds, "core")
        share = _share(arm, speeds[best], rate)
        batch, layout = _setting(best)
        again = in_turns(
            {"repeatable": partial(core_speed, arm, "cuda", batch, seconds, layout),
             "any": partial(free_speed, arm, batch, layout, seconds)}, turns,
        )  # fmt: skip
        found[arm] = {
            "speeds": speeds, "best": best, "matmul_share": share, "any_kernels": again, "compiled": []
        }  # fmt: skip
        save(path, found)
        rows = [(name, f"{speed:.0f}", f"{speed / speeds['post']:.2f}") for name, speed in speeds.items()]
        print(table([arm, "images/s", "to the post's"], rows))
        print(f"{best}: {100 * share:.1f} % of the matrix rate")
        print(
            f"with whatever kernels cuDNN finds, repeatable or not: {again['any'] / again['repeatable']:.2f} x\n",
            flush=True,
        )
    if {"resnet50", "resnext50"} <= set(arms):
        first, second = found["resnet50"], found["resnext50"]
        for name, speed in first["speeds"].items():
            print(f"ResNeXt-50 takes {speed / second['speeds'][name]:.2f} x ResNet-50's time: {name}")
        ratio = first["speeds"][first["best"]] / second["speeds"][second["best"]]
        print(f"ResNeXt-50 takes {ratio:.2f} x ResNet-50's time, each at its best; the post: about 1.3")
    began = time.perf_counter()
    for prefix, arm, mode in itertools.product((f"core {POST_BATCH} ", "core"), arms, COMPILERS):
        if time.perf_counter() - began > compile_seconds:
            print(f"no more compiling after {compile_seconds:.0f} s", flush=True)
            break
        speeds = found[arm]["speeds"]
        name = _fastest(speeds, prefix)
        batch, layout = _setting(name)
        fast, cost = compiled(arm, "cuda", batch, layout, mode, seconds)
        found[arm]["compiled"].append(
            {"mode": mode, "at": name, "images_per_second": fast, "compile_seconds": cost}
        )
        save(path, found)
        saved = 1 / speeds[name] - 1 / fast  # seconds per image
        pays = f"pays after {cost / saved / 1000:.0f} thousand images" if saved > 0 else "never pays"
        print(
            f"{arm}, {name}, compiled ({mode}): {fast / speeds[name]:.2f} x for {cost:.0f} s: {pays}",
            flush=True,
        )
    return found


def _share(arm: str, images_per_second: float, flops: float) -> float:
    """The part of the matrix rate that training at this speed takes."""
    macs = probe.complexity(arm_of(arm), config(arm, POST_BATCH), CIFAR)[1]
    return images_per_second * 6 * macs / flops  # 2 per MAC forward, and twice that backward


def _setting(measure: str) -> tuple[int, bool]:
    """Batch size and whether channels_last, of the name of a measure."""
    return int(measure.split()[1]), measure.endswith("channels_last")


def free_speed(arm: str, batch: int, channels_last: bool, seconds: float) -> float:
    """Images/s of the core on the GPU when cuDNN may take any kernel: what it costs that a run can be repeated."""
    kept = core._repeatable
    core._repeatable = lambda: torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False)
    try:
        return core_speed(arm, "cuda", batch, seconds, channels_last)
    finally:
        core._repeatable = kept


def _fastest(speeds: dict[str, float], prefix: str) -> str:
    return max((name for name in speeds if name.startswith(prefix)), key=lambda name: speeds[name])


def matmul_flops(kind: str, repeats: int = 30) -> float:
    """FLOP/s of a large product: bfloat16 on the GPU, float32 on one CPU core, as the core computes there."""
    side, dtype = (8192, torch.bfloat16) if kind == "cuda" else (2048, torch.float32)
    if kind == "cpu":
        torch.set_num_threads(1)
    a, b = (torch.randn(side, side, device=kind, dtype=dtype) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        if kind == "cuda":
            torch.cuda.synchronize()

    return 2 * side**3 / statistics.median(list(_times(product, repeats))[5:])


def compiled(
    arm: str, kind: str, batch: int, channels_last: bool, mode: str, seconds: float
) -> tuple[float, float]:
    """Images/s of the core with its net compiled, and the seconds that compiling took; NaN where it cannot be."""
    torch.compiler.reset()
    device = torch.device(kind)
    net = build(arm_of(arm), config(arm, batch), CIFAR, seed=0, device=device, channels_last=channels_last)
    fast: Any = torch.compile(net, mode=mode)
    everything = torch.arange(16 * batch, device=device)
    pixels = torch.randint(256, (len(everything), 3, 32, 32), dtype=torch.uint8, device=device)
    data = Split(images=pixels, labels=everything % 10, train=everything, val=everything[:batch])
    calm: Config = {**config(arm, batch), "lr": 1e-4}
    trial = Trial(
        id="compiled", arm=arm, phase="probe", index=0, pair=0, config=calm, seed=0, fold=0, epochs=1000
    )  # fmt: skip
    epochs = fit(fast, trial, data, classes=CIFAR.classes)
    began = time.perf_counter()
    try:
        next(epochs)
    except Exception as error:  # noqa: BLE001  # no compiler on this machine, or a net that it cannot compile
        print(f"{arm} cannot be compiled ({mode}): {type(error).__name__}")
        return math.nan, time.perf_counter() - began
    first = time.perf_counter() - began
    rates: list[float] = []
    while not rates or time.perf_counter() - began < first + seconds:
        rates.append(len(everything) / next(epochs).train_seconds)
    rate = statistics.median(rates)
    return rate, first - len(everything) / rate


def main(arguments: list[str] | None = None) -> None:
    options = parser("train", __doc__)
    options.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    options.add_argument(
        "--arms", help="default on a GPU resnet50,resnext50,small_resnet, else resnet50 and small arms"
    )
    options.add_argument("--seconds", type=float, help="of every single measure (default 6, 1.5 on a GPU)")
    options.add_argument(
        "--compile-seconds", type=float, default=COMPILE_SECONDS, metavar="S",
        help="after which no further compile begins, on a GPU (%(default)g)",
    )  # fmt: skip
    options.add_argument("--turns", type=int, default=3, help="measures of each, in turns (default 3)")
    given = options.parse_args(arguments)
    arms = given.arms.split(",") if given.arms else ARMS[given.device]
    seconds = given.seconds or (6.0 if given.device == "cpu" else 1.5)
    began = time.perf_counter()
    if given.device == "cpu":
        save(given.json, on_cpu(arms, seconds, given.turns))
    else:
        on_gpu(arms, seconds, given.turns, given.json, given.compile_seconds)
    print(f"measured in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
