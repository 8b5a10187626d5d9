"""``csv:FILE``: a table of image files and their labels, with a split and a group where it has them."""

import csv
import io
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from study.data.images import check_file, shown
from study.data.parts import role
from study.data.sources import Content, Outline, Source
from study.data.table import COLUMNS, Row, column, content, text_of
from study.protocol.errors import InputError
from study.protocol.text import counted, listed, separator

SUFFIX = (".csv", ".tsv", ".txt")
LIKELY = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jfif", ".ppm", ".pgm", ".avif")
"""Suffixes that make a cell a file's name, and that are tried where a name has none."""
LOOKED_AT = 50
"""Rows that show which columns there are."""
CELLS = 2000
"""Cells that are looked for among the files, to find the column of images."""
HEADER = "write a header with path and label, and split and group if there are any (other usual names will do, as filename and class)"


def read(argument: str, _downloads: Path) -> Content:
    """Raises InputError when the file is no such table, or names no files that are there."""
    try:
        path = Path(argument).expanduser().absolute()
        check_file(path)
        return _content(path, *_table(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
        raise InputError(
            f"{shown(argument)} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    except csv.Error as error:
        raise InputError(f"{shown(argument)} is no table of text: {error}") from error


def _content(path: Path, table: list[tuple[int, list[str]]], notes: list[str]) -> Content:
    root, name = path.parent, shown(path)
    for line, cells in table[1:]:
        if len(cells) != len(table[0][1]):
            raise InputError(
                f"{name}: line {line} has {counted(len(cells), 'column')}, and the first has {len(table[0][1])}"
            )
    columns, header = _columns(name, [cells for _, cells in table], lambda cell: _is_file(root, cell))
    rows: dict[str, tuple[int, Row]] = {}
    repeated, missing = 0, list[str]()
    for line, cells in table[1:] if header else table:
        cell = {what: cells[i].strip() for what, i in columns.items()}
        given = cell["image"]
        if "://" in given:
            raise InputError(
                f"{name}: line {line}: {shown(given)} is an address. Fetch the images first and give their files, or bring a folder "
                "of a bucket: --data s3://BUCKET/FOLDER"
            )
        if not given:
            raise InputError(f"{name}: line {line} names no file")
        file = _resolved(root, given)
        if not os.path.lexists(root / file):
            missing.append(f"line {line}: {shown(given)}")
        row = Row(
            file=file, name=file, label=text_of(cell["label"]), part=cell.get("split") or "train", group=cell.get("group", "")
        )  # fmt: skip
        before = rows.setdefault(file, (line, row))
        if before[1] != row:
            raise InputError(
                f"{name}: {shown(given)} is in lines {before[0]} and {line} with different labels, splits or groups: an image has one "
                "of each"
            )
        repeated += before[0] != line
    if len(missing) > len(rows) / 2:
        raise InputError(
            f"{name}: {len(missing)} of {counted(len(rows), 'file')} are not there, as {missing[0]}: paths are taken relative to "
            f"{shown(root)}"
        )
    named = [f"{what} {shown(table[0][1][i]) if header else i + 1}" for what, i in columns.items()]
    notes += [f"columns of {shown(path.name)}: {listed(named)}"]
    notes += [f"{counted(repeated, 'line')} repeated others"] if repeated else []
    return content(name, root, (row for _, row in rows.values()), notes)


def _table(path: Path) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Its rows, each with the number of its line, and what to say of its encoding. Raises OSError, csv.Error or InputError."""
    raw, notes = path.read_bytes(), list[str]()
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise InputError(f"{shown(path)} is no text: {error}. Save it as UTF-8") from error
        text = raw.decode("cp1252", "surrogateescape")
        notes = [f"{shown(path.name)} is not UTF-8: read as cp1252, as Windows writes it"]
    if "\0" in text:
        raise InputError(f"{shown(path)} is no text: it holds bytes of 0")
    if text[:4].lower() == "sep=":  # as Excel writes it
        text = text.partition("\n")[2]
    if not text.strip():
        raise InputError(f"{shown(path)} is empty: {HEADER}")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator(text), skipinitialspace=True)
    return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)], notes


def _columns(
    name: str, table: Sequence[Sequence[str]], is_file: Callable[[str], bool]
) -> tuple[dict[str, int], bool]:
    """The positions of image, label, split and group, and whether the first row is a header."""
    top, rows = table[0], table[1:LOOKED_AT]
    named = {what: i for what in COLUMNS if (i := column(top, what)) is not None}
    if "image" not in named:
        seen = rows[: CELLS // len(top) + 1] or [top]
        share = [sum(is_file(row[i]) for row in seen) / len(seen) for i in range(len(top))]
        likely = max(range(len(top)), key=lambda i: share[i])
        if share[likely] < 0.5 or likely in named.values():
            raise InputError(f"{name} has no column of image files that are there: {HEADER}")
        named["image"] = likely
    header = "label" in named or not is_file(top[named["image"]])
    if not header:
        named = {"image": named["image"]}
    left = [i for i in range(len(top)) if i not in named.values()]
    if not header and len(left) == 2:
        parts = [i for i in left if all(role(row[i].strip()) for row in table)]
        named |= {"split": parts[0]} if len(parts) == 1 else {}
        left = [i for i in left if i not in named.values()]
    if "label" not in named:
        if len(left) != 1:
            there = (
                f"its columns are {listed([shown(cell) for cell in top])}"
                if header
                else f"it has {len(top)} columns"
            )
            raise InputError(f"{name} has no column that is clearly the label ({there}): {HEADER}")
        named["label"] = left[0]
    return dict(sorted(named.items(), key=lambda item: item[1])), header


def _resolved(root: Path, given: str) -> str:
    """The file that a cell means: as it is, with another system's slashes or accents, or without its suffix."""
    forms = [given, given.replace("\\", "/")]
    forms += [unicodedata.normalize(form, forms[1]) for form in ("NFC", "NFD")]
    forms.append(
        forms[2].encode("cp1252", "replace").decode("utf-8", "surrogateescape")
    )  # names of such bytes
    for file in dict.fromkeys(forms):
        if os.path.lexists(root / file):
            return file
        if not Path(file).suffix:
            for suffix in LIKELY:
                if (root / f"{file}{suffix}").is_file():
                    return f"{file}{suffix}"
    return given


def _is_file(root: Path, cell: str) -> bool:
    cell = cell.strip()
    return (
        "://" in cell
        or Path(cell.replace("\\", "/")).suffix.lower() in LIKELY
        or (bool(cell) and (root / _resolved(root, cell)).is_file())
    )


def _takes(spec: str) -> bool:
    path = Path(spec).expanduser()
    return path.suffix.lower() in SUFFIX and path.is_file()


SOURCES = (
    Source(
        spelling="csv:FILE",
        help="a table with columns path and label, perhaps split and group",
        read=read,
        outline=lambda argument: Outline(content=read(argument, Path())),
        takes=_takes,
    ),
)
