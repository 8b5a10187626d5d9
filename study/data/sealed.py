"""The training pool in the open, the test part sealed in a file.

``Prepared`` shows no test images: ``seal`` writes them, or which files they are, to a file and forgets them. ``unseal``
alone reads that file, and asks for the manifest of confirmed settings.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.data.groups import joined, of_copies
from study.data.images import Images, blocks, from_arrays, quiet
from study.data.parts import SMALLEST_CLASS
from study.protocol.errors import InputError
from study.protocol.question import DataCard
from study.protocol.records import Manifest
from study.protocol.rundir import replacing

Hashes = NDArray[np.uint64]
SMALLEST_TEST = 2


class Prepared:
    """What the study may know of its data: ``card`` and ``train``. The test part can only be sealed."""

    def __init__(
        self,
        *,
        spec: str,
        classes: tuple[str, ...],
        train: Images,
        test: Images,
        notes: Sequence[str] = (),
        kept: str = "",
        apart: bool = False,
        source: str = "",
        hashes: tuple[Hashes, Hashes] | None = None,
        sources: tuple[Hashes, Hashes] | None = None,
    ) -> None:
        """``source``: SHA-256 over the test's source files, if there are any. ``apart``: the study chose the test part, so
        copies of its images leave the training images. ``hashes``: of each image's pixels, if they were decoded before. ``sources``: the
        same before any scaling, by which a study at another size knows them.

        Raises InputError when the test part is too small to say anything, or all images of a class are copies.
        """
        _check_test(spec, test)
        self._test: Images | None = test
        self.test_source = source or source_of(
            hashlib.sha256(image.tobytes()).hexdigest() for block in blocks(test) for image in block
        )
        """Equal for all studies of the same test files, whatever size they scale the images to."""
        self.kept = kept
        """Where the images are kept, and why; another machine may keep them elsewhere."""
        fingerprint, (known, self._tested) = _of_hashes(train, test, hashes, classes)
        ours, self._tested_sources = sources or (known, self._tested)
        seen = [known, ours]
        notes, copies = list(notes), int(np.isin(self._tested, known).sum())
        if copies and apart:
            own = np.flatnonzero(~np.isin(known, self._tested))
            notes.append(f"{len(train) - len(own)} training images left out, as copies of test images")
            train, copies, known = some(train, own), 0, known[own]
            seen = [known, ours[own]]
        elif copies:
            notes.append(
                f"WARNING: {copies} of {len(test)} test images are training images too, pixel for pixel"
            )
        if apart:
            _check_classes(spec, classes, train)
        notes += _group_copies(train, known.tolist())
        self.train = train
        self.seen = np.unique(np.concatenate(seen))  # the training images and their sources, ascending
        self.card = DataCard(
            spec=spec,
            classes=classes,
            train=len(train),
            test=len(test),
            size=train.shape[-1],
            channels=train.shape[1],
            fingerprint=fingerprint,
            note="\n".join(notes),
            copies=copies,
            groups=0 if test.groups is None else len(np.unique(test.groups)),
        )

    def tested_among(self, seen: Hashes) -> int:
        """How many test images are among these."""
        return int((np.isin(self._tested, seen) | np.isin(self._tested_sources, seen)).sum())

    def seal(self, path: Path) -> None:
        """Write the test part to ``path`` (.npz, all or nothing) and forget it.

        Raises InputError when it is sealed already or the file cannot be written.
        """
        if self._test is None:
            raise InputError("the test part is sealed already: prepare the data again to seal it elsewhere")
        test = self._test
        arrays = test.arrays() | ({} if test.groups is None else {"groups": test.groups})
        try:
            with replacing(path) as file:
                np.savez(file, **arrays, sha256=np.array(_read(test)[0]))
        except OSError as error:
            raise InputError(f"the sealed test part cannot be written to {path}: {error}") from error
        self._test = None


def unseal(path: Path, manifest: Manifest) -> Images:
    """The test part that ``Prepared.seal`` wrote to ``path``.

    Raises InputError without a valid manifest, or when the file has changed since.
    """
    if not isinstance(manifest, Manifest) or manifest.sha256 != _hash(manifest):
        raise InputError(
            "the test part stays sealed until every arm has its confirmed setting: its manifest is missing "
            "or was changed after it was written"
        )
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            test = from_arrays(file)
            test.groups = dict(file).get("groups")
            sealed, found = str(file["sha256"]), _read(test)[0]
    except InputError:
        raise
    except Exception as error:  # a damaged archive fails in many ways, and all mean the same
        raise InputError(f"the sealed test part {path} cannot be read: {error}") from error
    if sealed != found:
        raise InputError(f"the sealed test part {path} is not what was sealed: start a new study")
    return test


def some(images: Images, own: NDArray[np.int64]) -> Images:
    """Only these, with their groups."""
    taken = images.take(own)
    taken.groups = None if images.groups is None else images.groups[own]
    return taken


def _check_test(spec: str, test: Images) -> None:
    if len(test) < SMALLEST_TEST:
        raise InputError(
            f"{spec} has {len(test)} test images, and fewer than {SMALLEST_TEST} say nothing: add some, or leave "
            "test/ out, and 10 to 30 % of the training images are set apart"
        )


def _check_classes(spec: str, classes: tuple[str, ...], train: Images) -> None:
    if (counts := np.bincount(train.labels, minlength=len(classes))).min() < SMALLEST_CLASS - 1:
        raise InputError(
            f"{spec} has too few different images of class {classes[counts.argmin()]!r}, the rest are copies or the test: at "
            f"least {SMALLEST_CLASS} of each class are needed. Add some, or remove the class"
        )


def _group_copies(images: Images, hashes: Sequence[int]) -> list[str]:
    """Make copies one group, and say so."""
    if (twins := of_copies(hashes)) is None:
        return []
    images.groups = twins if images.groups is None else joined(images.groups, twins)
    copies = len(hashes) - len(set(hashes))
    return [
        f"training images that are copies of others: {copies}, pixel for pixel; they stay on one side of every split"
    ]


def source_of(hashes: Iterable[str]) -> str:
    """One hash for a set of files or images, in any order."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def _hash(manifest: Manifest) -> str:
    return Manifest.of(manifest.choices, manifest.in_hand, look=manifest.look).sha256


