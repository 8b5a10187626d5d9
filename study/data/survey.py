"""The first reading of all files: what is there, what is lost, how it will be read, and where it is kept.

The training pool alone decides size, colour and white. A file that cannot be read is left out and counted; ``losses``
decides whether the study may go on without it.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.data.images import TASK, Files, Images, Streamed, path_of, quiet, shown, threads_here
from study.data.looks import Looks, first_bytes
from study.data.losses import Loss
from study.data.reading import (
    BACKGROUND,
    Facts,
    Fit,
    Header,
    Reading,
    UnreadableError,
    formats,
    header,
    read_with_facts,
    white_of,
)

LARGEST_SIDE = 224
"""Unless ``--size`` says more."""
SMALLEST_SIDE = 8
MANY = 64
"""Files per task that only reads headers."""
FACTS = tuple(field.name for field in fields(Facts))
Labelled = tuple[Files, Sequence[int] | NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the files of every part hold."""

    images: list[Images]
    files: list[Files]
    """Those that were read, in the order of ``images``."""
    rows: list[NDArray[np.int64]]
    """Their positions among the files given."""
    looks: list[Looks]
    reading: Reading
    cut: float
    """Share of all pixels that the fit cuts away."""
    losses: list[Loss]
    notes: list[str]
    kept: str
    """Where the images are kept, and why."""


def survey(parts: Sequence[Labelled], memory: int, *, size: int | None, fit: Fit) -> Survey:
    """Read the files of every part (the first is the training pool) at ``size`` pixels, by default what suits them.

    Images that fit into ``memory`` bytes are decoded now, others at each use.
    """
    formats()
    with quiet():
        whole = [_headers(files, labels) for files, labels in parts]
        reading = _reading(whole[0].headers, size, fit)
        needed = sum(len(part.labels) for part in whole) * reading.channels * reading.size**2
        read = [_decoded(part, reading, keep=needed <= memory) for part in whole]
    sizes = np.concatenate([part.sizes for part in read])
    cut = float((1 - sizes.min(axis=1) / sizes.max(axis=1)).mean()) if fit == "crop" and len(sizes) else 0.0
    return Survey(
        images=[part.images for part in read],
        files=[part.files for part in read],
        rows=[part.rows for part in read],
        looks=[part.looks for part in read],
        reading=reading,
        cut=cut,
        losses=[loss for part in read for loss in part.losses],
        notes=_notes(read, reading, cut),
        kept=_kept([files.root for files, _ in parts], needed, memory),
    )


