"""Which validation images a run got right, kept for selection in ``validation/<trial>.npz``.

Selection compares settings image by image (METHOD.md 3): only images on which two settings differ count. A file is on disk
before the ledger has the end of its trial. Needs only numpy.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.protocol.records import Phase
from study.protocol.rundir import RunDir, replacing

PHASES: tuple[Phase, ...] = ("baseline", "select")
"""Phases whose runs are compared image by image."""

Correct = NDArray[np.bool_]
Reader = Callable[[str], Correct | None]
"""Trial -> whether it was right on each image of its fold, in the order of their positions; None if no file is kept."""


def save(path: Path, correct: Correct) -> None:
    """Write the file to disk, whole or not at all. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(file, correct=correct)


def reader(run: RunDir) -> Reader:
    """Reads the files of ``run``; a torn or missing file gives None."""

    def read(trial: str) -> Correct | None:
        try:
            with np.load(run.validation(trial), allow_pickle=False) as file:
                correct = file["correct"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return correct if correct.ndim == 1 and correct.dtype == np.bool_ else None

    return read
