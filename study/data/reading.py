"""One image file -> square uint8 pixels: the only code that does it, in a study, in ``predict`` and beside an export.

Needs numpy and Pillow alone, so that an export can carry this file along. The format goes by the content and not by the
suffix. EXIF orientation is applied; transparency is laid over mid-grey; pixels of more than 8 bits are divided by ``white``;
of animations and stacks the first frame counts. A large JPEG is decoded at an eighth to a half of its size.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Fit = Literal["crop", "pad", "squash"]
SAFE = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TIFF", "WEBP")
"""Formats that may be tried: Pillow reads more, but runs programs for some and recognises others by guessing."""
BACKGROUND = 128
"""Grey under transparency and around padded images: neither white nor black drawings vanish on it, and it is close to 0 for a net."""
LARGEST = 2**27
"""Pixels that may be decoded of one image: 2 GiB while it is converted."""
LARGEST_JPEG = 2**30
"""Pixels of a JPEG that is decoded at a reduced size."""
ORIENTATION = 0x112
"""The EXIF tag."""
ALONE = 2**25
"""Decoded pixels from which on a process has one such image at a time."""
Image.MAX_IMAGE_PIXELS = (
    None  # Pillow's own limit knows nothing of reduced decoding; ``_check`` stands in for it
)
_LARGE = threading.Lock()


class UnreadableError(Exception):
    """A file that gives no pixels; ``kind`` in a word or two, the message says why."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a study reads its files."""

    size: int
    """Pixels per side."""
    channels: int
    """1 or 3."""
    fit: Fit = "squash"
    """What happens to an image that is not square: its ends are cut, grey fills the square, or it is stretched."""
    white: float = 0.0
    """The value of white in pixels of more than 8 bits, ``white_of`` the training images; 0: there were none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What had to be done to read an image."""

    turned: bool = False
    transparent: bool = False
    deep: bool = False
    colours16: bool = False
    dark: bool = False
    """No value of 16-bit colours reaches half of the range."""
    frames: bool = False
    reduced: bool = False
    scaled: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a file says of itself before it is decoded."""

    width: int
    height: int
    grey: bool
    brightest: float | None
    """The largest value of an image of more than 8 bits, which is decoded for it; None of any other."""


def read(file: Path, reading: Reading) -> NDArray[np.uint8]:
    """Pixels ``(channels, size, size)``. Raises UnreadableError."""
    return read_with_facts(file, reading)[0]


def read_each(
    files: Sequence[Path], reading: Reading, *, threads: int = 8
) -> Iterator[NDArray[np.uint8] | UnreadableError]:
    """The pixels of every file in turn, or why there are none; ``threads`` decode."""

    def attempt(file: Path) -> NDArray[np.uint8] | UnreadableError:
        try:
            return read(file, reading)
        except UnreadableError as error:
            return error

    formats()
    block = 256
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), block):
            yield from pool.map(attempt, files[start : start + block])


def read_with_facts(file: Path, reading: Reading) -> tuple[NDArray[np.uint8], Facts]:
    """Pixels ``(channels, size, size)``, and what was done to get them. Raises UnreadableError."""
    size = reading.size
    with _opened(file) as image:
        was, frames = image.size, _has_frames(image)
        colours16 = (
            not _is_deep(image) and re.search(r";16[BLN]", str(getattr(image, "tile", ""))) is not None
        )
        by_pillow = getattr(image, "tag_v2", {}).get(ORIENTATION, 1) != 1  # it turns TIFFs as it loads them
        _draft(image, reading)
        reduced = image.size != was
        _check(image.width * image.height)
        with _alone(image):
            image.load()
            turned = _turn(image) or by_pillow
            dark = colours16 and _is_dark(image)
            deep, transparent = _is_deep(image), image.has_transparency_data and not _is_deep(image)
            flat, mode = _flat(image, reading.white), "L" if reading.channels == 1 else "RGB"
            flat = flat if flat.mode == mode else flat.convert(mode)
            scaled = flat.size != (size, size)
            square = _fitted(flat, size, reading.fit) if scaled else flat
    facts = Facts(
        turned=turned,
        transparent=transparent,
        deep=deep,
        colours16=colours16,
        dark=dark,
        frames=frames,
        reduced=reduced,
        scaled=scaled,
    )
    pixels = np.asarray(square, dtype=np.uint8).reshape(size, size, -1).transpose(2, 0, 1)
    return pixels, facts


def header(file: Path) -> Header:
    """Raises UnreadableError."""
    with _opened(file) as image:
        brightest = None
        if _is_deep(image):
            with _alone(image):
                values = np.asarray(image)
                brightest = float(values.max())
                if not np.isfinite(values).all() or values.min() < 0:
                    raise UnreadableError(
                        "negative or no numbers",
                        f"its pixels (mode {image.mode}) are not all 0 or more: save it with values from 0 to 255 or 65535",
                    )
        grey = image.mode in ("1", "L", "LA", "La") or _is_deep(image)
        return Header(width=image.width, height=image.height, grey=grey, brightest=brightest)


@cache
def formats() -> tuple[str, ...]:
    """Those of ``SAFE`` that this Pillow reads. Called once before threads begin, which would race to load its plug-ins."""
    Image.init()
    return tuple(name for name in SAFE if name in Image.OPEN)


def white_of(brightest: float) -> float:
    """The smallest 2^b - 1 that is no smaller: 255 for 8 bits, 4095 for 12, 65535 for 16, 1 for fractions."""
    return float(2 ** int(np.ceil(np.log2(brightest + 1))) - 1) if brightest > 1 else 1.0


def _alone(image: Image.Image) -> AbstractContextManager[Any]:
    """Entered by one large image at a time."""
    return _LARGE if image.width * image.height > ALONE else nullcontext()


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The image in ``file``; whatever a decoder raises becomes an UnreadableError that does not name the file again."""
    try:
        if file.exists() and not file.is_file():
            raise UnreadableError("cannot be opened", "it is not a file")  # opening a pipe waits for ever
        with Image.open(file, formats=formats()) as image:
            if image.format in ("JPEG", "MPO") and not (image.info.get("progressive")):
                _check(image.width * image.height, LARGEST_JPEG)
            else:
                _check(image.width * image.height)
            yield image
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        empty = not file.stat().st_size
        reason = "it is empty" if empty else f"its content is no {', '.join(formats())}: convert it"
        raise UnreadableError("broken" if empty else "no known image", reason) from error
    except MemoryError as error:
        raise UnreadableError("too large", "it does not fit in memory: scale it down") from error
    except OSError as error:
        kind = "cannot be opened" if error.errno else "broken"
        raise UnreadableError(kind, error.strerror or str(error)) from error
    except Exception as error:  # decoders raise what they like
        raise UnreadableError("broken", f"{type(error).__name__}: {error}") from error


