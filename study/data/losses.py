"""Files that should have been images and could not be read: counted, named, and too many of them stop the study."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.data.images import Files, path_of, shown
from study.data.reading import UnreadableError
from study.protocol.errors import InputError
from study.protocol.question import LeftOut
from study.protocol.text import counted

BEARABLE = 0.01
"""Share of a class that may be lost without a word of the user's."""
NAMED = 10
"""Lost files that a message names."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    label: int
    file: Path
    kind: str
    reason: str
    place: str = ""
    """Where its owner finds it, if not in ``file``."""

    @classmethod
    def of(cls, files: Files, i: int, label: int, error: UnreadableError) -> "Loss":
        place = files.places[i] if files.places else ""
        return cls(
            label=label,
            file=path_of(files.root, files.names[i]),
            kind=error.kind,
            reason=str(error),
            place=place,
        )


def summary(losses: Sequence[Loss], root: Path) -> tuple[LeftOut, ...]:
    """How many were left out, by class, folder and kind; folders are relative to ``root``."""
    counts = Counter((loss.label, _folder(loss, root), _kind(loss)) for loss in losses)
    return tuple(
        LeftOut(label=label, folder=folder, kind=kind, count=count)
        for (label, folder, kind), count in sorted(counts.items())
    )


def named(losses: Sequence[Loss]) -> str:
    """The first of them, and why each is lost."""
    first = "; ".join(f"{shown(loss.place or loss.file)}: {loss.reason}" for loss in losses[:NAMED])
    return first + (f"; and {len(losses) - NAMED} more" if len(losses) > NAMED else "")


def check(losses: Sequence[Loss], read: NDArray[np.int64], classes: Sequence[str], *, allowed: bool) -> None:
    """Raises InputError when more than ``BEARABLE`` of a class is lost; ``read`` counts what was read of each."""
    lost = np.bincount([loss.label for loss in losses], minlength=len(classes))
    heavy = [i for i in range(len(lost)) if lost[i] and lost[i] > BEARABLE * (lost[i] + read[i])]
    if allowed or not heavy:
        return
    most = max(heavy, key=lambda i: lost[i] / (lost[i] + read[i]))
    of = f"{lost[most]} of {lost[most] + read[most]} files of class {classes[most]!r}"
    others = (
        f" and more than {BEARABLE:.0%} of {counted(len(heavy) - 1, 'other class', 'other classes')}"
        if len(heavy) > 1
        else ""
    )
    ordered = sorted(losses, key=lambda loss: (loss.label not in heavy, loss.file))
    raise InputError(
        f"{of}{others} cannot be used, {counted(len(losses), 'file')} in all: {named(ordered)}. Repair or remove "
        f"{'it' if len(losses) == 1 else 'them'}, or go on without {'it' if len(losses) == 1 else 'them'} by --allow-losses"
    )


def _folder(loss: Loss, root: Path) -> str:
    """For a row of a table, the table."""
    if loss.place:
        return root.name
    file = loss.file
    return shown(file.parent.relative_to(root)) if file.is_relative_to(root) else shown(file.parent)


def _kind(loss: Loss) -> str:
    return f"{loss.kind} ({shown(loss.file.suffix.lower()) or 'no suffix'})"
