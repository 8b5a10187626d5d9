"""Small image folders for real studies in tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_images(folder: Path, *, train: int, test: int, size: int = 8) -> None:
    """Three classes of coloured stripes under noise: learnable, but not at once."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for label, name in enumerate(("flat", "rows", "slope & <b>")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                rows, columns = np.mgrid[:size, :size]
                wave = (np.zeros((size, size)), rows % 2, (rows + columns) / size)[label]
                pixels = 128 + 40 * wave[..., None] + 50 * rng.standard_normal((size, size, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / part / name / f"{number:04d}.png")


def fill(path: Path, classes: dict[str, int], *, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> None:
    """``path/<class>/*.png``: noise whose brightness rises with the class."""
    rng = np.random.default_rng([len(classes), *path.name.encode()])
    for level, (name, count) in enumerate(classes.items()):
        (path / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = rng.integers(40 * level, 40 * level + 40, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(noise).convert(mode).save(path / name / f"{i:03}.png")
