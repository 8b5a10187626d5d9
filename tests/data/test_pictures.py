"""Small pictures of test images: kept to the pixel where they are small, as JPEGs of at most 96 pixels where they are not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from study.data import pictures
from study.data.images import Images


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (1, 100), (3, 224)])
def test_pictures_are_small_files(tmp_path: Path, channels: int, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, channels, side, side)).astype(np.uint8)
    images = Images(pixels, np.zeros(5, dtype=np.int64))
    pictures.save(tmp_path / "p.npz", images, [4, 1])
    with np.load(tmp_path / "p.npz") as kept:
        assert kept["positions"].tolist() == [4, 1]
        first = kept["files"][: kept["ends"][0]].tobytes()
        assert kept["ends"][-1] == len(kept["files"]) < 2 * 2**15
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.format == ("PNG" if side <= 32 else "JPEG")
        assert picture.size == (min(side, 96),) * 2
        if side <= 32:
            shown = np.asarray(picture).reshape(side, side, channels).transpose(2, 0, 1)
            np.testing.assert_array_equal(shown, pixels[4])


def test_no_picture_is_a_file_too(tmp_path: Path) -> None:
    images = Images(np.zeros((2, 1, 8, 8), dtype=np.uint8), np.zeros(2, dtype=np.int64))
    pictures.save(tmp_path / "p.npz", images, [])
    with np.load(tmp_path / "p.npz") as kept:
        assert len(kept["positions"]) == len(kept["files"]) == 0
