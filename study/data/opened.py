"""The parts of a data set as images that are read alike, and what they have in common."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from study.data import losses
from study.data.images import BLOCK, Files, Images
from study.data.looks import Looks, contradictions, first_bytes, near
from study.data.losses import Loss
from study.data.reading import Fit, Reading
from study.data.sources import Part
from study.data.survey import survey
from study.protocol.question import DataCard
from study.protocol.text import counted, few

NAMED = 3
"""Pairs of pictures that a warning names."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How the user wants the images read."""

    size: int | None = None
    """Pixels per side; None: what suits the training images."""
    fit: Fit = "squash"
    allow_losses: bool = False
    """Whether more than 1 % of a class may be left out."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The training pool and, where there is one, the test: without the files that could not be read."""

    parts: list[Part]
    images: list[Images]
    looks: list[Looks]
    reading: Reading | None
    """None where the images are no files."""
    cut: float
    lost: list[Loss]
    notes: list[str]
    kept: str

    def check(self, classes: Sequence[str], asked: Asked) -> None:
        """Raises InputError when too much of a class is lost."""
        read = np.bincount(np.concatenate([i.labels for i in self.images]), minlength=len(classes))
        losses.check(self.lost, read, classes, allowed=asked.allow_losses)

    def hashes(self, train: "Seen", test: "Seen") -> tuple[NDArray[np.uint64], NDArray[np.uint64]] | None:
        """Of each image's pixels; None for arrays, whose fingerprint is that of earlier versions."""
        return (train.looks.exact, test.looks.exact) if self.reading else None

    def card(self, card: DataCard, train: "Seen", test: "Seen", asked: Asked) -> DataCard:
        """The card with what is known of the files; ``train`` may hold copies that the study leaves out."""
        many = len(card.classes)
        warnings, alike = resemblance(train, test)
        roots = [str(part.images.root) for part in self.parts if isinstance(part.images, Files)]
        return dataclasses.replace(
            card,
            fit=self.reading.fit if self.reading else "",
            white=self.reading.white if self.reading else 0.0,
            cut=self.cut,
            train_counts=tuple(np.bincount(train.labels, minlength=many).tolist()),
            test_counts=tuple(np.bincount(test.labels, minlength=many).tolist()),
            left_out=losses.summary(self.lost, Path(os.path.commonpath(roots or ["."]))),
            allow_losses=asked.allow_losses,
            near=alike,
            note="\n".join(filter(None, [card.note, *warnings])),
        )

    def seen(self, part: int, rows: NDArray[np.int64] | None = None) -> "Seen":
        """The images of a part, or those in ``rows``."""
        rows = np.arange(len(self.images[part])) if rows is None else rows
        return Seen(self.looks[part].take(rows), self.images[part].labels[rows], self.parts[part], rows)


@dataclass(frozen=True)
class Seen:
    """Images as ``looks`` knows them."""

    looks: Looks
    labels: NDArray[np.int64]
    part: Part
    rows: NDArray[np.int64]
    """Positions in ``part``."""

    def name(self, i: int) -> str:
        files, row = self.part.images, int(self.rows[i])
        if not isinstance(files, Files):
            return f"image {row}"
        return files.title(row)


def open_parts(parts: Sequence[Part], asked: Asked, memory: int) -> Opened:
    """Read all parts, the training pool first. Files are decoded into at most ``memory`` bytes, else at each use."""
    files = [(part.images, part.labels) for part in parts if isinstance(part.images, Files)]
    if not files:
        return _arrays(parts, asked)
    found = survey(files, memory, size=asked.size, fit=asked.fit)
    lost = [f"left out: {losses.named(found.losses)}"] if found.losses else []
    return Opened(
        parts=[_only(*each) for each in zip(parts, found.files, found.rows, strict=True)],
        images=found.images, looks=found.looks, reading=found.reading, cut=found.cut, lost=found.losses, notes=found.notes + lost,
        kept=found.kept,
    )  # fmt: skip


def reading_of(card: DataCard) -> Reading:
    """How a study with this card reads an image file: for nets that are used on new files."""
    return Reading(size=card.size, channels=card.channels, fit=card.fit or Asked.fit, white=card.white)


def _only(part: Part, files: Files, rows: NDArray[np.int64]) -> Part:
    """The part without its unreadable files."""
    groups = [part.groups[i] for i in rows] if part.groups else None
    return Part(images=files, labels=np.asarray(part.labels, dtype=np.int64)[rows], groups=groups)


def _arrays(parts: Sequence[Part], asked: Asked) -> Opened:
    """Pixels that a source has in memory, scaled where ``--size`` asks for it."""
    images, looks, notes = [], [], list[str]()
    for part in parts:
        assert not isinstance(part.images, Files)
        pixels = part.images
        source = [first_bytes(hashlib.sha256(image.tobytes())) for image in pixels]
        if asked.size and asked.size != pixels.shape[-1]:
            notes = [f"images scaled from {pixels.shape[-1]} to {asked.size} x {asked.size} pixels"]
            pixels = _scaled(pixels, asked.size)
        look = Looks.empty(len(pixels), *pixels.shape[1:3])
        look.source[:] = source
        for start in range(0, len(pixels), BLOCK):
            look.see(start, pixels[start : start + BLOCK])
        images.append(Images(pixels, np.asarray(part.labels, dtype=np.int64)))
        looks.append(look)
    return Opened(
        parts=list(parts), images=images, looks=looks, reading=None, cut=0.0, lost=[], notes=notes, kept=""
    )


def _scaled(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    out = np.empty((*pixels.shape[:2], size, size), dtype=np.uint8)
    for image, into in zip(pixels.reshape(-1, *pixels.shape[2:]), out.reshape(-1, size, size), strict=True):
        into[:] = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return out


def resemblance(train: Seen, test: Seen) -> tuple[list[str], int]:
    """Warnings of pictures that are where they should not be, and how many test images are near copies."""
    looks = train.looks.and_those(test.looks)
    labels = np.concatenate([train.labels, test.labels])

    def name(i: int) -> str:
        return train.name(i) if i < len(train.labels) else test.name(i - len(train.labels))

    warnings = []
    if double := contradictions(looks, labels):
        pairs = few([f"{name(i)} = {name(j)}" for i, j in double], NAMED)
        warnings.append(
            f"WARNING: {counted(len(double), 'picture is', 'pictures are')} under two labels: {pairs}"
        )
    if alike := near(train.looks, test.looks):
        pairs = few([f"{test.name(i)} and {train.name(j)}" for i, j in alike], NAMED)
        warnings.append(
            f"WARNING: {len(alike)} of {len(test.labels)} test images look like a training image saved again in another "
            f"size, format or quality: {pairs}"
        )
    return warnings, len(alike)
