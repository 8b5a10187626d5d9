"""``folder:PATH``, or just the path: class folders, alone or in ``train/``, ``test/``, ``val/`` or ``valid/``."""

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from study.data.images import Files, shown
from study.data.listing import candidate, dotted, files, folders, has_image, hidden, is_image
from study.data.parts import role
from study.data.sources import Content, Outline, Part, Source
from study.protocol.errors import InputError
from study.protocol.text import counted, few, listed

LAYOUT = "the images are looked for in <class>/, or in train/<class>/ and test/<class>/, under the path that is given"


def read(argument: str, _downloads: Path) -> Content:
    """Raises InputError when the folder cannot be listed or has another layout."""
    try:
        return content(Path(argument).expanduser().absolute())  # workers have a directory of their own
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
        raise InputError(f"{shown(argument)} cannot be listed: {error}") from error


def content(root: Path) -> Content:
    """The parts where ``root`` has any, else its class folders as the only part."""
    named = [p for p in folders(root) if role(p.name)]
    parts = {shown(p.name): inside for p in named if (inside := folders(p))}
    if parts:
        _check_parts(root, named, parts)
    whole = not parts and _flat(root, named)
    if whole:
        parts = {"train": whole}
    classes = sorted({_class(folder) for inside in parts.values() for folder in inside})
    others = Counter[str]()
    found = {name: _part(root, inside, classes, others) for name, inside in parts.items()}
    if empty := [name for name, part in found.items() if not len(part.labels)]:
        raise InputError(f"{shown(root / empty[0])} holds no images")
    return Content(
        classes=tuple(classes),
        parts=found,
        unlabelled=[] if whole else [name for p in named if (name := shown(p.name)) not in parts],
        notes=_notes(root, whole or named, others, whole=bool(whole)),
    )


def _check_parts(root: Path, named: Sequence[Path], parts: Mapping[str, Sequence[Path]]) -> None:
    """Raises InputError where the training images are no part, though others are."""
    if any(role(name) == "train" for name in parts):
        return
    if bare := [p for p in named if role(p.name) == "train"]:
        raise InputError(f"{shown(bare[0])} holds no class folders: {LAYOUT}")
    if beside := [shown(p.name) for p in folders(root) if p not in named and has_image(p)]:
        raise InputError(
            f"{shown(root)} has {listed(list(parts))} but no train beside it: put {few(beside)} into train/, if these are "
            "the classes"
        )


def _flat(root: Path, named: Sequence[Path]) -> list[Path]:
    """Class folders without a part around them; a class may be called train, unless all are called like parts."""
    classes = [
        p for p in folders(root) if any(map(candidate, files(p)))
    ]  # one without readable images is a lost class
    if all(p in named or not has_image(p) for p in classes):
        there = root / "train"
        bare = there if there.is_dir() or not named else named[0]
        raise InputError(
            f"{shown(bare if named else root)} {'holds no class folders with images' if root.is_dir() else 'is no folder'}: {LAYOUT}"
        )
    if len(classes) == 1 and len([p for p in folders(classes[0]) if has_image(p)]) > 1:
        raise InputError(f"all images of {shown(root)} lie in one folder of it: give {shown(classes[0])}")
    return classes


def _part(root: Path, inside: Sequence[Path], classes: Sequence[str], others: Counter[str]) -> Part:
    """The images of these class folders; ``others`` counts files that are none, by suffix."""
    names: list[bytes] = []
    labels: list[int] = []
    for folder in inside:
        there = list(files(folder))
        images = [p for p in there if candidate(p)]
        others.update(p.suffix.lower() or "no suffix" for p in there if not (candidate(p) or hidden(p)))
        names += [os.fsencode(image.relative_to(root)) for image in images]
        labels += [classes.index(_class(folder))] * len(images)
    return Part(images=Files(root, tuple(names)), labels=labels)


def _class(folder: Path) -> str:
    """Its name with its accents composed: another system may have split them."""
    return unicodedata.normalize("NFC", shown(folder.name))


def _notes(root: Path, used: Sequence[Path], others: Counter[str], *, whole: bool) -> tuple[str, ...]:
    """What was left out."""
    notes = ["no train/: every folder is a class"] if whole else []
    if others:
        kinds = listed([f"{count} {shown(suffix)}" for suffix, count in sorted(others.items())])
        are = (
            "1 file that is no image" if others.total() == 1 else f"{others.total()} files that are no images"
        )
        notes.append(f"{are} left out: {kinds}")
    beside = [f"{shown(p.name)}/" for p in folders(root) if p not in used and (whole or has_image(p))]
    notes += [f"{few(beside)} left out, beside the {'classes' if whole else 'parts'}"] if beside else []
    around = [root] if whole else [root, *used]
    if loose := sum(is_image(p) for folder in around for p in folder.iterdir()):
        notes.append(f"{counted(loose, 'image')} left out, outside the class folders")
    if dots := dotted(root):
        notes.append(f"folders that begin with a dot left out: {few([shown(name) for name in dots])}")
    return tuple(notes)


SOURCES = (
    Source(
        spelling="folder:PATH",
        help="your own, in <class>/* or in train/<class>/* and test/<class>/*",
        read=read,
        outline=lambda argument: Outline(content=read(argument, Path())),
        takes=lambda spec: Path(spec).expanduser().is_dir(),
    ),
)
