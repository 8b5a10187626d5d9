"""``parquet:PATH``: a file or a folder of shards, with images as bytes (or ``{bytes, path}``, or paths) and their labels."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from study.data.images import check_file, shown
from study.data.listing import has_image
from study.data.sources import Content, Outline, Source
from study.data.table import Row, content
from study.data.unpack import Columns, Unpacked, part_of
from study.memory import free_memory
from study.protocol.errors import InputError
from study.protocol.text import listed

ROWS = 128
"""Rows read at a time."""
BYTES_PER_ROW = 700
"""Of a row as Python holds it."""


def read(argument: str, downloads: Path) -> Content:
    """Raises InputError when there are no such files, or no images and labels in them."""
    unpacked = Unpacked(downloads, argument)
    with _readable(argument):
        path, shards, columns = _opened(argument)
        rows = list(_rows(path, shards, columns, unpacked))
    return content(argument, unpacked.root, rows, [f"columns {listed(columns.used)}"])


def outline(argument: str) -> Outline:
    with _readable(argument):
        return Outline(files=_opened(argument)[1])


@contextmanager
def _readable(argument: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (OSError, RuntimeError, pyarrow.ArrowException) as error:  # RuntimeError: no such user's home
        line = str(error).strip().partition("\n")[0]
        raise InputError(f"{shown(argument)} cannot be read as parquet: {line}") from error


def _opened(argument: str) -> tuple[Path, list[Path], Columns]:
    """The path, its shards, and the columns of the first."""
    path = Path(argument).expanduser().absolute()
    shards = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not shards:
        raise InputError(f"{shown(path)} holds no .parquet files")
    _check_sizes(shards)
    return path, shards, _columns(shards[0], argument)


def _check_sizes(shards: list[Path]) -> None:
    """Raises InputError for more rows, or larger groups of rows, than memory has room for: a bomb unpacks to both."""
    from pyarrow import parquet

    rows, free = 0, free_memory()
    for shard in shards:
        check_file(shard)
        about = parquet.read_metadata(shard)
        rows += about.num_rows
        largest = max((about.row_group(i).total_byte_size for i in range(about.num_row_groups)), default=0)
        if max(largest, rows * BYTES_PER_ROW) > free:
            raise InputError(
                f"{shown(shard)} is too large for this machine's memory: write smaller groups of rows"
            )


def _columns(shard: Path, spec: str) -> Columns:
    from pyarrow import parquet, types

    schema = parquet.read_schema(shard)
    kinds = {f.name: f.type.value_type if types.is_dictionary(f.type) else f.type for f in schema}
    images = [
        name
        for name, kind in kinds.items()
        if types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or (types.is_struct(kind) and max(map(kind.get_field_index, ("bytes", "path"))) >= 0)
    ]
    text = (types.is_string, types.is_large_string, types.is_string_view)
    paths = [name for name, kind in kinds.items() if any(is_it(kind) for is_it in text)]
    said = {name: str(kind) for name, kind in kinds.items()}
    return Columns.of(spec, said, images, paths, _class_names(schema.metadata or {}))


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """What Hugging Face writes about its columns."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(f["names"]) for name, f in features.items() if f.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _rows(root: Path, shards: list[Path], columns: Columns, unpacked: Unpacked) -> Iterator[Row]:
    from pyarrow import parquet

    parts = {shard: part_of(shard) for shard in shards}
    named = len(shards) > 1 and any(parts.values())
    number = 0
    for shard in shards:
        part = parts[shard] or (shard.stem if named else "train")
        before, name = number, shown(shard.name if shard == root else shard.relative_to(root))
        with parquet.ParquetFile(shard) as file:
            if lacking := [name for name in columns.used if name not in file.schema_arrow.names]:
                raise InputError(f"{shown(shard)} lacks {listed(lacking)}, which the first shard has")
            for batch in file.iter_batches(ROWS, columns=columns.used):
                for cells in _dicts(batch):
                    number += 1
                    place = f"row {number - before} of {name}"
                    yield unpacked.row(cells, columns, part, number, place, shard.parent)


def _dicts(batch: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = batch.to_pylist()
    return found


def _takes(spec: str) -> bool:
    path = Path(spec).expanduser()
    if path.is_dir():
        there = any(p.suffix == ".parquet" for p in (*path.iterdir(), *path.glob("data/*")))
        return there and not has_image(path)
    return path.suffix.lower() == ".parquet" and path.is_file()


SOURCES = (
    Source(
        spelling="parquet:PATH",
        help="a file or a folder of shards, with columns image and label",
        read=read,
        outline=outline,
        takes=_takes,
    ),
)
