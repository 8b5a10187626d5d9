"""Training speed: the seed post's loop against the core, measured in turns in one run.

On a CPU both have the same two cores: the post's loop as one process of two threads with its two loading
workers, the core as two trials of one thread each. On a GPU both have the card, and the core's share of the
card's bfloat16 matrix rate is measured beside it, as are layouts, compiling, and deterministic kernels.

Command:   python -m tests.bench.train --json train.json          (CPU: 6 minutes; --device cuda: 5 minutes)
"""
# ruff: noqa: T201 - a command speaks to its user

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from bench import post_loop
from bench.timing import at_once, in_turns, parser, processes, save, table
from search_spaces import Config, ImageSpec, load
from study import probe
from study.augment import cutout, normalise, turn
from study.data import Images
from study.records import Trial
from study.train import Split, build, fit

CIFAR = ImageSpec(channels=3, size=32, classes=10)
ARMS = {
    "cpu": ("resnet50", "small_resnet", "small_resnext"),
    "cuda": ("resnet50", "resnext50", "small_resnet"),
}
POST_BATCH = 32
BATCHES = {"cpu": (32, 128), "cuda": (32, 128, 512)}
POOL = 4096
"""Made-up images; the speed does not hang on what they show."""


@cache
def pool() -> Images:
    made = torch.randint(
        256, (POOL, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Images(made.numpy(), (torch.arange(POOL) % 10).numpy())


def config(arm: str, batch: int) -> Config:
    """The post's setting (flip+rotate), but for the batch size."""
    return {**load(arm).default(), "batch_size": batch}


def post_speed(arm: str, kind: str, seconds: float, threads: int) -> float:
    """Images/s of the post's loop in this process, its workers' first batches not counted."""
    torch.set_num_threads(threads)
    device = torch.device(kind)
    model = build(load(arm), config(arm, POST_BATCH), CIFAR, seed=0, device=device, channels_last=False)
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
    device = torch.device(kind)
    return probe.speed(
        load(arm), config(arm, batch), CIFAR, device, channels_last=channels_last, seconds=seconds
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
        for arm in arms:
            measures = {"post": partial(_sum, post, post_speed, arm, "cpu", seconds, 2)}
            for batch in BATCHES["cpu"]:
                measures[f"core {batch}"] = partial(_sum, ours, core_speed, arm, "cpu", batch, seconds)
            found[arm] = in_turns(measures, turns)
        found["augment_microseconds"] = at_once(ours[:1], augment_microseconds)[0]
    rows = [
        (
            arm,
            *(f"{found[arm][name]:.0f}" for name in found[arm]),
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
        "ratio at 32",
        "ratio at 128",
    ]
    print(table(header, rows))
    print(
        f"augmentation: flip+crop+rotate+erase {found['augment_microseconds']:.1f} us per image on one core"
    )
    return found


def _sum(pool: Any, *call: Any) -> float:
    return float(sum(at_once(pool, *call)))


def on_gpu(arms: Sequence[str], seconds: float, turns: int) -> dict[str, Any]:
    found: dict[str, Any] = {"matmul_flops": matmul_flops()}
    rows = []
    for arm in arms:
        measures = {"post": partial(post_speed, arm, "cuda", seconds, 2)}
        for batch in BATCHES["cuda"]:
            for layout in (True, False):
                name = f"core {batch} {'channels_last' if layout else 'contiguous'}"
                measures[name] = partial(core_speed, arm, "cuda", batch, seconds, layout)
        speeds = in_turns(measures, turns)
        macs = probe.complexity(load(arm), config(arm, POST_BATCH), CIFAR)[1]
        best = max(speeds, key=lambda name: speeds[name] if name != "post" else 0.0)
        share = speeds[best] * 6 * macs / found["matmul_flops"]  # forward 2 per MAC, backward twice that
        found[arm] = {**speeds, "best": best, "matmul_share": share, **compiled(arm, best, seconds)}
        rows += [
            (arm, name, f"{speed:.0f}", f"{speed / speeds['post']:.2f}") for name, speed in speeds.items()
        ]
        rows += [
            (arm, name, f"{found[arm][name]:.0f}", f"{found[arm][name] / speeds['post']:.2f}")
            for name in found[arm]
            if name.startswith("compiled") and "seconds" not in name
        ]
    print(table(["arm", "loop", "images/s", "to the post's"], rows))
    print(f"bfloat16 matrix rate, measured: {found['matmul_flops'] / 1e12:.0f} TFLOP/s")
    for arm in arms:
        one = found[arm]
        costs = ", ".join(f"{k} {v:.0f} s" for k, v in one.items() if "seconds" in k)
        print(f"{arm}: best {one['best']}, {100 * one['matmul_share']:.1f} % of that rate; {costs}")
    if not {"resnet50", "resnext50"} <= set(arms):
        return found
    times = {
        name: found["resnet50"][name] / found["resnext50"][name]
        for name in found["resnet50"]
        if name[:4] in ("post", "core")
    }
    found["resnext50_to_resnet50_time"] = times | {
        "best": found["resnet50"][found["resnet50"]["best"]] / found["resnext50"][found["resnext50"]["best"]]
    }
    for name, ratio in found["resnext50_to_resnet50_time"].items():
        print(f"ResNeXt-50 takes {ratio:.2f} x ResNet-50's time ({name}); the post says about 1.3")
    return found


def matmul_flops(side: int = 8192, repeats: int = 30) -> float:
    """FLOP/s of a large bfloat16 product on the GPU."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        torch.cuda.synchronize()

    return 2 * side**3 / statistics.median(list(_times(product, repeats))[5:])


def compiled(arm: str, best: str, seconds: float) -> dict[str, float]:
    """Images/s of the net compiled, with and without CUDA graphs, and the seconds that compiling takes."""
    batch, layout = int(best.split()[1]), best.endswith("channels_last")
    device, found = torch.device("cuda"), {}
    for mode in ("default", "reduce-overhead"):  # the second records CUDA graphs
        torch.compiler.reset()
        net = build(load(arm), config(arm, batch), CIFAR, seed=0, device=device, channels_last=layout)
        fast: Any = torch.compile(net, mode=mode)
        everything = torch.arange(16 * batch, device=device)
        pixels = torch.randint(256, (len(everything), 3, 32, 32), dtype=torch.uint8, device=device)
        data = Split(images=pixels, labels=everything % 10, train=everything, val=everything[:batch])
        trial = Trial(
            id="compiled", arm=arm, phase="probe", index=0, island=0, config={**config(arm, batch), "lr": 1e-4},
            seed=0, split_seed=0, epochs=10_000,
        )  # fmt: skip
        epochs = fit(fast, trial, data, classes=10)
        began = time.perf_counter()
        _, steady = next(epochs), next(epochs)
        found[f"compiled {mode}, seconds"] = time.perf_counter() - began - 2 * steady.train_seconds
        rates: list[float] = []
        while not rates or time.perf_counter() - began < found[f"compiled {mode}, seconds"] + seconds:
            rates.append(len(everything) / next(epochs).train_seconds)
        found[f"compiled {mode}"] = statistics.median(rates)
    return found


def main(arguments: list[str] | None = None) -> None:
    options = parser("train", __doc__)
    options.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    options.add_argument(
        "--arms", help="default on a GPU resnet50,resnext50,small_resnet, else resnet50 and small arms"
    )
    options.add_argument("--seconds", type=float, default=6.0, help="of every single measure (default 6)")
    options.add_argument("--turns", type=int, default=5, help="measures of each, in turns (default 5)")
    given = options.parse_args(arguments)
    arms = given.arms.split(",") if given.arms else ARMS[given.device]
    began = time.perf_counter()
    found = (on_cpu if given.device == "cpu" else on_gpu)(arms, given.seconds, given.turns)
    save(given.json, found)
    print(f"measured in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
