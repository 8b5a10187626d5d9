"""From the text after ``--data`` to a training pool and a sealed test part.

``prepare`` decodes everything once, on the driver, and keeps it where memory suffices; files that need more stay where
they are (``images.py``). Same data, same seed: same images, same fingerprint, wherever they are kept.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.data.groups import numbered
from study.data.images import Files, Images, memory_for_images, open_all, shown
from study.data.parts import Division, divide
from study.data.sealed import Prepared, some, source_of
from study.data.sources import Content, Part, sources, spellings
from study.data.split import sealed_share, split
from study.protocol.errors import InputError


def prepare(spec: str, *, seed: int, root: Path, test: str = "", memory: int | None = None) -> Prepared:
    """Decode the data set that ``spec`` names, spelled as one of ``spellings()``.

    ``test`` is what was given to ``--test``. ``seed`` decides which images become the test part where the data set brings
    none; ``root`` is the folder that downloads go to. Files are decoded into memory up to ``memory`` bytes, by default
    half of what is available, and beyond that each time they are used. Raises InputError.
    """
    if shown(spec) != spec:
        raise InputError(f"the name {shown(spec)} is no text, or more than a line: rename the folder")
    content = _content(spec, root)
    found = divide(spec, content, test)
    images, scaled, kept = _opened(found, memory_for_images() if memory is None else memory)
    notes = [*content.notes, *found.notes, *scaled, *_group(found, images)]
    if found.test:
        return Prepared(
            spec=spec, classes=content.classes, train=images[0], test=images[1], notes=notes, kept=kept,
            source=_source(found.test),
        )  # fmt: skip
    pool = images[0]
    share = sealed_share(len(pool)) if found.share is None else found.share
    train, apart = split(pool.labels, val=_sealed_images(pool.labels, share), seed=seed, groups=pool.groups)
    why = "no test part of its own" if found.share is None else f"--test {test}"
    notes.append(f"{why}: {share:.0%} of each class set apart as the test, by seed {seed}")
    return Prepared(
        spec=spec, classes=content.classes, train=some(pool, train), test=some(pool, apart), notes=notes, kept=kept,
        apart=True, source=_source(found.pool, apart),
    )  # fmt: skip


def _group(found: Division, images: Sequence[Images]) -> list[str]:
    """Give the images their groups, if they have any, and say so."""
    parts = [found.pool, *([found.test] if found.test else [])]
    if not any(part.groups for part in parts):
        return []
    groups = numbered([name for part in parts for name in part.groups or [""] * len(part.labels)])
    split_at = np.split(groups, [len(images[0])])
    for own, among in zip(images, split_at, strict=False):
        own.groups = among
    told = [f"{len(np.unique(groups))} groups of images, each on one side of every split"]
    if found.test and (both := int(np.isin(split_at[1], split_at[0]).sum())):
        told.append(f"WARNING: {both} of {len(images[1])} test images are of groups that are trained on too")
    return told


def _sealed_images(labels: NDArray[np.int64], share: float) -> int:
    """How many images become the test: at least one of each class, and at most what leaves two of each."""
    classes = len(np.unique(labels))
    return min(max(classes, round(share * len(labels))), len(labels) - 2 * classes)


def _content(spec: str, root: Path) -> Content:
    known = sources()
    for source in known:
        if (argument := source.argument(spec)) is not None:
            return source.read(argument, root)
    with suppress(OSError, RuntimeError):  # a name too long, no such user's home
        for source in reversed(known):  # a folder of shards is for parquet before it is one of images
            if spec and source.takes(spec):
                return source.read(spec, root)
    raise InputError(
        f"no data set {spec!r}. There are: {', '.join(spellings())}, or the path of a folder that holds <class>/<image> or "
        "train/<class>/<image>, or of a table"
    )


def _opened(found: Division, memory: int) -> tuple[list[Images], list[str], str]:
    """Training and test images as one kind, notes on their scaling, and where they are kept."""
    parts = [found.pool, *([found.test] if found.test else [])]
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