def _kept(roots: Sequence[Path], needed: int, memory: int) -> str:
    room = (
        f"Decoded they take {needed / 2**30:.2f} GiB, and {memory / 2**30:.2f} GiB of memory are for them: "
    )
    if needed <= memory:
        return f"{room}they are kept there."
    return (
        f"{room}they stay in their files, and each trial decodes what it uses. Every node needs "
        f"{' and '.join(dict.fromkeys(map(shown, roots)))}."
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The files of one part that have a header, and what it says."""

    files: Files
    rows: NDArray[np.int64]
    """Positions among the files given."""
    labels: NDArray[np.int64]
    headers: Sequence[Header]
    lengths: NDArray[np.int64]
    """Of the files, in bytes."""
    losses: Sequence[Loss]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """The files of one part that could be decoded."""

    images: Images
    files: Files
    rows: NDArray[np.int64]
    looks: Looks
    sizes: NDArray[np.int64]
    """Width and height, ``(n, 2)``."""
    facts: NDArray[np.bool_]
    """A column for each of ``FACTS``."""
    losses: Sequence[Loss]


def _run(task: Callable[[int], None], starts: range) -> None:
    with ThreadPoolExecutor(threads_here()) as pool:
        try:
            for _ in pool.map(task, starts):
                pass
        finally:
            pool.shutdown(cancel_futures=True)


def _headers(files: Files, labels: Sequence[int] | NDArray[np.int64]) -> _Part:
    found: list[Header | UnreadableError | None] = [None] * len(files.names)
    lengths = np.zeros(len(found), dtype=np.int64)

    def look(start: int) -> None:
        for i in range(start, min(start + MANY, len(found))):
            path = path_of(files.root, files.names[i])
            try:
                found[i] = header(path)
                lengths[i] = path.stat().st_size
            except (UnreadableError, OSError) as error:
                found[i] = (
                    error if isinstance(error, UnreadableError) else UnreadableError("broken", str(error))
                )

    _run(look, range(0, len(found), MANY))
    losses = [
        Loss.of(files, i, int(label), got)
        for i, (label, got) in enumerate(zip(labels, found, strict=True))
        if isinstance(got, UnreadableError)
    ]
    good = [i for i, got in enumerate(found) if isinstance(got, Header)]
    return _Part(
        files=files.take(good),
        rows=np.array(good, dtype=np.int64),
        labels=np.asarray(labels, dtype=np.int64)[good],
        headers=[got for got in found if isinstance(got, Header)],
        lengths=lengths[good],
        losses=losses,
    )


def _decoded(part: _Part, reading: Reading, *, keep: bool) -> _Read:
    """Every file decoded once; the pixels are kept in memory, or dropped."""
    count, shape = len(part.labels), (reading.channels, reading.size, reading.size)
    pixels = np.empty((count if keep else 0, *shape), dtype=np.uint8)
    looks, facts = (
        Looks.empty(count, reading.channels, reading.size),
        np.zeros((count, len(FACTS)), dtype=np.bool_),
    )
    failed: dict[int, UnreadableError] = {}

    def decode(start: int) -> None:
        rows = range(start, min(start + TASK, count))
        block = pixels[start : rows.stop] if keep else np.empty((len(rows), *shape), dtype=np.uint8)
        for place, i in enumerate(rows):
            try:
                path = path_of(part.files.root, part.files.names[i])
                block[place], did = read_with_facts(path, reading)
                with path.open("rb") as file:
                    looks.source[i] = first_bytes(hashlib.file_digest(file, "sha256"))
                facts[i] = [getattr(did, name) for name in FACTS]
            except UnreadableError as error:
                failed[i], block[place] = error, 0
        looks.see(start, block)

    _run(decode, range(0, count, TASK))
    lost = [Loss.of(part.files, i, int(part.labels[i]), failed[i]) for i in sorted(failed)]
    good = np.array([i for i in range(count) if i not in failed], dtype=np.int64)
    if failed:
        pixels, looks, facts = pixels[good] if keep else pixels, looks.take(good), facts[good]
    files, labels = part.files.take(good), part.labels[good]
    sizes = np.array([(h.width, h.height) for h in part.headers], dtype=np.int64).reshape(-1, 2)
    return _Read(
        images=Images(pixels, labels, files.called)
        if keep
        else Streamed(
            files.root,
            np.array(files.names),
            part.lengths[good],
            labels,
            reading,
            files.called if files.titles else None,
        ),
        files=files,
        rows=part.rows[good],
        looks=looks,
        sizes=sizes[good],
        facts=facts,
        losses=[*part.losses, *lost],
    )


def _reading(pool: Sequence[Header], size: int | None, fit: Fit) -> Reading:
    if size is None:
        size, sides = SMALLEST_SIDE, [(h.width, h.height) for h in pool]
        if sides:
            shorter = np.array(sides).min(axis=1)
            square = len(set(sides)) == 1 and len(set(sides[0])) == 1
            usual = int(shorter[0]) if square else int(np.median(shorter)) // 8 * 8
            size = min(LARGEST_SIDE, max(SMALLEST_SIDE, usual))
    deep = [h.brightest for h in pool if h.brightest is not None]
    return Reading(
        size=size,
        channels=1 if all(h.grey for h in pool) else 3,
        fit=fit,
        white=white_of(max(deep)) if deep else 0.0,
    )


def _notes(parts: Sequence[_Read], reading: Reading, cut: float) -> list[str]:
    """What was done to the images."""
    done = dict(zip(FACTS, np.concatenate([part.facts for part in parts]).sum(axis=0).tolist(), strict=True))
    sizes = np.concatenate([part.sizes for part in parts])
    told = [
        (done["turned"], "turned upright by their EXIF orientation"),
        (done["transparent"], f"with transparency laid over grey ({BACKGROUND})"),
        (done["deep"], f"of more than 8 bits divided by {reading.white:g} to the range of 8"),
        (
            done["colours16"],
            "of 16 bits per colour divided by 256 to the range of 8",
        ),
        (done["frames"], "animations or stacks, of which the first frame is read"),
        (done["reduced"], "decoded at a reduced size, as large JPEGs"),
    ]
    notes = [f"{count} of {len(sizes)} images {what}" for count, what in told if count]
    if done["dark"] and done["dark"] == done["colours16"]:
        dark = [(part.files, part.facts[:, FACTS.index("dark")]) for part in parts]
        first = next(files.title(int(of.argmax())) for files, of in dark if of.any())
        notes.append(
            f"WARNING: no value of these reaches 32768, as in {first}: where a smaller value than 65535 is white, as 4095 of 12 "
            "bits, nets see them nearly black; multiply the values, or save them with 8 bits"
        )
    if not done["scaled"]:
        return notes
    ratio = sizes.max(axis=1) / sizes.min(axis=1).clip(min=1)
    side = f"{reading.size} x {reading.size} pixels"
    how = {
        "crop": f"their ends cut away, {cut:.1%} of all pixels and up to {1 - 1 / ratio.max():.0%} of an image",
        "pad": f"grey beside them, {(1 - 1 / ratio).mean():.1%} of what a net sees",
        "squash": f"stretched, {np.median(ratio):.2g} times at the median and {ratio.max():.2g} at most",
    }
    ends = f" ({how[reading.fit]}: --fit {reading.fit})" if (ratio > 1).any() else ""
    return [*notes, f"{done['scaled']} of {len(sizes)} images scaled to {side}{ends}"]
