"""A trial's checkpoint: one file, whole or absent, with the previous one to fall back to.

It holds tensors and plain values only, so that it loads with ``weights_only``. The same trial at the same place has the same
content whichever process writes it: all that a stale writer can do is to bring back an earlier place, see ``is_trained``.
"""

import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from study.protocol.rundir import replacing


class Packed(bytes):
    """A checkpoint's content in transit. The short repr is for Ray, which formats everything for its debug log."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


def pack(state: Mapping[str, Any]) -> Packed:
    file = io.BytesIO()
    torch.save(dict(state), file)
    return Packed(file.getvalue())


def unpack(content: bytes, device: torch.device) -> dict[str, Any] | None:
    """None if it is no whole checkpoint."""
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception:  # noqa: BLE001  # torch, pickle and zipfile have a dozen ways to fail on foreign bytes
        return None
    return state if isinstance(state, dict) else None


def save(path: Path, content: bytes) -> None:
    """Replace the checkpoint at ``path``, keeping the previous one. Raises OSError, and then changes nothing."""
    with replacing(path, previous=_before(path)) as file:
        file.write(content)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest whole checkpoint at ``path``; None if there is none."""
    for candidate in (path, _before(path)):
        with suppress(OSError):
            if (state := unpack(candidate.read_bytes(), device)) is not None:
                return state
    return None


def is_trained(path: Path, epochs: int) -> bool:
    """Whether the file at ``path`` is whole and of a net at the end of its ``epochs``.

    A worker that was frozen, and replaced, can write an older one when it wakes.
    """
    try:  # without reading the tensors
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # noqa: BLE001  # as above
        return False
    return isinstance(state, dict) and state.get("epoch") == epochs


def keep_only(path: Path) -> None:
    """Delete the previous one: this one is final."""
    _before(path).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete both."""
    path.unlink(missing_ok=True)
    _before(path).unlink(missing_ok=True)


def _before(path: Path) -> Path:
    return path.with_suffix(".before.pt")
