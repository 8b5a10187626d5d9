"""A trial's checkpoint: one file, there whole or not at all, with the one before it to fall back to.

Tensors and plain values only, so that it loads with ``weights_only``. Whoever writes it, the same trial
at the same place has the same content: a stale writer can do no harm.
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from study.protocol.rundir import replacing

DAMAGED = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)
"""What a file that is not a whole checkpoint raises."""


class Packed(bytes):
    """A checkpoint's content as it travels. Ray formats all that it is handed for its debug log: hence the repr."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


def pack(state: Mapping[str, Any]) -> Packed:
    file = io.BytesIO()
    torch.save(dict(state), file)
    return Packed(file.getvalue())


def unpack(content: bytes, device: torch.device) -> dict[str, Any] | None:
    """None when it is no whole checkpoint."""
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except DAMAGED:
        return None
    return state if isinstance(state, dict) else None


def save(path: Path, content: bytes) -> None:
    """Replace the checkpoint at ``path``, keeping the one before. Raises OSError, and then changes nothing."""
    with replacing(path, previous=_before(path)) as file:
        file.write(content)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest whole checkpoint at ``path``, None when there is none."""
    for candidate in (path, _before(path)):
        with suppress(OSError):
            if (state := unpack(candidate.read_bytes(), device)) is not None:
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
