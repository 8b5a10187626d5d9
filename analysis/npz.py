"""Reads .npz files from untrusted sources: no pickles, no zip bombs, no tracebacks."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ArraysError(ValueError):
    """The file cannot be read; the message says why, the caller adds the file's name."""


PROBABILITIES = ("log_probabilities", "probabilities")
"""What a net says of the images: natural logarithms; studies before 2026-11-28 and other tools store the values themselves."""


def probabilities(found: dict[str, Array]) -> Array | None:
    """The class probabilities among arrays that ``read`` gave, whichever way they are stored; None without any."""
    if (logs := found.get("log_probabilities")) is not None:
        with np.errstate(over="ignore"):  # infinite then, which no reader takes
            return np.exp(logs) if logs.dtype.kind == "f" else logs
    return found.get("probabilities")


def read(path: Path, *wanted: tuple[str, ...]) -> tuple[dict[str, Array], list[str]]:
    """From each group of names the first array that the file has; and the names of all its arrays.

    Raises ArraysError.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    unpacked = sum(member.file_size for member in archive.infolist())
                if unpacked > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2:
                    raise MemoryError
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            names = list(getattr(loaded, "files", []))
            chosen = [name for group in wanted for name in [n for n in group if n in names][:1]]
            return {name: loaded[name] for name in chosen}, names
    except OSError as error:
        raise ArraysError(f"cannot be opened: {error.strerror or 'damaged'}") from error
    except MemoryError as error:
        raise ArraysError("is too large for this machine's memory") from error
    except Exception as error:  # foreign bytes: numpy, zipfile and zlib have a dozen ways to fail
        raise ArraysError(
            "is no .npz file that can be read: it is damaged, of another format or holds Python objects"
        ) from error
