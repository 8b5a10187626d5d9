"""Streaming a folder at 224 pixels: the cost of decoding against torchvision's DataLoader, and training's loss of speed.

The files are crops of scikit-learn's two photographs, as JPEGs: of 224 pixels, and of 500 x 375
like most of ImageNet. torchvision does the same work (``ImageFolder``, ``v2``: decode, resize, crop) in worker processes. CPU
cost is user and system time of all threads and processes. Files are in the page cache: a disk adds its own time.

Command:   python -m tests.bench.stream --json stream.json
"""
# ruff: noqa: T201 - a command speaks to its user

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from bench.timing import in_turns, parser, save, table
from search_spaces import load
from study.data.images import Images, Streamed, fetched
from study.data.opened import Asked
from study.data.prepare import prepare
from study.execution import rehearsal
from study.training.trial import image_spec

SIDE = 224
SIZES = ((224, 224), (500, 375))
BATCH = 32
CPU = torch.device("cpu")


def photographs(folder: Path, size: tuple[int, int], count: int) -> None:
    """Write crops of ``size`` into train/<photograph>/, and a few into test/."""
    rng = np.random.default_rng(0)
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        for part, number in (("train", count // 2), ("test", 2)):
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                x, y = (rng.integers(0, whole - cut + 1) for whole, cut in zip((640, 427), size, strict=True))
                crop = photograph[y : y + size[1], x : x + size[0]]
                Image.fromarray(crop).save(folder / part / name / f"{i:05}.jpg", quality=90)


def files(folder: Path) -> Any:
    """The same images through torchvision, as its examples read a folder; 0.29 deprecates its own decoder."""
    resize = v2.Compose([v2.Resize(SIDE), v2.CenterCrop(SIDE), v2.PILToTensor()])
    return ImageFolder(folder / "train", resize)


def streamed(folder: Path) -> Images:
    pool = prepare(f"folder:{folder}", seed=0, root=folder, asked=Asked(fit="crop"), memory=0).train
    assert isinstance(pool, Streamed)
    assert pool.shape[1:] == (3, SIDE, SIDE)
    return pool


def ours(pool: Images, threads: int) -> Iterator[Any]:
    order = np.random.default_rng(0).permutation(len(pool))
    return fetched(pool, np.array_split(order, max(1, len(pool) // BATCH)), threads=threads)


def loader(folder: Path, workers: int) -> Iterator[Any]:
    batches: Any = DataLoader(files(folder), batch_size=BATCH, shuffle=True, num_workers=workers)
    return (pixels for pixels, _ in batches)


def cpu_microseconds(batches: Callable[[], Iterator[Any]]) -> float:
    """User and system time of this process per image."""
    began = time.process_time()
    images = sum(len(batch) for batch in batches())
    return 1e6 * (time.process_time() - began) / images


def images_per_second(batches: Callable[[], Iterator[Any]]) -> float:
    """Speed of the batches after the first, since workers start slowly."""
    stream = batches()
    next(stream)
    began, images = time.perf_counter(), sum(len(batch) for batch in stream)
    return images / (time.perf_counter() - began)


def decoding(folder: Path, cores: int, turns: int) -> dict[str, float]:
    pool = streamed(folder)
    return in_turns(
        {
            "cpu_us": partial(cpu_microseconds, partial(ours, pool, 1)),
            "torchvision_cpu_us": partial(cpu_microseconds, partial(loader, folder, 0)),
            "images_per_second": partial(images_per_second, partial(ours, pool, cores)),
            "torchvision_images_per_second": partial(images_per_second, partial(loader, folder, cores)),
        },
        turns,
    )


def training(folder: Path, arm: str, seconds: float, turns: int) -> dict[str, float]:
    """Images/s of the arm on one thread, by the probe's own measure: random images in memory, and streamed ones."""
    pool = streamed(folder)
    spec = image_spec(prepare(f"folder:{folder}", seed=0, root=folder).card)
    config = {**load(arm).default(), "batch_size": BATCH}

    def speed(images: Images | None) -> float:
        return rehearsal.speed(load(arm), config, spec, CPU, seconds=seconds, pool=images).images_per_second

    return in_turns({"memory": partial(speed, None), "streamed": partial(speed, pool)}, turns)


def main(arguments: list[str] | None = None) -> None:
    options = parser("stream", __doc__)
    options.add_argument("--images", type=int, default=640, help="files of each size (default 640)")
    options.add_argument("--arms", default="small_resnet", help="default small_resnet")
    options.add_argument(
        "--seconds", type=float, default=20.0, help="of every measure of training (default 20)"
    )
    options.add_argument("--turns", type=int, default=3, help="measures of each, in turns (default 3)")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    found: dict[str, Any] = {"cores": cores, "decoding": {}, "training": {}}
    with tempfile.TemporaryDirectory() as folder:
        places = {size: Path(folder) / "x".join(map(str, size)) for size in SIZES}
        for size, place in places.items():
            photographs(place, size, given.images)
            sizes = [file.stat().st_size for file in place.glob("train/*/*.jpg")]
            measured = decoding(place, cores, given.turns)
            found["decoding"][place.name] = {"file_bytes": statistics.mean(sizes), **measured}
        for arm in given.arms.split(","):  # on the larger files
            found["training"][arm] = training(places[SIZES[-1]], arm, given.seconds, given.turns)
    rows = [
        (
            f"{name}, {row['file_bytes'] / 1000:.0f} kB",
            *(f"{row[key]:.0f}" for key in list(row)[1:]),
            f"{row['images_per_second'] / row['torchvision_images_per_second']:.2f}",
        )
        for name, row in found["decoding"].items()
    ]
    print(
        table(
            [
                "JPEG to 224 pixels",
                "CPU us",
                "torchvision's",
                f"images/s, {cores} threads",
                f"DataLoader, {cores} workers",
                "ratio",
            ],
            rows,
        )
    )
    rows = [
        (arm, f"{row['memory']:.2f}", f"{row['streamed']:.2f}", f"{row['streamed'] / row['memory']:.3f}")
        for arm, row in found["training"].items()
    ]
    print(table(["training at 224 pixels, 1 thread", "images/s in memory", "streamed", "ratio"], rows))
    save(given.json, found)


if __name__ == "__main__":
    main()
