"""Which files of a folder are read as images: by content, since a suffix may be wrong, missing or new."""

from pathlib import Path

from study.data.reading import UnreadableError, header

NO_IMAGE = ("no known image", "broken", "cannot be opened")
"""Kinds of ``UnreadableError`` that leave open whether a file was an image."""
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
