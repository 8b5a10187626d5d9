"""Rows that hold their images: written out as files, so that what a source lists is what a folder would have."""

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.data.images import shown
from study.data.parts import role
from study.data.table import Row, column, text_of
from study.protocol.errors import InputError
from study.protocol.text import listed

MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
"""Suffixes by leading bytes. Only messages use the suffix; the bytes decide."""
UNPACKED = "unpacked"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of those that matter."""

    image: str
    label: str
    split: str | None
    group: str | None
    name: str | None
    """Of the file that the image came from."""
    classes: Sequence[str] = ()
    """The names of the labels 0, 1, ...; empty where labels are names."""

    @classmethod
    def of(
        cls,
        spec: str,
        kinds: Mapping[str, str],
        images: Collection[str],
        paths: Collection[str] | None,
        classes: Mapping[str, Sequence[str]],
    ) -> "Columns":
        """``kinds``: what each column holds. ``images``, ``paths``: those that can hold images, or paths of images (None: paths are
        no images here). ``classes``: names of the labels, by column. Raises InputError.
        """
        names = list(kinds)
        others = [
            names[at] for what in ("label", "split", "group") if (at := column(names, what)) is not None
        ]
        candidates = [n for n in names if n in images] or [
            n for n in names if n in (paths or ()) and n not in others
        ]
        there = f"its columns are {listed([shown(f'{name} ({kind[:40]})') for name, kind in kinds.items()])}"
        by_name = column(candidates, "image")
        alone = len(candidates) == 1 and (candidates[0] in images or column(names, "image") is None)
        if by_name is None and not alone:
            raise InputError(
                f"{spec} has no column that is clearly the image ({there}): call it image, and let it hold the bytes of image files"
                f"{' or their paths' if paths is not None else ''}"
            )
        image = candidates[by_name or 0]
        others = [name for name in names if name != image]
        found = {
            what: None if (at := column(others, what)) is None else others[at]
            for what in ("image", "label", "split", "group")
        }
        label = found["label"] or (next(iter(classes)) if len(classes) == 1 else None)
        if label is None:
            raise InputError(f"{spec} has no column that is clearly the label ({there}): call it label")
        return cls(
            image=image, label=label, split=found["split"], group=found["group"],
            name=found["image"] if found["image"] != label else None, classes=classes.get(label, ()),
        )  # fmt: skip

    @property
    def used(self) -> list[str]:
        return [n for n in (self.image, self.label, self.split, self.group, self.name) if n is not None]


class Unpacked:
    """The files of one data set, by their content: what is there already is not written again."""

    def __init__(self, downloads: Path, spec: str) -> None:
        self.spec = spec
        self.root = (downloads / UNPACKED / _plain(Path(spec.rstrip("/")).name)).absolute()

    def row(
        self, cells: Mapping[str, Any], columns: Columns, part: str, number: int, place: str, beside: Path
    ) -> Row:
        """One row; paths in it are relative to ``beside``. Raises InputError for an image or a label that is none.

        ``number`` orders it, ``place`` is where its owner finds it, as ``row 3 of x.parquet``.
        """
        picture = cells[columns.image]
        held = (
            picture
            if isinstance(picture, Mapping)
            else {"bytes" if isinstance(picture, bytes) else "path": picture}
        )
        content, path = held.get("bytes"), held.get("path")
        if not isinstance(content, bytes | None) or (
            content is None and not (isinstance(path, str) and path)
        ):
            what = "no image" if content is None and not path else "no image that can be read"
            raise InputError(
                f"{self.spec}: {place} has {what} in column {shown(columns.image)}: write the bytes of an image file there (in parquet, its "
                "path will do), or remove the row"
            )
        split = text_of(cells[columns.split]) if columns.split else None
        part = split or part
        label = self._label(cells[columns.label], columns, place)
        own = path if isinstance(path, str) else ""
        said = cells[columns.name] if columns.name else None
        name = str(said) if isinstance(said, str | int) else own
        if content is None:
            file = str(beside / own)
        else:
            file = self._put(f"{_plain(part)}/{_plain(label or '')}", name or f"{number:07d}", content)
        return Row(
            file=file, name=name or f"{number:09d}", label=label, part=part, title=name or place,
            place=f"{name or own if content is not None else file} ({place})" if name else place,
            group=(text_of(cells[columns.group]) or "") if columns.group else "",
        )  # fmt: skip

    def _label(self, value: Any, columns: Columns, place: str) -> str | None:
        if isinstance(value, list | tuple | dict | bytes):
            raise InputError(
                f"{self.spec}: the label of {place} is of type {type(value).__name__}: an image has one label, a number or a name, in column "
                f"{shown(columns.label)}"
            )
        if columns.classes and isinstance(value, int):
            if value >= len(columns.classes):
                raise InputError(
                    f"{self.spec}: {place} has label {value}, and there are {len(columns.classes)} names, from 0 on: mend the label, or write "
                    "-1 where there is none"
                )
            return columns.classes[value] if value >= 0 else None
        return text_of(value)

    def _put(self, folder: str, name: str, content: bytes) -> str:
        """The file's name relative to ``root``."""
        suffix = next((s for magic, s in MAGIC.items() if content.startswith(magic)), "")
        digest = hashlib.sha256(content).hexdigest()[:16]
        file = f"{folder}/{_plain(Path(name).stem)}-{digest}{suffix}"
        path = self.root / file
        try:
            if not (path.is_file() and path.stat().st_size == len(content)):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
                partial.write_bytes(content)
                partial.replace(path)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        return file


def part_of(path: Path) -> str:
    """The part that a shard's name, or that of its folder, stands for; empty where neither does."""
    for name in (re.split(r"[-_.\d]", path.stem)[0], path.stem, path.parent.name.rpartition("=")[2]):
        if role(name):
            return name
    return ""


def _plain(text: str) -> str:
    """As part of a path: letters, digits and a few signs, and never up or hidden."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".-")[:80] or "_"
