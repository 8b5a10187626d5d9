"""``digits``: 1,797 grey images of 8 x 8 pixels that come with scikit-learn; nothing is downloaded."""

import os
from pathlib import Path

import numpy as np

from study.data.sources import Content, Part, Source


def read(_argument: str, _downloads: Path) -> Content:
    os.environ.setdefault("JOBLIB_MULTIPROCESSING", "0")  # else it warns where there is no shared memory
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    return Content(classes=tuple("0123456789"), parts={"train": Part(images=pixels, labels=labels)})


SOURCES = (Source(spelling="digits", help="small grey digits, part of scikit-learn", read=read),)
