"""``s3://BUCKET/FOLDER`` and ``gs://BUCKET/FOLDER``: a folder of a bucket, brought to this machine once.

What is fetched lies under a hash of the listing (names, lengths, times): a bucket that has changed is another folder here, and
files that have not changed are linked from the one before.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

from study.data.sources import Content, Outline, Source, folder
from study.protocol.errors import InputError
from study.protocol.text import counted
from study.storage.objects import Storage, Stored, at_the_edge

FETCHED = "fetched"
AT_ONCE = 16
"""Objects that are fetched side by side."""
NO_IMAGES = {
    ".7z", ".avi", ".ckpt", ".gz", ".h5", ".mp4", ".npy", ".npz", ".onnx", ".parquet", ".pt", ".pth", ".rar", ".safetensors",
    ".tar", ".tgz", ".xz", ".zip",
}  # fmt: skip
"""Suffixes of what is large and no image."""


def read(scheme: str, argument: str, downloads: Path) -> Content:
    """Raises InputError when the storage cannot be read, or holds no such folder."""
    uri = f"{scheme}:{argument}"
    storage = Storage(uri)
    with at_the_edge(uri):
        listing = {name: stored for name, stored in storage.files().items() if _wanted(name)}
        if not listing:
            raise InputError(f"{uri} holds no images: name a folder with class folders in it")
        home = (downloads / FETCHED / _short(uri)).absolute()
        root = home / _short(repr(sorted((name, s.size, s.mtime) for name, s in listing.items())))
        before = sorted(home.glob("*/")) if home.is_dir() else []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda name: _fetch(storage, name, listing[name], root, before), listing))
    found = folder.content(root)
    size = sum(stored.size for stored in listing.values()) / 2**20
    return Content(
        classes=found.classes, parts=found.parts, unlabelled=found.unlabelled,
        notes=(*found.notes, f"{counted(len(listing), 'file')} of {size:.1f} MiB are kept in {root}"),
    )  # fmt: skip


def outline(scheme: str, argument: str) -> Outline:
    uri = f"{scheme}:{argument}"
    with at_the_edge(uri):
        if not Storage(uri).exists():
            raise InputError(f"{uri} holds no images: name a folder with class folders in it")
    return Outline()


def _wanted(name: str) -> bool:
    """Raises InputError for a name that no folder here could have."""
    path = PurePosixPath(name)
    if ".." in path.parts or path.is_absolute():
        raise InputError(f"the bucket holds {name!r}, whose name leads out of its folder: rename it")
    return not any(part.startswith(".") for part in path.parts) and path.suffix.lower() not in NO_IMAGES


def _fetch(storage: Storage, name: str, stored: Stored, root: Path, before: list[Path]) -> None:
    """Raises OSError."""
    path = root / name
    if _is(path, stored):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f"{path.name}.{os.getpid()}.partial")
    old = next((folder / name for folder in before if _is(folder / name, stored)), None)
    if old is not None:
        with suppress(OSError):  # another file system
            os.link(old, partial_file)
            partial_file.replace(path)
            return
    content = storage.get(name)
    if content is None or len(content) != stored.size:
        raise OSError(f"{name} changed while it was fetched")
    partial_file.write_bytes(content)
    os.utime(partial_file, (stored.mtime, stored.mtime))
    partial_file.replace(path)


def _is(path: Path, stored: Stored) -> bool:
    with suppress(OSError):
        status = path.stat()
        return status.st_size == stored.size and abs(status.st_mtime - stored.mtime) < 1e-3
    return False


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


SOURCES = tuple(
    Source(
        spelling=f"{scheme}://BUCKET/FOLDER",
        help=f"a folder of {whose}",
        read=partial(read, scheme),
        outline=partial(outline, scheme),
    )
    for scheme, whose in (("s3", "S3, fetched once"), ("gs", "Google's storage, fetched once"))
)
