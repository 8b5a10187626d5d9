"""A trial's checkpoint: one file, there whole or not at all, with the one before it to fall back to.

Tensors and plain values only, so that it loads with ``weights_only``. Whoever writes it, the same trial
at the same place has the same content: a stale writer can do no harm.
"""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

FOLDER = "checkpoints"
DAMAGED = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)
"""What a file that is not a whole checkpoint raises."""


def path_of(home: Path, trial: str) -> Path:
    return home / FOLDER / f"{trial}.pt"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at ``path``, keeping the one before. Raises OSError, and then changes nothing."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            try:
                torch.save(dict(state), file)
            except RuntimeError as error:  # torch's word for a disk that is full
                raise OSError(f"{path} cannot be written: {error}") from error
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            path.replace(_before(path))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest whole checkpoint at ``path``, None when there is none."""
    for candidate in (path, _before(path)):
        try:
            state = torch.load(candidate, map_location=device, weights_only=True)
        except DAMAGED:
            continue
        if isinstance(state, dict):
            return state
    return None


def is_whole(path: Path) -> bool:
    """Whether the newest checkpoint at ``path`` is there to its end, without reading it all."""
    return zipfile.is_zipfile(path)


def keep_only(path: Path) -> None:
    """Forget the one before: this one is final."""
    _before(path).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Forget all of it."""
    path.unlink(missing_ok=True)
    _before(path).unlink(missing_ok=True)


def _before(path: Path) -> Path:
    return path.with_suffix(".before.pt")
