"""What lies in a folder of images: its folders and files in a fixed order, at any depth, and which of them are read.

Folders that begin with a dot are left out. Files are judged by content, since a suffix may be wrong, missing or new. An export carries
this file along, as it does ``reading.py``.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from study.data.reading import UnreadableError, header

NO_IMAGE = ("no known image", "broken", "cannot be opened")
"""Kinds of ``UnreadableError`` that leave open whether a file was an image."""
BESIDE = {
    ".cfg", ".conf", ".css", ".csv", ".db", ".doc", ".docx", ".geojson", ".gitignore", ".html", ".ini", ".ipynb", ".js", ".json",
    ".jsonl", ".license", ".lnk", ".lock", ".log", ".md", ".pbtxt", ".pdf", ".py", ".pyc", ".rtf", ".sh", ".sqlite", ".tsv", ".txt",
    ".url", ".xls", ".xlsx", ".xml", ".xmp", ".yaml", ".yml",
}  # fmt: skip
"""Suffixes of what lies beside images: labels, notes, thumbnails' caches."""


def candidate(path: Path) -> bool:
    """Whether it is to be read: an image, or any other file that is not hidden and has no suffix of ``BESIDE``: a lost image."""
    if hidden(path) or path.suffix.lower() in BESIDE:
        return is_image(path)
    return path.is_file() or not path.exists()  # a dangling link


def is_image(path: Path) -> bool:
    """Whether its header is that of an image, even of one that is too large or has negative pixels."""
    try:
        header(path)
    except UnreadableError as error:
        return error.kind not in NO_IMAGE
    return True


def hidden(path: Path) -> bool:
    return path.name.startswith(".")


def folders(path: Path) -> list[Path]:
    """The folders in ``path`` by name; none where there is no such folder."""
    return sorted(p for p in path.iterdir() if p.is_dir() and not hidden(p)) if path.is_dir() else []


def files(path: Path, *, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Everything else in ``path`` by name, then that of each folder inside; links that lead back up are not followed."""
    above |= {path.resolve(), *path.resolve().parents}
    entries = sorted(path.iterdir())
    yield from (p for p in entries if not p.is_dir())
    for folder in folders(path):
        if folder.resolve() not in above:
            yield from files(folder, above=above)


def dotted(path: Path) -> list[str]:
    """Folders at any depth that begin with a dot, relative to ``path``: nothing in them is read."""
    found: list[str] = []
    for at, inside, _ in os.walk(path):
        found += [str((Path(at) / name).relative_to(path)) for name in inside if name.startswith(".")]
        inside[:] = [name for name in inside if not name.startswith(".")]
    return sorted(found)


def has_image(path: Path) -> bool:
    return any(map(is_image, files(path)))
