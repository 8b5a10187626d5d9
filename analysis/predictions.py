"""Reads predictions that came from elsewhere: per side one ``.npz``, CSV or parquet file, or a folder of them.

Arrays: ``labels`` (images,) with ``predictions`` (runs, images) or (images,), or ``probabilities`` (runs, images, classes)
or (images, classes), or their logarithms, ``log_probabilities``, and ``names`` (images,) if the images have any; ``sheets`` has the
columns of the others. A folder's files are runs, in the order of their names. Images are joined by name, or by their order where
one side does not name them. Runs that name the same class for every image, by the same probabilities where both have them, are one
net stored several times, and count once.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import npz, sheets
from analysis.statistics.intervals import Correct
from study.protocol.errors import InputError
from study.protocol.text import counted, listed, printable

Array = NDArray[Any]
KINDS = (".npz", *sheets.SUFFIXES)


@dataclass(frozen=True)
class Net:
    """The identity of a net: its outputs."""

    classes: bytes
    """Digest of the class that it names for each image."""
    probabilities: bytes = b""
    """Digest of these; empty where they are not stored."""

    def is_among(self, nets: "list[Net]") -> bool:
        """Perfect nets name the same classes without being the same: their probabilities decide, where both have any."""
        return any(
            self.classes == net.classes
            and (not self.probabilities or not net.probabilities or self.probabilities == net.probabilities)
            for net in nets
        )


@dataclass(frozen=True, kw_only=True)
class Side:
    labels: Array
    correct: Correct
    """One row per net, in the order of the runs."""
    nets: "list[Net]"
    stored: int
    """Runs as given, copies and all."""


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """Runs as they are stored; labels and predictions are class numbers, or texts."""

    labels: Array
    predicted: Array
    """(runs, images)"""
    digests: list[bytes]
    """Of each run's probabilities, empty where they are not stored."""
    images: Array | None = None
    """Names, each once; None where only the order is known."""

    def at(self, places: Array) -> "_Runs":
        """The runs on some of their images; probabilities of other images tell no nets apart."""
        whole = len(places) == len(self.labels)
        return replace(
            self,
            labels=self.labels[places],
            predicted=self.predicted[:, places],
            digests=self.digests if whole else [b""] * len(self.digests),
            images=None if self.images is None else self.images[places],
        )

    def texts(self) -> "_Runs":
        return replace(self, labels=self.labels.astype(np.str_), predicted=self.predicted.astype(np.str_))

    def side(self) -> Side:
        nets: list[Net] = []
        correct: list[Correct] = []
        for row, digest in zip(self.predicted, self.digests, strict=True):
            named = "\0".join(row).encode() if row.dtype.kind == "U" else row.astype(np.int64).tobytes()
            net = Net(hashlib.sha256(named).digest(), digest)
            if not net.is_among(nets):
                nets.append(net)
                correct.append(row == self.labels)
        return Side(labels=self.labels, correct=np.stack(correct), nets=nets, stored=len(self.predicted))


def both(first: Path, second: Path) -> tuple[Side, Side, str]:
    """Both sides on the images that they share, and a sentence on those that only one of them holds.

    Raises InputError for anything that cannot be read or does not fit together.
    """
    a, b = _alike(_read(first), _read(second))
    if a.images is None or b.images is None:
        if a.labels.dtype.kind == "U":
            bare = first if a.images is None else second
            raise InputError(
                f"{bare} does not name its images, so that they cannot be joined: add an array names (images,)"
            )
        check_labels(b.labels, second, a.labels, first)
        return a.side(), b.side(), ""
    shared, in_first, in_second = np.intersect1d(a.images, b.images, return_indices=True)
    if not len(shared):
        raise InputError(f"{first} and {second} share no image: give the images the same names on both sides")
    more = (_only(first, a, second, shared), _only(second, b, first, shared))
    a, b = a.at(in_first), b.at(in_second)
    _check_same_labels(b, second, a, first)
    said = [
        f"{' and '.join(filter(None, more))}: compared on the {counted(len(shared), 'image')} that both hold."
    ]
    return a.side(), b.side(), said[0] if any(more) else ""


def _only(path: Path, runs: _Runs, other: Path, shared: Array) -> str:
    """That one side holds images which the other lacks; empty if it does not."""
    assert runs.images is not None
    lone = np.setdiff1d(runs.images, shared)
    if not len(lone):
        return ""
    return f"{printable(str(path))} holds {counted(len(lone), 'image')} that {printable(str(other))} lacks, as {printable(str(lone[0]))}"


def _alike(a: _Runs, b: _Runs) -> tuple[_Runs, _Runs]:
    """Classes as texts where either has texts."""
    return (a.texts(), b.texts()) if "U" in (a.labels.dtype.kind, b.labels.dtype.kind) else (a, b)


def _read(path: Path) -> _Runs:
    """The runs of one side: all of them are about the same images."""
    whole: _Runs | None = None
    files = _files(path)
    for file in files:
        found = _sheet(file) if file.suffix.lower() in sheets.SUFFIXES else _load(file)
        if whole is None:
            whole = found
            continue
        whole, found = _alike(whole, found)
        if whole.images is None or found.images is None:
            check_labels(found.labels, file, whole.labels, files[0])
        else:
            shared, _, places = np.intersect1d(whole.images, found.images, return_indices=True)
            if more := _only(file, found, files[0], shared) or _only(files[0], whole, file, shared):
                raise InputError(f"{more}: the runs of one side are about the same images")
            found = found.at(places[np.argsort(np.argsort(whole.images))])
            _check_same_labels(found, file, whole, files[0])
        predicted = np.concatenate([whole.predicted, found.predicted])
        whole = replace(whole, predicted=predicted, digests=[*whole.digests, *found.digests])
    assert whole is not None  # there is a file
    return whole


