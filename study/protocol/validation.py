"""How a run did on each of its validation images, kept for selection in ``validation/<trial>.npz``.

Selection compares settings image by image (METHOD.md 3): only images on which two settings differ count. A file is on disk
before the ledger has the end of its trial. Needs only numpy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.protocol.metrics import Scores
from study.protocol.records import Phase
from study.protocol.rundir import RunDir, replacing
from study.protocol.sampling import Sampling

LARGEST = 1e6
"""No score of any metric comes near it; nor is it a NaN's."""
PHASES: tuple[Phase, ...] = ("baseline", "select")
"""Phases whose runs are compared image by image."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A run's score on each image of its fold, in the order of their positions."""

    scores: Scores
    classes: NDArray[np.integer] | None = None
    """Of these images, where each class counts alike."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.classes)


Reader = Callable[[str], Kept | None]
"""Trial -> what is kept of it; None without a file."""


def save(path: Path, kept: Kept) -> None:
    """Write the file to disk, whole or not at all: ``correct`` or ``scores``, and ``classes``. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    name = "correct" if kept.scores.dtype == np.bool_ else "scores"
    classes = {} if kept.classes is None else {"classes": kept.classes}
    with replacing(path) as file:
        np.savez_compressed(file, **{name: kept.scores}, **classes)  # type: ignore[arg-type]  # numpy's stub takes any name for allow_pickle


def reader(run: RunDir) -> Reader:
    """Reads the files of ``run``; a torn or missing file gives None."""

    def read(trial: str) -> Kept | None:
        try:
            with run.validation(trial).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                scores = file["correct"] if "correct" in file else file["scores"]
                classes = file.get("classes")
        except Exception:  # noqa: BLE001  # foreign bytes: numpy, zipfile and zlib have a dozen ways to fail
            return None
        fits = classes is None or (classes.shape == scores.shape and classes.dtype.kind in "iu")
        if not (
            fits
            and scores.ndim == 1
            and scores.dtype.kind in "bf"
            and (np.abs(scores.astype(np.float64)) < LARGEST).all()
        ):
            return None
        return Kept(scores, classes)

    return read
