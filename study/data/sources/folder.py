"""``folder:PATH``: images of your own in ``train/<class>/`` and, if there is a test, ``test/<class>/`` or ``val/<class>/``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.data.images import SUFFIXES, Files, few, shown
from study.data.sources import Content, Part, Source
from study.protocol.errors import InputError


def read(argument: str, _downloads: Path) -> Content:
    """Raises InputError when the folder cannot be listed or has another layout."""
    try:
        path = Path(argument).expanduser().absolute()  # workers have a directory of their own
        train = _list(path / "train", None)
        tested = next((path / name for name in ("test", "val") if _class_folders(path / name)), None)
        test = _list(tested, train.classes) if tested else None
        unused = bool(tested and tested.name == "test" and _class_folders(path / "val"))
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
        raise InputError(f"{shown(argument)} cannot be listed: {error}") from error
    if not test and (path / "test").is_dir():
        raise InputError(
            f"{shown(path / 'test')} holds no class folders: give it the classes of train/, or remove it and "
            "10 to 30 % of train/ are set apart"
        )
    notes = []
    if skipped := train.skipped + (test.skipped if test else 0):
        notes.append(f"{skipped} entries that are no images skipped")
    notes += ["val/ is the test part"] if tested and tested.name == "val" else []
    notes += ["val/ is left unused"] if unused else []
    return Content(
        classes=train.classes, train=train.part, test=test.part if test else None, notes=tuple(notes)
    )


@dataclass(frozen=True)
class _Listing:
    classes: tuple[str, ...]
    part: Part
    skipped: int


def _list(folder: Path, known: Sequence[str] | None) -> _Listing:
    """The images of ``folder/<class>/``, by name. Raises InputError for classes beyond ``known``."""
    folders = _class_folders(folder)
    if not folders:
        raise InputError(
            f"{shown(folder)} {'holds no class folders' if folder.is_dir() else 'is no folder'}: the images are "
            "looked for in train/<class>/ and test/<class>/ under the path that is given"
        )
    classes = tuple(known or (shown(p.name) for p in folders))
    if extra := sorted({shown(p.name) for p in folders} - set(classes)):
        raise InputError(f"{shown(folder)} has classes that train/ lacks: {few(extra)}. Remove them")
    names: list[bytes] = []
    labels: list[int] = []
    skipped = 0
    for each in folders:
        entries = sorted(p for p in each.iterdir() if not p.name.startswith("."))
        # a dangling link is a lost image: reading it says so
        images = [p for p in entries if p.suffix.lower() in SUFFIXES and (p.is_file() or not p.exists())]
        skipped += len(entries) - len(images)
        names += [os.fsencode(image.relative_to(folder)) for image in images]
        labels += [classes.index(shown(each.name))] * len(images)
    if not names:
        raise InputError(f"{shown(folder)} holds no images; known suffixes: {' '.join(sorted(SUFFIXES))}")
    return _Listing(classes, Part(images=Files(folder, tuple(names)), labels=labels), skipped)


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


SOURCES = (Source(spelling="folder:PATH", help="your own, in train/<class>/* and test/<class>/*", read=read),)
