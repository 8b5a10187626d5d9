"""Small pictures of a few test images, kept beside the predictions for the report."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from study.data.images import Images
from study.protocol.rundir import replacing

SIDE = 96
"""Most pixels of a picture's side."""
SHARP = 32
"""Images of up to this side are kept to the pixel."""


def save(path: Path, images: Images, positions: Sequence[int]) -> None:
    """Write the images at ``positions`` as PNG or JPEG files into one file: ``positions``, their ``ends`` in ``files``, and ``files``."""
    rows = np.array(positions, dtype=np.int64)
    pixels = np.empty((len(rows), *images.shape[1:]), dtype=np.uint8)
    images.fill(pixels, rows)
    encoded = [_encoded(each) for each in pixels]
    with replacing(path) as file:
        np.savez(
            file,
            positions=rows,
            ends=np.cumsum([len(content) for content in encoded], dtype=np.int64),
            files=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        )


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    """Of (channels, side, side)."""
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    content, small = io.BytesIO(), pixels.shape[-1] <= SHARP
    picture.thumbnail((SIDE, SIDE))
    picture.save(content, format="PNG" if small else "JPEG", quality=85)
    return content.getvalue()
