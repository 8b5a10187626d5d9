"""Reading files to squares of 224 and 64 pixels on one core: this project before and now, torchvision's ImageFolder, ``datasets``.

The files are made: photographs (scikit-learn's two, cropped and enlarged) as JPEGs of 500 x 375 and of 12 million pixels and as
PNGs of 800 x 600, and the same JPEGs with an EXIF orientation. "Before" is the reader of commit 6d1f7e3: no orientation, no
transparency, centre crop. CPU time of the process, in turns, from the page cache.

It also says how far reduced JPEG decoding is from full decoding, in levels of 255.

Command:   python -m tests.bench.read --json read.json
"""
# ruff: noqa: T201 - a command speaks to its user

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from bench.timing import in_turns, parser, save, table
from study.data.images import quiet
from study.data.reading import Reading, read

SIDES = (224, 64)
KINDS = {
    "JPEG 500 x 375": ("jpg", (500, 375), 1),
    "JPEG 500 x 375, turned": ("jpg", (500, 375), 6),
    "JPEG 4000 x 3000": ("jpg", (4000, 3000), 1),
    "PNG 800 x 600": ("png", (800, 600), 1),
}


def make(folder: Path, suffix: str, size: tuple[int, int], turn: int, count: int) -> list[Path]:
    """Write crops of this size into ``folder/<photograph>/``; the files."""
    rng, files = np.random.default_rng(0), []
    exif = Image.Exif()
    exif[0x112] = turn
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        photograph = Image.fromarray(pixels)
        factor = max(1.0, 1.1 * size[0] / photograph.width, 1.1 * size[1] / photograph.height)
        photograph = photograph.resize((int(photograph.width * factor), int(photograph.height * factor)))
        for i in range(count // 2):
            x, y = (
                int(rng.integers(0, whole - cut + 1))
                for whole, cut in zip(photograph.size, size, strict=True)
            )
            files.append(folder / name / f"{i:04}.{suffix}")
            photograph.crop((x, y, x + size[0], y + size[1])).save(files[-1], quality=90, exif=exif)
    return files


def before(file: Path, side: int) -> NDArray[np.uint8]:
    with Image.open(file, formats=("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")) as image:
        image.draft(None, (2 * side, 2 * side))
        converted = image.convert("RGB")
        width, height = converted.size
        short = min(width, height)
        x, y = (width - short) / 2, (height - short) / 2
        square = converted.resize((side, side), Image.Resampling.BILINEAR, box=(x, y, x + short, y + short))
        return np.asarray(square, dtype=np.uint8).transpose(2, 0, 1)


def by_torchvision(folder: Path, side: int) -> int:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    images = ImageFolder(folder, v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.PILToTensor()]))
    return sum(pixels.shape[1] == side for pixels, _ in images)


def by_datasets(files: Sequence[Path], side: int) -> int:
    import datasets

    found = datasets.Dataset.from_dict({"image": list(map(str, files))}).cast_column(
        "image", datasets.Image()
    )
    squares = (np.asarray(row["image"].convert("RGB").resize((side, side))) for row in found)
    return sum(len(square) == side for square in squares)


def microseconds(images: int, work: Callable[[], object]) -> float:
    """CPU time per image."""
    began = time.process_time()
    work()
    return 1e6 * (time.process_time() - began) / images


def all_of(files: Sequence[Path], one: Callable[[Path], object]) -> None:
    with quiet():
        for file in files:
            one(file)


def differences(files: Sequence[Path], side: int) -> tuple[float, float]:
    """Mean and 99th percentile of what reduced decoding changes."""
    found = []
    for file in files:
        now = read(file, Reading(size=side, channels=3)).astype(int)
        with Image.open(file) as image:
            whole = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
        found.append(np.abs(now - whole.transpose(2, 0, 1)).ravel())
    levels = np.concatenate(found)
    return float(levels.mean()), float(np.percentile(levels, 99))


def main(arguments: list[str] | None = None) -> None:
    options = parser("read", __doc__)
    options.add_argument(
        "--images", type=int, default=200, help="files of each kind, a tenth of the large ones (default 200)"
    )
    options.add_argument("--turns", type=int, default=3, help="measures of each, in turns (default 3)")
    given = options.parse_args(arguments)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for kind, (suffix, size, turn) in KINDS.items():
            folder = Path(place) / kind
            count = max(2, given.images // (10 if size[0] > 1000 else 1))
            files = make(folder, suffix, size, turn, count)
            for side in SIDES:
                reading = Reading(size=side, channels=3)
                work: dict[str, Callable[[], object]] = {
                    "before": partial(all_of, files, partial(before, side=side)),
                    "now, crop": partial(all_of, files, partial(read, reading=replace(reading, fit="crop"))),
                    "now, squash": partial(all_of, files, partial(read, reading=reading)),
                    "torchvision": partial(by_torchvision, folder, side),
                    "datasets": partial(by_datasets, files, side),
                }
                for task in work.values():
                    task()  # imports and caches
                turns = in_turns(
                    {name: partial(microseconds, len(files), task) for name, task in work.items()},
                    given.turns,
                )
                found[f"{kind} to {side}"] = {
                    **turns,
                    "file_bytes": statistics.mean(file.stat().st_size for file in files),
                    "levels": differences(files, side) if suffix == "jpg" and turn == 1 else None,
                }
    names = ("before", "now, crop", "now, squash", "torchvision", "datasets")
    rows = [
        (
            kind,
            *(f"{1e6 / row[name]:.0f}" for name in names),
            f"{row['torchvision'] / row['now, crop']:.2f}",
            "{:.2f}, {:.0f}".format(*row["levels"]) if row["levels"] else "-",
        )
        for kind, row in found.items()
    ]
    head = ["images/s of one core", *names, "now, crop / torchvision", "levels off full decoding: mean, 99 %"]
    print(table(head, rows))
    save(given.json, found)


if __name__ == "__main__":
    main()
