"""Shared by the parts: the card's facts, runs on random images, and each part's file."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import ImageSpec, load
from study.protocol.records import Config, Epoch, Trial
from study.training import loop as core
from study.training.evaluation import Split
from study.training.loop import build

CIFAR = ImageSpec(channels=3, size=32, classes=10)
POOL = 4096
"""Random images; the speed does not depend on their content."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def facts() -> dict[str, Any]:
    """The machine's facts, for every file."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
        asked = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
        with suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(
                ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
                capture_output=True, text=True, timeout=20, check=True,
            )  # fmt: skip
            found |= dict(zip(asked.split(","), said.stdout.strip().split(", "), strict=False))
    return found


def options(doc: str | None, part: str) -> argparse.ArgumentParser:
    """The flags shared by all parts."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # a dry run: on a busy machine more threads would wait for each other
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.bench.gpu.{part}", description=(doc or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--arms", default="resnet50,resnext50")
    parser.add_argument("--batches", default="32,64,128,256,512")
    parser.add_argument("--seconds", type=float, default=100.0, help="after which no further measure begins")
    return parser


def write(out: Path, part: str, found: dict[str, Any]) -> None:
    """Write the part's file atomically, after every measure."""
    path = out / f"{part}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"facts": facts(), **found}, indent=1) + "\n")
    partial.replace(path)


def config(arm: str, batch: int, **changes: Any) -> Config:
    """The post's setting with this batch size and a learning rate that cannot diverge."""
    return {**load(arm).default(), "batch_size": batch, "lr": 1e-4, **changes}


def pool(images: int = POOL) -> tuple[Tensor, Tensor]:
    """Random images and labels on the device, the same each time."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=draw)
    return pixels.to(device()), (torch.arange(images) % 10).to(device())


def a_trial(arm: str, setting: Config, *, epochs: int) -> Trial:
    return Trial(
        id="bench",
        arm=arm,
        phase="probe",
        index=0,
        pair=0,
        config=setting,
        seed=7,
        fold=0,
        epochs=epochs,
    )


def a_net(arm: str, setting: Config, *, channels_last: bool = True) -> nn.Module:
    return build(load(arm), setting, CIFAR, seed=7, device=device(), channels_last=channels_last)


def a_run(
    net: nn.Module, arm: str, setting: Config, *, steps: int, epochs: int, held_out: int = 32, **how: Any
) -> Any:
    """A Training with this many steps per epoch. ``how``: the core's module and its Training's options."""
    module = how.pop("module", core)
    batch = int(setting["batch_size"])
    pixels, labels = pool()
    rows = torch.arange(steps * batch, device=device()) % POOL
    split = Split(images=pixels, labels=labels, train=rows, val=rows[:held_out])
    return module.Training(net, a_trial(arm, setting, epochs=epochs), split, classes=10, **how)


def speed(run: Any, images: int) -> float:
    """Images/s: the median of the epochs after the first, which warms up."""
    seconds = [epoch.train_seconds for epoch in run.epochs()]
    return float(images / statistics.median(seconds[1:]))


def measures(epochs: list[Epoch]) -> list[tuple[float, ...]]:
    return [(e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy) for e in epochs]


def synchronised() -> float:
    """The time once the device has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(work: Callable[[], Any], *, repeats: int = 10, warm: int = 3) -> float:
    """Median seconds of one call, measured over groups of calls so that launching overlaps."""
    for _ in range(warm):
        work()
    found = []
    for _ in range(5):
        began = synchronised()
        for _ in range(repeats):
            work()
        found.append((synchronised() - began) / repeats)
    return statistics.median(found)
