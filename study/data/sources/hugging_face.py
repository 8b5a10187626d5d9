"""``hf:NAME_OR_FOLDER[:CONFIG]``: a data set of the hub or of a local folder, through the ``datasets`` library.

That library runs no code of a data set since version 4, and is never asked to.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from study.data.images import shown
from study.data.sources import Content, Outline, Source
from study.data.table import Row, content
from study.data.unpack import Columns, Unpacked
from study.protocol.errors import InputError
from study.protocol.text import first_line, listed

SAVED = ("dataset_dict.json", "state.json")
"""Files of what ``save_to_disk`` wrote."""


def read(argument: str, downloads: Path) -> Content:
    """Raises InputError when it cannot be had, or has no images and labels."""
    _check_installed(argument)
    import datasets

    name, config = _split(argument)
    folder = _folder(name)
    unpacked = Unpacked(downloads, name)
    with _quiet(datasets):
        try:
            if any((folder / saved).is_file() for saved in SAVED):
                found = datasets.load_from_disk(str(folder))
            else:
                place = str(folder.absolute()) if folder.is_dir() else name
                cache = str((downloads / "huggingface").absolute())
                found = datasets.load_dataset(place, config, cache_dir=cache)
            parts = dict(found) if isinstance(found, dict) else {"train": found}
            columns = _columns(argument, datasets, next(iter(parts.values())))
            rows = [
                row for part, own in parts.items() for row in _rows(part, own, columns, unpacked, datasets)
            ]
        except InputError:
            raise
        except (
            Exception
        ) as error:  # no network, no such name, a damaged file, a gated set: the advice is the same
            raise InputError(
                f"hf:{shown(argument)} could not be had: {first_line(error).rstrip('.')}. It takes a folder that is there, or a name "
                "of the hub, as in hf:uoft-cs/cifar100, and a network for the first time"
            ) from error
    return content(f"hf:{argument}", unpacked.root, rows, [f"columns {listed(columns.used)}"])


def outline(argument: str) -> Outline:
    _check_installed(argument)
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    name, _ = _split(argument)
    folder = _folder(name)
    if folder.is_dir():
        return Outline(files=sorted(path for path in folder.rglob("*") if path.is_file()))
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(
            f"hf:{shown(argument)} is no folder that is there, and no name of the hub, as hf:uoft-cs/cifar100"
        ) from error
    return Outline()


def _check_installed(argument: str) -> None:
    if find_spec("datasets") is None:
        raise InputError(f"hf:{argument} needs the datasets library: pip install 'resnext-study[datasets]'")


def _split(argument: str) -> tuple[str, str | None]:
    """The name or folder, and the configuration."""
    if _folder(argument).is_dir():
        return argument, None
    name, _, config = argument.rpartition(":")
    return (name, config or None) if name else (argument, None)


def _folder(name: str) -> Path:
    with suppress(RuntimeError):  # no such user's home
        return Path(name).expanduser()
    return Path(name)


def _columns(spec: str, datasets: Any, part: Any) -> Columns:
    kinds = part.features
    images = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    raw = [name for name, kind in kinds.items() if getattr(kind, "dtype", "") in ("binary", "large_binary")]
    classes = {name: kind.names for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)}
    return Columns.of(
        f"hf:{spec}", {n: getattr(k, "dtype", str(k)) for n, k in kinds.items()}, images or raw, None, classes
    )


def _rows(part: str, own: Any, columns: Columns, unpacked: Unpacked, datasets: Any) -> Iterator[Row]:
    if lacking := [name for name in columns.used if name not in own.features]:
        raise InputError(f"{unpacked.spec}: part {part} lacks {listed(lacking)}")
    own = own.select_columns(columns.used)
    if isinstance(own.features[columns.image], datasets.Image):
        own = own.cast_column(columns.image, datasets.Image(decode=False))
    for number, cells in enumerate(own, 1):
        yield unpacked.row(cells, columns, part, number, f"row {number} of {part}", Path())


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without progress bars and the libraries' own logs."""
    from huggingface_hub.utils import logging as hub

    logs = (datasets.logging, hub)
    levels = [log.get_verbosity() for log in logs]
    for log in logs:
        log.set_verbosity_error()
    shown_before = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bar()
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
        if shown_before:
            datasets.enable_progress_bar()


def _takes(spec: str) -> bool:
    return any((Path(spec).expanduser() / saved).is_file() for saved in SAVED)


SOURCES = (
    Source(
        spelling="hf:NAME_OR_FOLDER[:CONFIG]",
        help="a data set of the Hugging Face hub, or a folder of one (pip install 'resnext-study[datasets]')",
        read=read,
        outline=outline,
        takes=_takes,
    ),
)
