"""What the scored nets said of the test images: the files of ``predictions/``, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import npz
from analysis.statistics.intervals import Refused
from study.protocol.errors import StudyError

Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Of one net."""

    labels: Labels
    predictions: Labels
    names: tuple[str, ...]
    """The images' files; empty where they come from none."""
    groups: Labels | None
    """Each image's; None where every image stands alone."""
    logs: NDArray[np.float32] | None
    """Log-probabilities (images, classes), if asked for."""


def read(path: Path, classes: int, *, soft: bool = False) -> Output:
    """With the log-probabilities if ``soft``. Raises StudyError."""
    try:
        wanted = [npz.PROBABILITIES] if soft else []
        found, _ = npz.read(path, ("labels",), ("predictions",), ("names",), ("groups",), *wanted)
        labels, predictions = found["labels"], found["predictions"]
    except npz.ArraysError as error:
        if not path.exists():
            raise StudyError(f"{path} is missing, though the ledger has its score") from error
        raise StudyError(f"{path} cannot be read: it {error}") from error
    except KeyError as error:
        raise StudyError(f"{path} cannot be read: it has no array {error}") from error
    whole = labels.dtype.kind in "iu" and predictions.dtype.kind in "iu"
    alike = labels.ndim == 1 and labels.shape == predictions.shape
    if not (whole and alike and len(labels) and labels.min() >= 0):
        raise StudyError(f"{path}: labels and predictions must be two lists of class numbers, of one length")
    if (beyond := max(int(labels.max()), int(predictions.max()))) >= classes:
        raise StudyError(f"{path} names class {beyond}, and the study has {classes}, counted from 0")
    names = found.get("names", np.empty(0))
    if names.size and (names.dtype.kind != "U" or names.shape != labels.shape):
        raise StudyError(f"{path}: names must be a list of texts as long as labels")
    groups = found.get("groups")
    if groups is not None and (groups.dtype.kind not in "iu" or groups.shape != labels.shape):
        raise StudyError(f"{path}: groups must be whole numbers, as many as labels")
    logs = found.get("log_probabilities")
    if soft and (
        logs is None or logs.dtype.kind != "f" or logs.shape != (len(labels), classes) or np.isnan(logs).any()
    ):
        raise StudyError(
            f"{path} cannot be read: it has no log_probabilities of shape {len(labels)} x {classes}"
        )
    return Output(
        labels=labels.astype(np.int64),
        predictions=predictions.astype(np.int64),
        names=tuple(names.tolist()),
        groups=None if groups is None else groups.astype(np.int64),
        logs=None if logs is None else logs.astype(np.float32),
    )


def probabilities(path: Path, shape: tuple[int, int]) -> NDArray[np.floating[Any]]:
    """(images, classes) of one net. Raises Refused when the file has none of that shape."""
    try:
        net = npz.probabilities(npz.read(path, npz.PROBABILITIES)[0])
    except npz.ArraysError:
        net = None
    if net is None:
        raise Refused(f"the file {path.name} has no probabilities that can be read")
    if net.dtype.kind != "f" or net.shape != shape or not np.isfinite(net).all():
        raise Refused(f"the file {path.name} has no finite probabilities of shape {shape}")
    return net
