"""A data set as uint8 images: the training pool in the open, the test part sealed in a file.

``prepare`` decodes everything once, on the driver, and keeps it where memory suffices; a folder that is larger
stays in its files (``images.py``). What it hands out has no test images: ``seal`` writes them, or which
files they are, to a file and forgets them, and ``unseal`` is the only reader of that file, which asks for the
manifest of confirmed settings. Same data, same seed: same images, same fingerprint, wherever they are kept.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.data.images import (
    SUFFIXES,
    DataError,
    Images,
    blocks,
    from_arrays,
    memory_for_images,
    open_all,
    quiet,
    shown,
)
from study.protocol.plan import Plan
from study.protocol.question import DataCard
from study.protocol.records import Manifest

__all__ = ["DataError", "Images", "Prepared", "names", "prepare", "split", "split_for", "unseal"]

SEALED_SHARE = (0.1, 0.3)
"""Part of the images that is set apart where a data set brings no test: the first of many images, the second of few."""
SEALED_IMAGES = 1000
"""Images that are enough for the smaller share (METHOD.md 2)."""
CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
"""Our names -> torchvision's classes."""
FEW = 10
"""So many classes are named in a message."""
SMALLEST_TEST = 2
SMALLEST_CLASS = 3
"""Images per class under which training, validation and test cannot all have one."""


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
    ) -> None:
        """``source``: SHA-256 over the test's source files, where these are not the images themselves; ``apart``: the study chose the test part, so copies of its images do not stay among the training images.

        Raises DataError when the test part is too small to say anything, or a class is nothing but copies.
        """
        if len(test) < SMALLEST_TEST:
            raise DataError(
                f"{spec} has {len(test)} test images, and fewer than {SMALLEST_TEST} say nothing: add some, or leave "
                "test/ out, and 10 to 30 % of the training images are set apart"
            )
        self._test: Images | None = test
        self.test_source = source or source_of(
            hashlib.sha256(image.tobytes()).hexdigest() for block in blocks(test) for image in block
        )
        """What other studies of the same test files have too, whatever size they make of the images."""
        self.kept = kept
        """Where the images are kept, and why; another machine may keep them elsewhere."""
        fingerprint, (known, tested) = _read(train, test, classes=classes)
        copies = int(np.isin(tested, known).sum())
        told = list(notes)
        if copies and apart:
            own = np.flatnonzero(~np.isin(known, tested))
            told.append(f"{len(train) - len(own)} training images left out, as copies of test images")
            train, copies = train.take(own), 0
            if (counts := np.bincount(train.labels, minlength=len(classes))).min() < SMALLEST_CLASS - 1:
                raise DataError(
                    f"{spec} has too few different images of class {classes[counts.argmin()]!r}, the rest are copies: at "
                    f"least {SMALLEST_CLASS} of each class are needed. Add some, or remove the class"
                )
        elif copies:
            told.append(
                f"WARNING: {copies} of {len(test)} test images are training images too, pixel for pixel"
            )
        self.train = train
        self.card = DataCard(
            spec=spec,
            classes=classes,
            train=len(train),
            test=len(test),
            size=train.shape[-1],
            channels=train.shape[1],
            fingerprint=fingerprint,
            note="; ".join(told),
            copies=copies,
        )

    def seal(self, path: Path) -> None:
        """Write the test part to ``path`` (.npz, all or nothing) and forget it.

        Raises DataError when it is sealed already or the file cannot be written.
        """
        if self._test is None:
            raise DataError("the test part is sealed already: prepare the data again to seal it elsewhere")
        test = self._test
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                np.savez(file, **test.arrays(), sha256=np.array(_read(test)[0]))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise DataError(f"the sealed test part cannot be written to {path}: {error}") from error
        self._test = None


