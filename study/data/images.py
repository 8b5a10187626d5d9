"""Images in memory, or in their files and decoded at each use, to the same bytes.

A pool of threads decodes (Pillow releases the interpreter lock meanwhile) and keeps the files' order. An error names
the file that cannot be decoded; none is skipped.
"""

import errno
import os
import unicodedata
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.reading import Reading, UnreadableError, formats, read
from study.memory import cores, free_memory
from study.protocol.errors import InputError
from study.protocol.settings import SETTINGS

AHEAD = 2
"""Batches decoded ahead of the one in use."""
BLOCK = 32
TASK = 4
"""Images per decoding task of a thread."""


@dataclass(frozen=True)
class Files:
    """Image files in a fixed order."""

    root: Path
    names: Sequence[bytes]
    """Relative to ``root``."""
    titles: Sequence[str] = ()
    """What predictions and pictures call them; empty: ``names``."""
    places: Sequence[str] = ()
    """Where their owner finds them, for messages; empty: at ``names``."""

    def take(self, rows: Iterable[int]) -> "Files":
        rows, own = list(rows), (self.titles, self.places)
        titles, places = ([of[i] for i in rows] if of else () for of in own)
        return Files(self.root, [self.names[i] for i in rows], titles, places)

    @property
    def called(self) -> NDArray[np.bytes_]:
        return np.array([os.fsencode(title) for title in self.titles] or self.names)

    def title(self, i: int) -> str:
        """Of one, as printable text."""
        return shown(self.titles[i] if self.titles else os.fsdecode(self.names[i]))


class Images:
    """Square images and their labels, in a fixed order, in memory."""

    groups: NDArray[np.int64] | None = None
    """``(n,)``: equal for images that no split may part; None where every image stands alone. ``take`` leaves it behind."""

    def __init__(
        self, pixels: NDArray[np.uint8], labels: NDArray[np.int64], names: NDArray[np.bytes_] | None = None
    ) -> None:
        """``names``: what the files are called that they were read from, where they come from files."""
        self._pixels = pixels
        self.labels = labels
        """``(n,)``, positions in ``DataCard.classes``."""
        self._names = names

    @property
    def names(self) -> tuple[str, ...]:
        """What their files are called, as printable text; empty where they come from no files."""
        return () if self._names is None else tuple(shown(os.fsdecode(name)) for name in self._names)

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
        names = None if self._names is None else self._names[indices]
        return Images(self._pixels[indices], self.labels[indices], names)

    def fill(self, out: NDArray[np.uint8], indices: NDArray[np.int64]) -> None:
        """Write the pixels of some of them into ``out``, ``(len(indices), c, s, s)``."""
        out[:] = self._pixels[indices]

    def arrays(self) -> dict[str, Any]:
        """Everything that ``from_arrays`` needs to restore them, for ``np.savez``."""
        named = {} if self._names is None else {"names": self._names}
        return {"pixels": self._pixels, "labels": self.labels} | named


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
        reading: Reading,
        titles: NDArray[np.bytes_] | None = None,
    ) -> None:
        """``names`` are relative to ``root``, ``lengths`` the files' in bytes; ``titles``: what they are called, if not so."""
        self.labels, self._files, self._titles = labels, names, titles
        self._names = names if titles is None else titles
        self._root, self._lengths, self._reading = root, lengths, reading

    @property
    def pixels(self) -> NDArray[np.uint8]:
        whole = np.empty(self.shape, dtype=np.uint8)
        for start, block in zip(range(0, len(self), BLOCK), blocks(self), strict=True):
            whole[start : start + BLOCK] = block
        return whole

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), self._reading.channels, self._reading.size, self._reading.size)

    def take(self, indices: NDArray[np.int64]) -> "Streamed":
        return Streamed(
            self._root,
            self._files[indices],
            self._lengths[indices],
            self.labels[indices],
            self._reading,
            None if self._titles is None else self._titles[indices],
        )

    def fill(self, out: NDArray[np.uint8], indices: NDArray[np.int64]) -> None:
        for row, index in zip(out, indices, strict=True):
            file, length = path_of(self._root, self._files[index]), int(self._lengths[index])
            with suppress(OSError):  # opening it below says what is wrong
                if (here := file.stat().st_size) != length:
                    raise InputError(
                        f"{shown(file)} has {here} bytes on {os.uname().nodename}, and {length} where the study was "
                        "started: the images have to stay as they were, and be the same on every node"
                    )
            try:
                row[:] = read(file, self._reading)
            except UnreadableError as error:
                raise InputError(f"{shown(file)} cannot be used: {error}. Repair or remove it") from error

    def arrays(self) -> dict[str, Any]:
        return {
            "root": np.array(os.fsencode(self._root)),
            "names": self._files,
            "lengths": self._lengths,
            "labels": self.labels,
            **({} if self._titles is None else {"titles": self._titles}),
            **{name: np.array(value) for name, value in vars(self._reading).items()},
        }


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Images:
    """The images that ``Images.arrays`` describes."""
    if "pixels" in arrays:
        return Images(arrays["pixels"], arrays["labels"], arrays.get("names", None))
    return Streamed(
        Path(os.fsdecode(arrays["root"].item())),
        arrays["names"],
        arrays["lengths"],
        arrays["labels"],
        Reading(**{field.name: arrays[field.name].item() for field in fields(Reading)}),
        arrays.get("titles", None),
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
    formats()
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
    return fetched(images, parts, threads=threads_here())


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings of odd files: whatever it can decode is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def path_of(root: Path, name: bytes) -> Path:
    return root / os.fsdecode(name)


def threads_here() -> int:
    return min(8, cores())


def memory_for_images() -> int:
    """Bytes that decoded images may take: half of the memory that is free now."""
    return int(SETTINGS.memory_share * free_memory())


def shown(name: Path | str) -> str:
    """A path or file name, of any bytes, as printable text: one line, no control codes for a terminal."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


def check_file(path: Path) -> None:
    """Raises OSError for a pipe or a device: opening the one waits for ever, and the other may have no end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is not a file", str(path))
