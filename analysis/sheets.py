"""Reads predictions from CSV and parquet files of untrusted sources: each fault is one sentence.

Columns, in any order and any case: ``image``, ``label``, ``run`` where there are several, and ``prediction``, or one column
per class with that class's probability. Every run names every image once.
"""

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.protocol.errors import InputError
from study.protocol.text import few, listed, printable, separator

SUFFIXES = (".csv", ".tsv", ".parquet")
KNOWN = ("image", "label", "run", "prediction")
BYTES_PER_CELL = 64
"""Of a cell as Python holds it."""
LONGEST = 1000
"""Characters of a cell: more than any path or class has."""
Texts = NDArray[np.str_]
Columns = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One file's runs over its images, which are sorted by name."""

    images: Texts
    labels: Texts
    predicted: Texts
    """(runs, images)"""
    digests: list[bytes]
    """Of each run's probabilities; empty where there are none."""


def read(path: Path) -> Sheet:
    """Raises InputError."""
    columns = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    classes = [name for name in columns if name not in KNOWN]
    if not {"image", "label"} <= columns.keys() or ("prediction" not in columns and len(classes) < 2):
        raise InputError(
            f"{path} must have the columns image, label and prediction, or one column per class for the latter, and run where "
            f"there are several: it has {few([printable(name) for name in columns]) or 'none'}"
        )
    if not (rows := len(columns["image"])):
        raise InputError(f"{path} is about no image: it has a header only")
    for name, cells in columns.items():
        if (
            longest := max(map(len, cells))
        ) > LONGEST:  # numpy gives every cell of a column the room of its longest
            raise InputError(
                f"{path}: {printable(name)} has a cell of {longest} characters, and at most {LONGEST} are read"
            )
    for name in ("image", "label", "prediction"):
        if "" in columns.get(name, ()):
            raise InputError(f"{path} has no {name} in row {columns[name].index('') + 1}")
    of_run = columns.get("run", [""] * rows)
    runs = {name: i for i, name in enumerate(dict.fromkeys(of_run))}
    images = sorted(set(columns["image"]))
    at = {name: i for i, name in enumerate(images)}
    rank = np.array([runs[r] for r in of_run]) * len(images) + np.array([at[i] for i in columns["image"]])
    _check_complete(path, rank, images, list(runs))
    order = np.argsort(rank)
    labels = np.array(columns["label"])[order].reshape(len(runs), -1)
    if (other := np.flatnonzero((labels != labels[0]).any(axis=0))).size:
        raise InputError(f"{path} gives the image {printable(images[other[0]])} two labels")
    soft = [name for name in classes if "prediction" not in columns or name in {*columns["label"]}]
    values = _numbers(path, columns, soft)[order] if "prediction" not in columns else None
    if values is None:
        predicted = np.array(columns["prediction"])[order]
        extra = np.array([columns[name] for name in soft]).T
        kept = extra[order].reshape(len(runs), -1) if soft else None
    else:
        if absent := sorted({*columns["label"]} - {*soft}):
            raise InputError(f"{path} has no column of class {printable(absent[0])}, which is a label")
        predicted, kept = np.array(soft)[values.argmax(axis=1)], values.reshape(len(runs), -1)
    digests = [b"" if kept is None else hashlib.sha256(kept[i].tobytes()).digest() for i in range(len(runs))]
    return Sheet(
        images=np.array(images), labels=labels[0], predicted=predicted.reshape(len(runs), -1), digests=digests
    )


def _check_complete(path: Path, rank: NDArray[np.int64], images: Sequence[str], runs: Sequence[str]) -> None:
    """Every run names every image once."""
    found, counts = np.unique(
        rank, return_counts=True
    )  # never an array of runs x images, which may be far more than rows
    if len(found) == len(images) * len(runs) == len(rank):
        return
    lacking = np.flatnonzero(found != np.arange(len(found)))
    places = [int(lacking[0]) if lacking.size else len(found), *found[counts > 1][:1].tolist()]
    first = min(places)
    run, image = printable(runs[first // len(images)]), printable(images[first % len(images)])
    which = f"run {run}" if len(runs) > 1 else "the file"
    rows = int((rank == first).sum())
    said = f"has {rows} rows of" if rows else "lacks"
    raise InputError(f"{path}: {which} {said} the image {image}, and every run names every image once")


def _numbers(path: Path, columns: Columns, names: Sequence[str]) -> NDArray[np.float64]:
    """(rows, classes)"""
    found = np.empty((len(columns["image"]), len(names)))
    for i, name in enumerate(names):
        try:
            found[:, i] = [float(cell) for cell in columns[name]]
        except ValueError as error:
            raise InputError(
                f"{path}: without a column prediction, every column but {listed(list(KNOWN[:3]))} holds the probabilities of a "
                f"class, and {printable(name)} has {printable(str(error).rpartition(':')[2].strip())}"
            ) from error
        if not np.isfinite(found[:, i]).all():
            raise InputError(f"{path}: {printable(name)} has values that are not finite (NaN or infinite)")
    return found


def _csv(path: Path) -> Columns:
    try:
        _fits(path, path.stat().st_size * 8)
        text = path.read_bytes().decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator(text), strict=True))
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file that can be read: {error}") from error
    rows = [row for row in rows if row]
    names = _names(path, rows[0] if rows else [])
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(names):
            raise InputError(f"{path}: row {number} has {len(row)} cells and the header {len(names)}")
    cells = [[cell.strip() for cell in column] for column in zip(*rows[1:], strict=True)]
    return dict(zip(names, cells or [[] for _ in names], strict=True))


def _parquet(path: Path) -> Columns:
    from pyarrow import parquet  # takes a third of a second

    try:
        with parquet.ParquetFile(path) as file:
            about = file.metadata
            unpacked = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            _fits(path, max(unpacked, about.num_rows * about.num_columns * BYTES_PER_CELL))
            table = file.read()
        names = _names(path, table.column_names)
        return {n: [_text(v) for v in table.column(i).to_pylist()] for i, n in enumerate(names)}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror or 'damaged'}") from error
    except Exception as error:  # foreign bytes: Arrow has a dozen ways to fail
        raise InputError(f"{path} is no parquet file that can be read") from error


def _text(value: Any) -> str:
    """A cell as CSV would have it."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _names(path: Path, header: Sequence[str]) -> list[str]:
    plain = [name.strip() for name in header]
    names = [name.lower() if name.lower() in KNOWN else name for name in plain]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} has two columns called {printable(twice[0])}")
    return names


def _fits(path: Path, needed: int) -> None:
    if needed > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2:
        raise InputError(f"{path} is too large for this machine's memory")