def source_of(hashes: Iterable[str]) -> str:
    """One hash for a set of files or images, in whatever order."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def sealed_share(images: int) -> float:
    """Part of so many images that becomes the test."""
    least, most = SEALED_SHARE
    return min(most, max(least, SEALED_IMAGES / images))


def names() -> list[str]:
    """What ``prepare`` understands."""
    return [*CIFAR, "digits", "folder:PATH"]


def prepare(spec: str, *, seed: int, root: Path, memory: int | None = None) -> Prepared:
    """Decode the data set that ``spec`` names, one of ``names()``.

    ``seed`` decides which images become the test part where the data set brings none; ``root`` is the
    folder that downloads go to. A folder's images are kept in memory up to so many bytes, by default half of
    what is available, and beyond that decoded each time they are used. Raises DataError.
    """
    kind, _, rest = spec.partition(":")
    if shown(spec) != spec:
        raise DataError(f"the name {shown(spec)} is no text, or more than a line: rename the folder")
    if kind == "folder" and rest:
        return _folder(spec, rest, seed, memory_for_images() if memory is None else memory)
    if spec == "digits":
        return _digits(seed)
    if spec in CIFAR:
        return _cifar(spec, root)
    raise DataError(
        f"no data set {spec!r}. There are: {', '.join(names())}, where PATH is a folder that holds "
        "train/<class>/<image>"
    )


def unseal(path: Path, manifest: Manifest) -> Images:
    """The test part that ``Prepared.seal`` wrote to ``path``.

    Raises DataError without a valid manifest, or when the file is not what was sealed.
    """
    if not isinstance(manifest, Manifest) or manifest.sha256 != _hash(manifest):
        raise DataError(
            "the test part stays sealed until every arm has its confirmed setting: its manifest is missing "
            "or was changed after it was written"
        )
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            test = from_arrays(file)
            sealed = str(file["sha256"])
    except Exception as error:  # a damaged archive fails in many ways, and all mean the same
        raise DataError(f"the sealed test part {path} cannot be read: {error}") from error
    if sealed != _read(test)[0]:
        raise DataError(f"the sealed test part {path} is not what was sealed: start a new study")
    return test


def _hash(manifest: Manifest) -> str:
    return Manifest.of(manifest.choices, manifest.in_hand, look=manifest.look).sha256


def split(labels: NDArray[np.int64], *, val: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to train on and to validate on, ascending: exactly ``val`` of them in the second.

    Stratified: each class gives its share, rounded so that the sum fits, and has at least one image on
    both sides. Raises DataError where that cannot be.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min(initial=2) < 2 or not 1 <= len(counts) <= val <= len(labels) - len(counts):
        raise DataError(
            f"{len(labels)} images of {len(counts)} classes (the rarest has {counts.min(initial=0)}) cannot be split "
            f"into {len(labels) - val} and {val} with one of each class on both sides"
        )
    rng = np.random.default_rng(seed)
    quota = val * counts / len(labels) + rng.uniform(0, 1e-6, len(counts))  # equal remainders: by lot
    taken = np.clip(np.floor(quota).astype(np.int64), 1, counts - 1)
    while (missing := val - taken.sum()) != 0:
        movable = taken < counts - 1 if missing > 0 else taken > 1
        want = np.where(movable, (quota - taken) * np.sign(missing), -np.inf)
        taken[want.argmax()] += np.sign(missing)
    held_out = np.zeros(len(labels), dtype=np.bool_)
    for label, count in enumerate(taken):
        held_out[rng.permutation(np.flatnonzero(classes == label))[:count]] = True
    return np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64)


def folds(labels: NDArray[np.int64], *, count: int, val: int, seed: int) -> list[NDArray[np.int64]]:
    """``count`` disjoint sets of ``val`` positions each, ascending, stratified (METHOD.md 2).

    The images, class by class and within a class by lot, are taken at even distances, and dealt out in turn: so every
    fold has its share of each class to within one image, and never all images of a class of two or more.
    """
    rng = np.random.default_rng([seed, *b"folds"])
    by_class = rng.permutation(len(labels))
    by_class = by_class[np.argsort(labels[by_class], kind="stable")]
    chosen = by_class[(np.arange(count * val) * len(labels)) // (count * val)]
    return [np.sort(chosen[fold::count]).astype(np.int64) for fold in range(count)]


def split_for(
    plan: Plan, labels: NDArray[np.int64], *, fold: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions that a run of the plan trains on, and those of the fold that it validates on, ascending.

    Raises DataError where the images are too few for that.
    """
    counts = np.bincount(labels, minlength=len(plan.data.classes))
    if plan.folds * plan.val_images > len(labels) or counts.min() < 2:
        raise DataError(
            f"{len(labels)} images of {len(counts)} classes (the rarest has {counts.min()}) cannot be divided into "
            f"{plan.folds} folds of {plan.val_images} to validate on"
        )
    val = folds(labels, count=plan.folds, val=plan.val_images, seed=plan.seed)[fold]
    train = np.setdiff1d(np.arange(len(labels)), val, assume_unique=True)
    if plan.train_fraction < 1:
        _, kept = split(labels[train], val=plan.train_images, seed=plan.seed + 1 + fold)
        train = train[kept]
    return train, val


