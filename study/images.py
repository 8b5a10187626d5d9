"""Image files -> uint8 arrays, and what can be wrong with them.

A pool of threads decodes (Pillow lets go of the interpreter meanwhile); the order is that of the files,
so the result is too. A file that cannot be decoded is named, never skipped.
"""

import os
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

T = TypeVar("T")

LARGEST_SIDE = 224
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file with such a suffix may hold: Pillow reads more, but runs programs for some."""


class DataError(ValueError):
    """Images that cannot be studied; the message says what is wrong, what is allowed and what to do."""


@dataclass(frozen=True, eq=False)
class Images:
    """Square images and their labels, in a fixed order."""

    pixels: NDArray[np.uint8]
    """``(n, c, s, s)``, C-contiguous."""
    labels: NDArray[np.int64]
    """``(n,)``, positions in ``DataCard.classes``."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Images":
        """A copy of some of them, in the order of ``indices``."""
        return Images(self.pixels[indices], self.labels[indices])


def decode_all(parts: Sequence[Sequence[Path]]) -> tuple[list[NDArray[np.uint8]], str]:
    """Every file as pixels ``(n, c, s, s)``, per part, and what had to be done to make them square.

    The first part alone, the training pool, decides size and colour.
    """
    files = [file for part in parts for file in part]
    headers = _in_threads(lambda i: _header(files[i]), len(files))
    pool = headers[: len(parts[0])]
    shorter = [min(size) for size, _ in pool]
    if len({size for size, _ in pool}) == 1 and pool[0][0] == (shorter[0],) * 2:
        side = min(LARGEST_SIDE, max(8, shorter[0]))
    else:
        side = min(LARGEST_SIDE, max(8, int(np.median(shorter)) // 8 * 8))
    mode = "L" if all(mode == "L" for _, mode in pool) else "RGB"
    shape = (1 if mode == "L" else 3, side, side)
    check_memory(
        len(files) * int(np.prod(shape)), available_memory(), what=f"{len(files)} images of {side} pixels"
    )
    pixels = [np.empty((len(part), *shape), dtype=np.uint8) for part in parts]  # no part shares memory
    places = [(array, row) for array in pixels for row in range(len(array))]

    def decode(i: int) -> None:
        array, row = places[i]
        array[row] = _pixels(files[i], mode, side)

    _in_threads(decode, len(files))
    scaled = sum(size != (side, side) for size, _ in headers)
    note = f"{scaled} of {len(files)} images scaled to a shorter side of {side} pixels, centre kept"
    return pixels, note if scaled else ""


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The image in ``file``; whatever goes wrong with it becomes a DataError that names it."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"its pixels are of more than 8 bits (mode {image.mode})")
            yield image
    except Exception as error:  # decoders raise what they like
        raise DataError(f"{shown(file)} cannot be used: {error}. Repair or remove it") from error


def _header(file: Path) -> tuple[tuple[int, int], str]:
    with _opened(file) as image:
        return image.size, image.mode


def _pixels(file: Path, mode: str, side: int) -> NDArray[np.uint8]:
    with _opened(file) as image:
        image.draft(None, (2 * side, 2 * side))  # a JPEG far too large is decoded at a fraction of its size
        converted = image.convert(mode)
        if converted.size != (side, side):
            width, height = converted.size
            short = min(width, height)
            x, y = (width - short) / 2, (height - short) / 2
            converted = converted.resize(
                (side, side), Image.Resampling.BILINEAR, box=(x, y, x + short, y + short)
            )
        return np.asarray(converted, dtype=np.uint8).reshape(side, side, -1).transpose(2, 0, 1)


def _in_threads(work: Callable[[int], T], count: int, chunk: int = 64) -> list[T]:
    """``work(i)`` for every i, in order; the first failure by order is the one raised."""
    Image.preinit()
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        chunks = pool.map(
            lambda start: [work(i) for i in range(start, min(start + chunk, count))], range(0, count, chunk)
        )
        try:
            return [result for results in chunks for result in results]
        finally:
            pool.shutdown(cancel_futures=True)


def available_memory() -> int:
    """Bytes that could be had now; all of the machine's where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(needed: int, available: int, *, what: str) -> None:
    """Raises DataError when ``needed`` bytes are more than half of the ``available`` ones."""
    if needed > available / 2:
        raise DataError(
            f"{what} take {needed / 2**30:.1f} GiB in memory and {available / 2**30:.1f} GiB are available, of which "
            "half is for images: use fewer or smaller ones, or a larger machine"
        )


def shown(name: Path | str) -> str:
    """A path or file name that can be printed, whatever bytes it is made of: on one line, and no order to a terminal."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
