"""Which files of a folder are read as images: by content, since a suffix may be wrong, missing or new."""

from pathlib import Path

from study.data.reading import UnreadableError, header

BESIDE = frozenset(
    [
        ".cfg",
        ".conf",
        ".css",
        ".csv",
        ".db",
        ".doc",
        ".docx",
        ".geojson",
        ".gitignore",
        ".html",
        ".ini",
        ".ipynb",
        ".js",
        ".json",
        ".jsonl",
        ".license",
        ".lnk",
        ".lock",
        ".log",
        ".md",
        ".pbtxt",
        ".pdf",
        ".py",
        ".pyc",
        ".rtf",
        ".sh",
        ".sqlite",
        ".tsv",
        ".txt",
        ".url",
        ".xls",
        ".xlsx",
        ".xml",
        ".xmp",
        ".yaml",
        ".yml",
    ]
)
"""Suffixes of what lies beside images: labels, notes, thumbnails' caches."""


def candidate(path: Path) -> bool:
    """Whether it is to be read: any file but those of ``BESIDE``. One that then turns out to be no image is a lost image."""
    return path.suffix.lower() not in BESIDE and (path.is_file() or not path.exists())  # a dangling link


def is_image(path: Path) -> bool:
    """Whether it can be opened as an image, by its header."""
    if not candidate(path):
        return False
    try:
        header(path)
    except UnreadableError:
        return False
    return True
