"""Where images come from: one file in this folder = one kind of data source.

A source file defines ``SOURCES``, one ``Source`` for each spelling of ``--data`` that it understands. A source lists
images and their labels. It reads no pixels of files, splits nothing and never sees the budget: ``prepare`` does that,
alike for all sources.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.data.images import Files
from study.protocol import plugins
from study.protocol.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images that belong together, as ``train`` or ``test`` does, and their labels in the same order."""

    images: Files | NDArray[np.uint8]
    """Files, which ``prepare`` scales to one size, or pixels, ``(n, c, s, s)``, of the size to study: alike in all parts, and files under one root."""
    labels: Sequence[int] | NDArray[np.int64]
    """``(n,)``, positions in ``Content.classes``."""
    groups: Sequence[str] | None = None
    """``(n,)``: images of one group, as of one patient, stay on one side of every split; empty: alone."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a source has."""

    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    """By name, as the source spells it; ``parts.py`` makes the training pool and the test of them."""
    unlabelled: Sequence[str] = ()
    """Parts that are left out because they lack labels."""
    notes: tuple[str, ...] = ()
    """What the user has to know: skipped files, left out folders."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What is known of a data set within seconds: nothing is fetched or decoded."""

    name: str = ""
    """Equal for all spellings of one set; empty: as it was typed."""
    content: Content | None = None
    """All of it, where reading only lists files of this machine."""
    files: Sequence[Path] = ()
    """Else those of this machine that hold it, in a fixed order."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One spelling of ``--data``, and what it stands for."""

    spelling: str
    """A name, ``digits``, or a prefix and what it takes, ``folder:PATH``."""
    help: str
    """For ``--help``: a few words."""
    read: Callable[[str, Path], Content]
    """From the argument behind the prefix (empty for a name) and the folder that downloads go to. Raises InputError."""

    outline: Callable[[str], Outline] = lambda _: Outline()
    """From the argument. Raises InputError for whatever this can know to be wrong."""
    takes: Callable[[str], bool] = lambda _: False
    """Whether a path without a prefix is one of this kind."""

    def argument(self, spec: str) -> str | None:
        """What ``spec`` gives this source, None if it means another."""
        prefix, colon, _ = self.spelling.partition(":")
        if not colon:
            return "" if spec == prefix else None
        return spec.removeprefix(prefix + colon) or None if spec.startswith(prefix + colon) else None


def sources() -> list[Source]:
    """All of them, by file and in each file's order."""
    return [source for module in plugins.modules(__name__).values() for source in module.SOURCES]


def chosen_source(spec: str) -> tuple[Source, str]:
    """The source that ``spec`` means, and its argument; nothing is read. Raises InputError where none does."""
    known = sources()
    for source in known:
        if (argument := source.argument(spec)) is not None:
            return source, argument
    with suppress(OSError, RuntimeError):  # a name too long, no such user's home
        for source in reversed(known):  # a folder of shards is for parquet before it is one of images
            if spec and source.takes(spec):
                return source, spec
    raise InputError(
        f"no data set {spec!r}. There are: {', '.join(spellings())}, or the path of a folder that holds <class>/<image> or "
        "train/<class>/<image>, or of a table"
    )


def spellings() -> list[str]:
    """What ``--data`` understands."""
    return [source.spelling for source in sources()]