def _digits(seed: int) -> Prepared:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    pool = Images(pixels, digits.target.astype(np.int64))
    return _set_apart("digits", tuple("0123456789"), pool, seed=seed, notes=[])


def _cifar(spec: str, root: Path) -> Prepared:
    from torchvision import datasets

    source = getattr(datasets, CIFAR[spec])
    try:
        parts = [source(root, train=train, download=True) for train in (True, False)]
    except Exception as error:  # no network, no disk, a damaged archive: all end in the same advice
        raise DataError(
            f"{spec} could not be fetched: {error}. Put {source.filename} from {source.url} into {root}, "
            "or study images of your own by folder:PATH"
        ) from error
    train, test = (
        Images(
            np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets, dtype=np.int64)
        )
        for part in parts
    )
    return Prepared(spec=spec, classes=tuple(parts[0].classes), train=train, test=test)


def _set_apart(
    spec: str,
    classes: tuple[str, ...],
    pool: Images,
    *,
    seed: int,
    notes: Sequence[str],
    kept: str = "",
    source: Callable[[NDArray[np.int64]], str] = lambda _: "",
) -> Prepared:
    """Make a test part out of the pool where the data set brings none; ``source`` hashes the files of these positions."""
    _check_classes(spec, classes, pool.labels)
    share = sealed_share(len(pool))
    train, test = split(pool.labels, val=max(len(classes), round(share * len(pool))), seed=seed)
    told = f"no test part of its own: {share:.0%} of each class set apart as the test, by seed {seed}"
    return Prepared(
        spec=spec,
        classes=classes,
        train=pool.take(train),
        test=pool.take(test),
        notes=[*notes, told],
        kept=kept,
        apart=True,
        source=source(test),
    )


def _folder(spec: str, given: str, seed: int, memory: int) -> Prepared:
    notes: list[str] = []
    try:
        path = Path(given).expanduser().absolute()  # workers have a directory of their own
        train = _listing(path / "train", None)
        part = next((path / name for name in ("test", "val") if _class_folders(path / name)), None)
        test = _listing(part, train.classes) if part else None
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
        raise DataError(f"{shown(given)} cannot be listed: {error}") from error
    if not test and (path / "test").is_dir():
        raise DataError(
            f"{shown(path / 'test')} holds no class folders: give it the classes of train/, or remove it and "
            "10 to 30 % of train/ are set apart"
        )
    _check_classes(spec, train.classes, train.labels)
    listings = [train, test] if test else [train]
    if skipped := sum(listing.skipped for listing in listings):
        notes.append(f"{skipped} entries that are no images skipped")
    if test and part:
        absent = sorted({train.classes[i] for i in set(train.labels) - set(test.labels)})
        notes += ["val/ is the test part"] if part.name == "val" else []
        notes += ["val/ is left unused"] if part.name == "test" and _class_folders(path / "val") else []
        notes += [f"no test images of {_few(absent)}"] if absent else []
    images, note, kept = open_all(
        [(listing.part, listing.names, listing.labels) for listing in listings], memory
    )
    notes += [note] if note else []
    if not test:
        return _set_apart(
            spec, train.classes, images[0], seed=seed, notes=notes, kept=kept,
            source=lambda chosen: _files_hash(train.part, [train.names[i] for i in chosen]),
        )  # fmt: skip
    return Prepared(
        spec=spec, classes=train.classes, train=images[0], test=images[1], notes=notes, kept=kept,
        source=_files_hash(test.part, test.names),
    )  # fmt: skip


