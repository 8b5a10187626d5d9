"""A table of images: which columns mean what, and from its rows to parts.

Sources that bring rows (CSV, parquet, Hugging Face) share it, so that the same images make the same study however they are brought:
within a part they are ordered by class and by name, as in a folder.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from study.data.images import Files, shown
from study.data.sources import Content, Part
from study.protocol.errors import InputError
from study.protocol.text import counted, few

COLUMNS = {
    "image": (
        "path", "filepath", "file_path", "image_path", "img_path", "filename", "file_name", "image_file", "image_filename",
        "file", "image", "img", "image_name", "img_name", "image_id", "picture", "photo", "jpg", "png", "bytes", "id",
    ),
    "label": (
        "label", "labels", "class", "class_name", "classname", "label_name", "category", "category_name", "target", "y",
        "class_id", "label_id", "fine_label",
    ),
    "split": ("split", "part", "set", "subset", "partition", "data_split"),
    "group": ("group", "groups", "group_id", "patient", "patient_id", "subject", "subject_id"),
}  # fmt: skip
"""Names of columns in any capitals, by what they mean; the first that is there counts."""


def column(names: Sequence[str], what: str) -> int | None:
    """The position of the column that means ``what``, None where there is none."""
    known = [name.strip().casefold().replace(" ", "_").replace("-", "_") for name in names]
    return next((known.index(name) for name in COLUMNS[what] if name in known), None)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image."""

    file: str
    """Relative to the root of all."""
    name: str
    """What orders it within its class."""
    title: str = ""
    """What the table calls it, if not by its file."""
    place: str = ""
    """Where it is in the table, if it is no file of the user's."""
    label: str | None
    """None without one."""
    part: str = "train"
    group: str = ""
    """Images of one group stay together; empty: alone."""


def content(spec: str, root: Path, rows: Iterable[Row], notes: Sequence[str] = ()) -> Content:
    """The parts of the table. Raises InputError where only some images of a part have a label."""
    of_part: dict[str, list[Row]] = {}
    for row in rows:
        of_part.setdefault(row.part, []).append(row)
    unlabelled = [name for name, own in of_part.items() if all(row.label is None for row in own)]
    if not of_part or len(unlabelled) == len(of_part):
        raise InputError(f"{spec} has no {'labels' if of_part else 'rows'}: each image needs one")
    for name in unlabelled:
        del of_part[name]
    every = [row for own in of_part.values() for row in own]
    if missing := [shown(row.place or row.name) for row in every if row.label is None]:
        raise InputError(
            f"{spec}: {counted(len(missing), 'image')} of {len(every)} without a label, as {few(missing[:3])}: add the labels, or "
            "remove these rows"
        )
    classes = sorted({str(row.label) for row in every})
    numbers = {label: i for i, label in enumerate(classes)}
    grouped = any(row.group for row in every)
    often = Counter(row.title for row in every)
    parts = {}
    for name, own in of_part.items():
        own.sort(key=lambda row: (str(row.label), row.name.split("/")))  # stable
        parts[name] = Part(
            images=Files(
                root,
                [row.file.encode("utf-8", "surrogateescape") for row in own],
                [row.title if often[row.title] == 1 else row.place for row in own if row.place],
                [row.place for row in own if row.place],
            ),
            labels=np.array([numbers[str(row.label)] for row in own], dtype=np.int64),
            groups=[row.group for row in own] if grouped else None,
        )
    return Content(classes=tuple(map(shown, classes)), parts=parts, unlabelled=unlabelled, notes=tuple(notes))


def text_of(value: Any) -> str | None:
    """A cell as text, None where it is empty: a label 3.0 is the label 3."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = unicodedata.normalize("NFC", str(value).strip())
    return text or None