def _check(pixels: int, most: int = LARGEST) -> None:
    if pixels > most:
        raise UnreadableError(
            "too large",
            f"its {pixels / 1e6:.0f} million pixels could be a decompression bomb: scale it down to at most "
            f"{LARGEST // 10**6} million, or save it as a baseline JPEG, of which up to {LARGEST_JPEG // 10**6} million are read",
        )


def _has_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False)) and image.format != "MPO"  # a photo and its preview
    except Exception:  # noqa: BLE001  # the first frame may be whole all the same
        return False


def _draft(image: Image.Image, reading: Reading) -> None:
    """Have a JPEG decoded at the smallest eighth to whole that has twice the pixels needed per side."""
    need, (width, height) = 2 * reading.size, image.size
    if reading.fit == "pad":
        longer = max(width, height)
        image.draft(None, (max(1, need * width // longer), max(1, need * height // longer)))
    else:
        image.draft(None, (need, need))


def _turn(image: Image.Image) -> bool:
    """Turn upright, in place, by the EXIF orientation. A damaged EXIF block turns nothing."""
    before = image.im
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # noqa: BLE001  # the pixels are there
        return False
    return image.im is not before


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def _is_dark(image: Image.Image) -> bool:
    """Whether no colour reaches half of its range; transparency is none."""
    highest = np.reshape(image.getextrema(), (-1, 2))[:, 1]
    return bool(max(high for band, high in zip(image.getbands(), highest, strict=True) if band != "A") < 128)


def _flat(image: Image.Image, white: float) -> Image.Image:
    """Without more than 8 bits, and without transparency."""
    if _is_deep(image):
        values: NDArray[Any] = np.asarray(image, dtype=np.float64)
        if white == 0 or not np.isfinite(values).all() or values.min() < 0:
            raise UnreadableError(
                "more than 8 bits",
                f"its pixels are of more than 8 bits (mode {image.mode}), and those of the training images are not: save "
                "it with 8 bits",
            )
        return Image.fromarray((values * (255 / white)).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        top = image.convert("RGBA")
        under = Image.new("RGBA", top.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        under.alpha_composite(top)
        return under
    return image.convert("RGB") if image.mode == "LAB" else image  # it has no way to grey of its own


def _fitted(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    width, height = image.size
    bilinear, shorter, longer = Image.Resampling.BILINEAR, min(width, height), max(width, height)
    if fit == "squash":
        return image.resize((size, size), bilinear)
    if fit == "crop":
        x, y = (width - shorter) / 2, (height - shorter) / 2
        return image.resize((size, size), bilinear, box=(x, y, x + shorter, y + shorter))
    inner = (max(1, round(size * width / longer)), max(1, round(size * height / longer)))
    square = Image.new(image.mode, (size, size), BACKGROUND if image.mode == "L" else (BACKGROUND,) * 3)
    square.paste(image.resize(inner, bilinear), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return square
