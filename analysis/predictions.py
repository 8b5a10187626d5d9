"""Reads predictions that came from elsewhere: one ``.npz`` file or a folder of them per side.

Arrays: ``labels`` (images,) with ``predictions`` (runs, images) or (images,), or ``probabilities`` (runs, images, classes)
or (images, classes), or their logarithms, ``log_probabilities``. A folder's files are runs, in the order of their names. Runs that name the same class for every
image, by the same probabilities where both have them, are one net stored several times, and count once.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import npz
from analysis.statistics.intervals import Correct
from study.protocol.errors import InputError
from study.protocol.text import counted, listed

Array = NDArray[Any]


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


def read(path: Path) -> Side:
    files = _files(path)
    labels: Array | None = None
    nets: list[Net] = []
    correct: list[Correct] = []
    stored = 0
    for file in files:
        found, predicted, digests = _load(file)
        labels = found if labels is None else labels
        check_labels(found, file, labels, files[0])
        for row, digest in zip(predicted, digests, strict=True):
            stored += 1
            net = Net(_digest(row.astype(np.int64)), digest)
            if not net.is_among(nets):
                nets.append(net)
                correct.append(row == labels)
    assert labels is not None  # there is a file
    return Side(labels=labels, correct=np.stack(correct), nets=nets, stored=stored)


def _digest(array: Array) -> bytes:
    return hashlib.sha256(array.tobytes()).digest()


def _files(path: Path) -> list[Path]:
    try:
        found = sorted(p for p in path.iterdir() if p.suffix == ".npz") if path.is_dir() else [path]
        missing = [file for file in found if not file.is_file()]
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error
    if not found:
        raise InputError(f"{path} has no .npz file in it")
    if missing:
        raise InputError(f"{missing[0]} is not a file" if missing[0].exists() else f"{missing[0]} is missing")
    return found


def _load(path: Path) -> tuple[Array, Array, list[bytes]]:
    """Labels (images,) and predicted classes (runs, images) of one file, checked, and each run's digest of probabilities."""
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
    if runs.shape[:-1] != predicted.shape:
        return labels, predicted, [b""] * len(predicted)
    return labels, predicted, [_digest(run) for run in runs]


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
        found, names = npz.read(path, ("labels",), ("predictions",), npz.PROBABILITIES)
    except npz.ArraysError as error:
        raise InputError(f"{path} {error}") from error
    if (
        "labels" not in found
        or len(found) < 2
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


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"