def _files_hash(part: Path, files: Sequence[bytes]) -> str:
    """Of what these files hold, whatever they are called."""

    def digest(name: bytes) -> str:
        with (part / os.fsdecode(name)).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    try:
        with ThreadPoolExecutor() as pool:
            return source_of(pool.map(digest, files))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class _Listing:
    part: Path
    classes: tuple[str, ...]
    names: list[bytes]
    labels: list[int]
    skipped: int


def _class_folders(part: Path) -> list[Path]:
    if not part.is_dir():
        return []
    return sorted(p for p in part.iterdir() if p.is_dir() and not p.name.startswith("."))


def _listing(part: Path, known: tuple[str, ...] | None) -> _Listing:
    """The images of ``part/<class>/``, by name; classes beyond ``known`` are refused."""
    folders = _class_folders(part)
    if not folders:
        raise DataError(
            f"{shown(part)} {'holds no class folders' if part.is_dir() else 'is no folder'}: the images are "
            "looked for in train/<class>/ and test/<class>/ under the path that is given"
        )
    classes = known or tuple(shown(p.name) for p in folders)
    if extra := sorted({shown(p.name) for p in folders} - set(classes)):
        raise DataError(f"{shown(part)} has classes that train/ has not: {_few(extra)}. Remove them")
    names: list[bytes] = []
    labels: list[int] = []
    skipped = 0
    for folder in folders:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        # a link to nothing is an image that is lost: reading it says so
        images = [p for p in entries if p.suffix.lower() in SUFFIXES and (p.is_file() or not p.exists())]
        skipped += len(entries) - len(images)
        names += [os.fsencode(image.relative_to(part)) for image in images]
        labels += [classes.index(shown(folder.name))] * len(images)
    if not names:
        raise DataError(f"{shown(part)} holds no images; known suffixes: {' '.join(sorted(SUFFIXES))}")
    return _Listing(part, classes, names, labels, skipped)


def _few(names: Sequence[str]) -> str:
    """The first of many names."""
    more = f" and {len(names) - FEW} more classes" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _check_classes(spec: str, classes: tuple[str, ...], labels: Sequence[int] | NDArray[np.int64]) -> None:
    if len(classes) < 2:
        raise DataError(f"{spec} has one class, {classes[0]!r}: at least two are needed to tell apart")
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < SMALLEST_CLASS:
        raise DataError(
            f"{spec} has {counts.min()} training images of class {classes[counts.argmin()]!r}: at least "
            f"{SMALLEST_CLASS} of each class are needed. Add some, or remove the class"
        )


def _read(*parts: Images, classes: tuple[str, ...] = ()) -> tuple[str, list[list[int]]]:
    """SHA-256 over all pixels and labels, and each part's images as hashes; each image is decoded once for both."""
    sha = hashlib.sha256(repr((classes, [part.shape for part in parts])).encode())
    hashes: list[list[int]] = [[] for _ in parts]
    with quiet():
        for part, found in zip(parts, hashes, strict=True):
            for block in blocks(part):
                sha.update(block.data)
                found += [hash(image.tobytes()) for image in block]
            sha.update(part.labels.astype("<i8").tobytes())
    return sha.hexdigest(), hashes