def _of_hashes(
    train: Images, test: Images, hashes: tuple[Hashes, Hashes] | None, classes: tuple[str, ...]
) -> tuple[str, list[Hashes]]:
    """What ``_read`` gives, but from hashes of the images, if there are any, and without decoding them again."""
    if hashes is None:
        return _read(train, test, classes=classes)
    sha = hashlib.sha256(repr((classes, [train.shape, test.shape])).encode())
    for part, own in zip((train, test), hashes, strict=True):
        sha.update(own.astype("<u8").tobytes())
        sha.update(part.labels.astype("<i8").tobytes())
    return sha.hexdigest(), list(hashes)


def _read(*parts: Images, classes: tuple[str, ...] = ()) -> tuple[str, list[Hashes]]:
    """SHA-256 over all pixels and labels, and the first 8 bytes of that of every image; each is decoded once for both."""
    sha = hashlib.sha256(repr((classes, [part.shape for part in parts])).encode())
    hashes: list[list[bytes]] = [[] for _ in parts]
    with quiet():
        for part, found in zip(parts, hashes, strict=True):
            for block in blocks(part):
                sha.update(block.data)
                found += [hashlib.sha256(image.tobytes()).digest()[:8] for image in block]
            sha.update(part.labels.astype("<i8").tobytes())
    return sha.hexdigest(), [
        np.frombuffer(b"".join(found), dtype=">u8").astype(np.uint64) for found in hashes
    ]
