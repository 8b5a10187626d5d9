"""What a run got right on its validation images, kept for selection: ``validation/<trial>.npz``.

Selection compares settings image by image (METHOD.md 3), so that what counts is where two of them differ. A file
is on disk before the ledger has the end of its trial. Knows numpy only.
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
"""Trial -> whether it was right, for each image of its fold in the order of their positions; None where none is kept."""


def save(path: Path, correct: Correct) -> None:
    """Write the file, whole and on disk. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(file, correct=correct)


def reader(run: RunDir) -> Reader:
    """Reads what the run keeps; a file that is torn or missing is None."""

    def read(trial: str) -> Correct | None:
        try:
            with np.load(run.validation(trial), allow_pickle=False) as file:
                correct = file["correct"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return correct if correct.ndim == 1 and correct.dtype == np.bool_ else None

    return read
