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

from study.data.groups import numbered
from study.data.images import Files, Images, memory_for_images, shown
from study.data.opened import Asked, open_parts
from study.data.parts import check, divide
from study.data.sealed import Prepared, some, source_of
from study.data.sources import Content, Part, chosen_source
from study.data.split import sealed_share, split
from study.protocol.errors import InputError
from study.protocol.plan import Plan


def prepare(
    spec: str, *, seed: int, root: Path, test: str = "", asked: Asked | None = None, memory: int | None = None
) -> Prepared:
    """Decode the data set that ``spec`` names, spelled as one of ``spellings()``.

    ``test`` is what was given to ``--test``. ``seed`` decides which images become the test part where the data set brings
    none; ``root`` is the folder that downloads go to. Files are decoded into memory up to ``memory`` bytes, by default
    half of what is available, and beyond that each time they are used. Raises InputError.
    """
    if shown(spec) != spec:
        raise InputError(f"the name {shown(spec)} is no text, or more than a line: rename the folder")
    asked = asked or Asked()
    content = _content(spec, root)
    classes, division = content.classes, divide(spec, content, test)
    parts = [division.pool, *([division.test] if division.test else [])]
    found = open_parts(parts, asked, memory_for_images() if memory is None else memory)
    found.check(classes, asked)
    check(spec, classes, *found.parts)  # once more, without what was lost
    pool, notes = (
        found.images[0],
        [*content.notes, *division.notes, *found.notes, *_group(found.parts, found.images)],
    )
    if division.test:
        prepared = Prepared(
            spec=spec, classes=classes, train=pool, test=found.images[1], notes=notes, kept=found.kept,
            source=_source(found.parts[1]), hashes=found.hashes(found.seen(0), found.seen(1)),
            sources=(found.seen(0).looks.source, found.seen(1).looks.source),
        )  # fmt: skip
        prepared.card = found.card(prepared.card, found.seen(0), found.seen(1), asked)
        return prepared
    share = sealed_share(len(pool)) if division.share is None else division.share
    train, apart = split(pool.labels, val=_sealed_images(pool.labels, share), seed=seed, groups=pool.groups)
    why = "no test part of its own" if division.share is None else f"--test {test}"
    notes.append(f"{why}: {share:.0%} of each class set apart as the test, by seed {seed}")
    prepared = Prepared(
        spec=spec, classes=classes, train=some(pool, train), test=some(pool, apart), notes=notes, kept=found.kept,
        apart=True, source=_source(found.parts[0], apart), hashes=found.hashes(found.seen(0, train), found.seen(0, apart)),
        sources=(found.seen(0, train).looks.source, found.seen(0, apart).looks.source),
    )  # fmt: skip
    prepared.card = found.card(prepared.card, found.seen(0, train), found.seen(0, apart), asked)
    return prepared


def prepare_again(plan: Plan, root: Path) -> Prepared:
    """The data of a plan, read as the plan says."""
    card = plan.data
    asked = Asked(size=card.size, fit=card.fit or Asked.fit, allow_losses=card.allow_losses)
    return prepare(card.spec, seed=plan.seed, root=root, test=plan.test, asked=asked)


def _group(parts: Sequence[Part], images: Sequence[Images]) -> list[str]:
    """Give the images their groups, if they have any, and say so."""
    if not any(part.groups for part in parts):
        return []
    groups = numbered([name for part in parts for name in part.groups or [""] * len(part.labels)])
    split_at = np.split(groups, [len(images[0])])
    for own, among in zip(images, split_at, strict=False):
        own.groups = among
    told = [f"{len(np.unique(groups))} groups of images, each on one side of every split"]
    if len(parts) > 1 and (both := int(np.isin(split_at[1], split_at[0]).sum())):
        told.append(f"WARNING: {both} of {len(images[1])} test images are of groups that are trained on too")
    return told


def _sealed_images(labels: NDArray[np.int64], share: float) -> int:
    """How many images become the test: at least one of each class, and at most what leaves two of each."""
    classes = len(np.unique(labels))
    return min(max(classes, round(share * len(labels))), len(labels) - 2 * classes)


def _content(spec: str, root: Path) -> Content:
    source, argument = chosen_source(spec)
    return source.read(argument, root)


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
