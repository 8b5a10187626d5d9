"""Image files -> uint8 arrays, and what can be wrong with them.

A pool of threads decodes (Pillow releases the interpreter lock meanwhile) and keeps the files' order. An error names
the file that cannot be decoded; none is skipped. Images that do not fit in memory stay in their files and are decoded
at each use, to the same bytes.
"""

import os
import unicodedata
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from study.memory import free_memory
from study.protocol.errors import InputError
from study.protocol.settings import SETTINGS

LARGEST_SIDE = 224
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow may try: it reads more, but runs programs for some."""
AHEAD = 2
"""Batches decoded ahead of the one in use."""
BLOCK = 32
TASK = 4
"""Images per decoding task of a thread."""
MANY = 64
"""Files per task that only reads sizes."""
FEW = 10
"""Most names in a message."""


@dataclass(frozen=True)
class Files:
    """Image files in a fixed order."""

    root: Path
    names: Sequence[bytes]
    """Relative to ``root``."""


class Images:
    """Square images and their labels, in a fixed order, in memory."""

    groups: NDArray[np.int64] | None = None
    """``(n,)``: equal for images that no split may part; None where every image stands alone. ``take`` leaves it behind."""

    def __init__(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self._pixels = pixels
        self.labels = labels
        """``(n,)``, positions in ``DataCard.classes``."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All of them, ``(n, c, s, s)``, C-contiguous."""
        return self._pixels

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, c, s, s)``."""
        return self._pixels.shape

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Images":
        """A copy of some of them, in the order of ``indices``."""
        return Images(self._pixels[indices], self.labels[indices])

    def fill(self, out: NDArray[np.uint8], indices: NDArray[np.int64]) -> None:
        """Write the pixels of some of them into ``out``, ``(len(indices), c, s, s)``."""
        out[:] = self._pixels[indices]

    def arrays(self) -> dict[str, Any]:
        """Everything that ``from_arrays`` needs to restore them, for ``np.savez``."""
        return {"pixels": self._pixels, "labels": self.labels}


class Streamed(Images):
    """Images that stay in their files and are decoded at each use.

    ``pixels`` decodes all of them into memory. Every process that uses them, on any node, needs the same files at
    ``root``: a file whose length has changed is refused. There is no decoded copy on disk: 1.3 million images of 224
    pixels would take 180 GiB, and decoding one takes 0.6 ms of a core, 2.4 ms when it has to be scaled from 500 x 375
    (``tests/bench/stream.py``).
    """

    def __init__(
        self,
        root: Path,
        names: NDArray[np.bytes_],
        lengths: NDArray[np.int64],
        labels: NDArray[np.int64],
        *,
        mode: str,
        side: int,
    ) -> None:
        """``names`` are relative to ``root``, ``lengths`` the files' in bytes; ``mode`` is Pillow's, L or RGB."""
        self.labels = labels
        self._root, self._names, self._lengths, self._mode, self._side = root, names, lengths, mode, side

    @property
    def pixels(self) -> NDArray[np.uint8]:
        whole = np.empty(self.shape, dtype=np.uint8)
        for start, block in zip(range(0, len(self), BLOCK), blocks(self), strict=True):
            whole[start : start + BLOCK] = block
        return whole

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), 1 if self._mode == "L" else 3, self._side, self._side)

    def take(self, indices: NDArray[np.int64]) -> "Streamed":
        return Streamed(
            self._root,
            self._names[indices],
            self._lengths[indices],
            self.labels[indices],
            mode=self._mode,
            side=self._side,
        )

    def fill(self, out: NDArray[np.uint8], indices: NDArray[np.int64]) -> None:
        for row, index in zip(out, indices, strict=True):
            file, length = _path(self._root, self._names[index]), int(self._lengths[index])
            with suppress(OSError):  # opening it below says what is wrong
                if (here := file.stat().st_size) != length:
                    raise InputError(
                        f"{shown(file)} has {here} bytes on {os.uname().nodename}, and {length} where the study was "
                        "started: the images have to stay as they were, and be the same on every node"
                    )
            row[:] = _pixels(file, self._mode, self._side)

    def arrays(self) -> dict[str, Any]:
        return {
            "root": np.array(os.fsencode(self._root)),
            "names": self._names,
            "lengths": self._lengths,
            "labels": self.labels,
            "mode": np.array(self._mode),
            "side": np.array(self._side),
        }


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Images:
    """The images that ``Images.arrays`` describes."""
    if "pixels" in arrays:
        return Images(arrays["pixels"], arrays["labels"])
    return Streamed(
        Path(os.fsdecode(arrays["root"].item())),
        arrays["names"],
        arrays["lengths"],
        arrays["labels"],
        mode=str(arrays["mode"]),
        side=int(arrays["side"]),
    )


def fetched(
    images: Images,
    batches: Iterable[NDArray[np.int64]],
    *,
    threads: int,
    new: Callable[[tuple[int, ...]], NDArray[np.uint8]] = lambda shape: np.empty(shape, dtype=np.uint8),
) -> Iterator[NDArray[np.uint8]]:
    """The pixels of each batch of positions in turn, in arrays from ``new``; threads decode ``AHEAD`` batches ahead.

    Raises InputError with the name of the first file, in their order, that cannot be decoded.
    """
    Image.preinit()
    waiting: deque[tuple[NDArray[np.uint8], list[Future[None]]]] = deque()

    def first() -> NDArray[np.uint8]:
        pixels, tasks = waiting.popleft()
        for task in tasks:
            task.result()
        return pixels

    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch in batches:
                pixels = new((len(batch), *images.shape[1:]))
                parts = [slice(start, start + TASK) for start in range(0, len(batch), TASK)]
                waiting.append((pixels, [pool.submit(images.fill, pixels[p], batch[p]) for p in parts]))
                if len(waiting) > AHEAD:
                    yield first()
            while waiting:
                yield first()
        finally:
            pool.shutdown(cancel_futures=True)


def blocks(images: Images) -> Iterator[NDArray[np.uint8]]:
    """All pixels in their order, ``BLOCK`` images at a time."""
    everything = np.arange(len(images))
    parts = (everything[start : start + BLOCK] for start in range(0, len(images), BLOCK))
    return fetched(images, parts, threads=_threads())


def open_all(
    parts: Sequence[tuple[Files, Sequence[int] | NDArray[np.int64]]], memory: int
) -> tuple[list[Images], str, str]:
    """The images of every part (its files and labels), a note on what was scaled, and a sentence on where they are kept.

    The first part alone, the training pool, decides size and colour. Images that fit into ``memory`` bytes are decoded
    now, others at each use.
    """
    sizes, grey, lengths = _headers([(files.root, name) for files, _ in parts for name in files.names])
    of_part = np.split(lengths, np.cumsum([len(files.names) for files, _ in parts])[:-1])
    pool = len(parts[0][0].names)
    shorter = sizes[:pool].min(axis=1)
    if (sizes[:pool] == sizes[0, 0]).all():
        side = min(LARGEST_SIDE, max(8, int(shorter[0])))
    else:
        side = min(LARGEST_SIDE, max(8, int(np.median(shorter)) // 8 * 8))
    mode = "L" if grey[:pool].all() else "RGB"
    images: list[Images] = [
        Streamed(
            files.root,
            np.array(files.names),
            own,
            np.asarray(labels, dtype=np.int64),
            mode=mode,
            side=side,
        )
        for (files, labels), own in zip(parts, of_part, strict=True)
    ]
    scaled = int((sizes != side).any(axis=1).sum())
    note = f"{scaled} of {len(sizes)} images scaled to a shorter side of {side} pixels, centre kept"
    needed = sum(int(np.prod(part.shape)) for part in images)
    kept = (
        f"Decoded they take {needed / 2**30:.2f} GiB, and {memory / 2**30:.2f} GiB of memory are for them: "
    )
    if needed <= memory:
        with quiet():
            images = [Images(part.pixels, part.labels) for part in images]  # no part shares memory
        kept += "they are kept there."
    else:
        roots = " and ".join(dict.fromkeys(shown(files.root) for files, _ in parts))
        kept += f"they stay in their files, and each trial decodes what it uses. Every node needs {roots}."
    return images, note if scaled else "", kept


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The image in ``file``; any error becomes a InputError with its name."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0):  # Pillow only warns
                raise InputError(f"its {image.width} x {image.height} pixels could be a decompression bomb")
            if image.mode.startswith(("I", "F")):
                raise InputError(f"its pixels are of more than 8 bits (mode {image.mode})")
            yield image
    except Exception as error:  # decoders raise what they like
        raise InputError(f"{shown(file)} cannot be used: {error}. Repair or remove it") from error


def _path(root: Path, name: bytes) -> Path:
    return root / os.fsdecode(name)


def _headers(
    files: Sequence[tuple[Path, bytes]],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Of every image: width and height, ``(n, 2)``, whether it is grey, ``(n,)``, and its file's bytes, ``(n,)``."""
    sizes, grey = np.empty((len(files), 2), dtype=np.int64), np.empty(len(files), dtype=np.bool_)
    lengths = np.empty(len(files), dtype=np.int64)

    def look(start: int) -> None:
        for i in range(start, min(start + MANY, len(files))):
            file = _path(*files[i])
            with _opened(file) as image:
                sizes[i], grey[i], lengths[i] = image.size, image.mode == "L", file.stat().st_size

    Image.preinit()
    with quiet(), ThreadPoolExecutor(_threads()) as pool:
        try:
            for _ in pool.map(look, range(0, len(files), MANY)):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    return sizes, grey, lengths


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


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings of odd files: whatever it can decode is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def memory_for_images() -> int:
    """Bytes that decoded images may take: half of the memory that is free now."""
    return int(SETTINGS.memory_share * free_memory())


def shown(name: Path | str) -> str:
    """A path or file name, of any bytes, as printable text: one line, no control codes for a terminal."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


def few(names: Sequence[str]) -> str:
    """The names, or the first ``FEW`` and the number of the rest."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