def _sheet(path: Path) -> _Runs:
    found = sheets.read(path)
    return _Runs(labels=found.labels, predicted=found.predicted, digests=found.digests, images=found.images)


def _digest(array: Array) -> bytes:
    return hashlib.sha256(array.tobytes()).digest()


def _files(path: Path) -> list[Path]:
    try:
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in KINDS) if path.is_dir() else [path]
        missing = [file for file in found if not file.is_file()]
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error
    if not found:
        raise InputError(f"{path} has no .npz file in it, and none of {', '.join(sheets.SUFFIXES)}")
    if missing:
        raise InputError(f"{missing[0]} is not a file" if missing[0].exists() else f"{missing[0]} is missing")
    return found


def _load(path: Path) -> _Runs:
    """The runs of one file of arrays, checked."""
    stored = _arrays(path)
    labels = stored["labels"]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError(f"{path}: labels must be whole numbers of shape (images,), not {_kind(labels)}")
    if not len(labels):
        raise InputError(f"{path} is about no image: labels is empty")
    if labels.min() < 0:
        raise InputError(f"{path}: labels must be class numbers from 0 on, not {labels.min()}")
    if "predictions" in stored:
        predicted = _predicted(path, stored["predictions"], len(labels))
        if "probabilities" in stored and stored["probabilities"].ndim > 1:
            classes = stored["probabilities"].shape[-1]
            for name, array in (("label", labels), ("prediction", predicted)):
                if array.max() >= classes:
                    raise InputError(
                        f"{path}: {name} {array.max()} is outside the {classes} classes of probabilities"
                    )
    else:
        predicted = _most_likely(path, stored["probabilities"], labels)
    soft = stored.get("probabilities", np.empty(0))
    runs = soft[None] if soft.ndim == 2 else soft
    told = runs.shape[:-1] == predicted.shape
    digests = [_digest(run) for run in runs] if told else [b""] * len(predicted)
    names = stored.get("names", np.empty(0))
    named = names.dtype.kind == "U" and names.shape == labels.shape and len(np.unique(names)) == len(names)
    return _Runs(labels=labels, predicted=predicted, digests=digests, images=names if named else None)


def _predicted(path: Path, predictions: Array, images: int) -> Array:
    if predictions.dtype.kind not in "iu" or predictions.ndim not in (1, 2):
        raise InputError(
            f"{path}: predictions must be whole numbers of shape (images,) or (runs, images), "
            f"not {_kind(predictions)}"
        )
    if predictions.shape[-1] != images or not predictions.size:
        raise InputError(f"{path}: predictions of shape {predictions.shape} do not fit {images} labels")
    if predictions.min() < 0:
        raise InputError(f"{path}: predictions must be class numbers from 0 on, not {predictions.min()}")
    return np.atleast_2d(predictions)


def _most_likely(path: Path, probabilities: Array, labels: Array) -> Array:
    if probabilities.dtype.kind != "f" or probabilities.ndim not in (2, 3):
        raise InputError(
            f"{path}: probabilities must be floating-point numbers of shape (images, classes) or "
            f"(runs, images, classes), not {_kind(probabilities)}"
        )
    if probabilities.shape[-2] != len(labels) or not probabilities.size:
        raise InputError(
            f"{path}: probabilities of shape {probabilities.shape} do not fit {len(labels)} labels"
        )
    if labels.max() >= (classes := probabilities.shape[-1]):
        raise InputError(f"{path}: label {labels.max()} is outside the {classes} classes of probabilities")
    if not np.isfinite(probabilities).all():
        raise InputError(f"{path}: probabilities has values that are not finite (NaN or infinite)")
    predicted: Array = probabilities.argmax(axis=-1)
    return np.atleast_2d(predicted)


def _arrays(path: Path) -> dict[str, Array]:
    """``labels`` and the others; predictions win where both are stored, as they are exact."""
    try:
        found, names = npz.read(path, ("labels",), ("predictions",), npz.PROBABILITIES, ("names",))
    except npz.ArraysError as error:
        raise InputError(f"{path} {error}") from error
    if (
        "labels" not in found
        or not found.keys() & {"predictions", *npz.PROBABILITIES}
        or not all(isinstance(value, np.ndarray) for value in found.values())
    ):
        has = f"it has {listed(sorted(names))}" if names else "it has none"
        raise InputError(f"{path} must have arrays labels and predictions or probabilities: {has}")
    if (soft := npz.probabilities(found)) is not None:
        found["probabilities"] = soft
    return found


def check_labels(labels: Array, path: Path, others: Array, other: Path) -> None:
    if len(labels) != len(others):
        raise InputError(
            f"{path} is about {counted(len(labels), 'image')} and {other} about {len(others)}: "
            "both must be about the same images"
        )
    if not np.array_equal(labels, others):
        raise InputError(
            f"{path} has other labels than {other}: both must be about the same images, in the same order"
        )


def _check_same_labels(found: _Runs, path: Path, others: _Runs, other: Path) -> None:
    """Where both name their images, in the same order."""
    if (differ := np.flatnonzero(found.labels != others.labels)).size:
        assert found.images is not None
        name = printable(str(found.images[differ[0]]))
        raise InputError(f"{path} gives the image {name} another label than {other}")


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"
