"""From the text after ``--data`` to a training pool and a sealed test part.

``prepare`` decodes everything once, on the driver, and keeps it where memory suffices; files that need more stay where
they are (``images.py``). Same data, same seed: same images, same fingerprint, wherever they are kept.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.data.images import Files, Images, few, memory_for_images, open_all, shown
from study.data.sealed import SMALLEST_CLASS, Prepared, source_of
from study.data.sources import Content, Part, sources, spellings
from study.data.split import sealed_share, split
from study.protocol.errors import InputError


def prepare(spec: str, *, seed: int, root: Path, memory: int | None = None) -> Prepared:
    """Decode the data set that ``spec`` names, spelled as one of ``spellings()``.

    ``seed`` decides which images become the test part where the data set brings none; ``root`` is the folder that
    downloads go to. Files are decoded into memory up to ``memory`` bytes, by default half of what is available, and
    beyond that each time they are used. Raises InputError.
    """
    if shown(spec) != spec:
        raise InputError(f"the name {shown(spec)} is no text, or more than a line: rename the folder")
    content = _content(spec, root)
    _check_classes(spec, content)
    images, notes, kept = _opened(content, memory_for_images() if memory is None else memory)
    notes = [*content.notes, *_absent(content), *notes]
    if content.test:
        return Prepared(
            spec=spec, classes=content.classes, train=images[0], test=images[1], notes=notes, kept=kept,
            source=_source(content.test),
        )  # fmt: skip
    pool, share = images[0], sealed_share(len(images[0]))
    train, test = split(pool.labels, val=max(len(content.classes), round(share * len(pool))), seed=seed)
    notes.append(f"no test part of its own: {share:.0%} of each class set apart as the test, by seed {seed}")
    return Prepared(
        spec=spec, classes=content.classes, train=pool.take(train), test=pool.take(test), notes=notes, kept=kept,
        apart=True, source=_source(content.train, test),
    )  # fmt: skip


def _content(spec: str, root: Path) -> Content:
    for source in sources():
        if (argument := source.argument(spec)) is not None:
            return source.read(argument, root)
    raise InputError(
        f"no data set {spec!r}. There are: {', '.join(spellings())}, where PATH is a folder that holds "
        "train/<class>/<image>"
    )


def _check_classes(spec: str, content: Content) -> None:
    classes = content.classes
    if len(classes) < 2:
        raise InputError(f"{spec} has one class, {classes[0]!r}: at least two are needed to tell apart")
    counts = np.bincount(content.train.labels, minlength=len(classes))
    if counts.min() < SMALLEST_CLASS:
        raise InputError(
            f"{spec} has {counts.min()} training images of class {classes[counts.argmin()]!r}: at least "
            f"{SMALLEST_CLASS} of each class are needed. Add some, or remove the class"
        )


def _absent(content: Content) -> list[str]:
    """That some classes have no test images."""
    if not content.test:
        return []
    absent = sorted({content.classes[i] for i in {*content.train.labels} - {*content.test.labels}})
    return [f"no test images of {few(absent)}"] if absent else []


def _opened(content: Content, memory: int) -> tuple[list[Images], list[str], str]:
    """Training and test images as one kind, notes on their scaling, and where they are kept."""
    parts = [content.train, *([content.test] if content.test else [])]
    files = [(part.images, part.labels) for part in parts if isinstance(part.images, Files)]
    if files:
        images, note, kept = open_all(files, memory)
        return images, [note] if note else [], kept
    arrays = [(part.images, part.labels) for part in parts if not isinstance(part.images, Files)]
    return [Images(pixels, np.asarray(labels, dtype=np.int64)) for pixels, labels in arrays], [], ""


def _source(part: Part, chosen: NDArray[np.int64] | None = None) -> str:
    """One hash of what the part's files, or those at the positions ``chosen``, hold; empty where there are no files."""
    if not isinstance(part.images, Files):
        return ""
    root, names = part.images.root, part.images.names
    return _files_hash(root, names if chosen is None else [names[i] for i in chosen])


def _files_hash(root: Path, names: Sequence[bytes]) -> str:
    """Of the files' content, whatever their names."""

    def digest(name: bytes) -> str:
        with (root / os.fsdecode(name)).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    try:
        with ThreadPoolExecutor() as pool:
            return source_of(pool.map(digest, names))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
