"""What lies in a folder of images: its folders and files in a fixed order, at any depth, without folders that begin with a dot."""

import os
from collections.abc import Iterator
from pathlib import Path

from study.data.kinds import hidden, is_image


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
