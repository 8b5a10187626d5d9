"""Odd files against Pillow's own upright image: modes, formats, orientations, and what is hostile or too large."""

import io
import itertools
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from study.data.images import quiet
from study.data.reading import (
    BACKGROUND,
    LARGEST,
    Fit,
    Reading,
    UnreadableError,
    header,
    read,
    read_each,
    read_with_facts,
    white_of,
)

SIDE = 24
MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "webp": ("RGB", "RGBA"),
    "jpg": ("L", "RGB", "CMYK"),
    "tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F"),
    "gif": ("L", "P"),
    "bmp": ("1", "L", "P", "RGB"),
    "ppm": ("1", "L", "RGB"),
    "jp2": ("L", "LA", "RGB", "RGBA"),
    "avif": ("RGB", "RGBA"),
}
TURNED = ("jpg", "png", "webp", "tif")
"""Formats with EXIF."""


def noise(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth noise of this mode; where there is transparency, all degrees of it."""
    rng = np.random.default_rng([seed, *mode.encode(), *size])
    bands = rng.integers(0, 256, (5, 5, 4), dtype=np.uint8)
    colour = Image.fromarray(bands, "RGBA").resize(size)
    if mode in ("LA", "RGBA"):
        return colour.convert(mode)
    grey = np.asarray(colour.convert("L"), dtype=np.int64)
    if mode.startswith("I;16"):
        return Image.fromarray((grey * 257).astype(">u2" if mode == "I;16B" else "<u2"))
    if mode == "I":
        return Image.fromarray((grey * 300).astype(np.int32))
    if mode == "F":
        return Image.fromarray((grey / 255).astype(np.float32))
    flat = colour.convert("RGB")
    if mode == "P":
        return flat.quantize(64)
    if mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.applyTransform(flat, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))  # type: ignore[return-value]
    return flat.convert(mode)


def reference(file: Path, channels: int, white: float) -> NDArray[np.uint8]:
    """Pillow's own: upright, over the background, converted."""
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        grey = (np.asarray(upright, dtype=np.float64) / white * 255).round().clip(0, 255)
        upright = Image.fromarray(grey.astype(np.uint8))
    elif upright.has_transparency_data:
        over = upright.convert("RGBA")
        upright = Image.new("RGBA", over.size, (BACKGROUND,) * 3 + (255,))
        upright.alpha_composite(over)
    colour = upright.convert("RGB") if upright.mode == "LAB" else upright
    pixels = np.asarray(colour.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


def odd_files(folder: Path) -> list[Path]:
    """Every format with its modes, each of eight orientations where it has EXIF, palettes and greys with a clear colour."""
    files = []
    for suffix, modes in MODES.items():
        for mode, turn in itertools.product(modes, range(1, 9) if suffix in TURNED else (1,)):
            for seed in range(2):
                file = folder / f"{mode.replace(';', '')}-{turn}-{seed}.{suffix}"
                exif = Image.Exif()
                exif[0x112] = turn
                more: dict[str, Any] = {"exif": exif} if suffix in TURNED else {}
                more |= {"lossless": True} if suffix == "webp" else {}
                more |= (
                    {"transparency": 7} if seed and suffix in ("png", "gif") and mode in ("P", "L") else {}
                )
                more |= {"transparency": (1, 2, 3)} if seed and suffix == "png" and mode == "RGB" else {}
                noise(mode, (SIDE, SIDE), seed).save(file, **more)
                files.append(file)
    return files


def test_hundreds_of_odd_files_are_read_as_pillow_reads_them(tmp_path: Path) -> None:
    files = odd_files(tmp_path)
    assert len(files) >= 300
    turned = []
    with quiet():
        for file in files:
            head = header(file)
            assert (head.width, head.height) == (SIDE, SIDE)
            white = white_of(head.brightest) if head.brightest is not None else 0.0
            for channels in (1, 3):
                pixels, facts = read_with_facts(file, Reading(size=SIDE, channels=channels, white=white))
                np.testing.assert_array_equal(pixels, reference(file, channels, white), err_msg=str(file))
                turned.append(facts.turned)
                assert facts.turned == ("-1-" not in file.name), file
    assert sum(turned) >= 400


@pytest.mark.parametrize("suffix", TURNED)
def test_all_eight_orientations_give_the_same_upright_image(tmp_path: Path, suffix: str) -> None:
    upright = noise("RGB", (30, 20))
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    """Orientation -> Pillow's transposition that a viewer has to undo."""
    seen = []
    for turn, method in back.items():
        exif = Image.Exif()
        exif[0x112] = turn
        stored = upright if method is None else upright.transpose(Image.Transpose(method))
        file = tmp_path / f"{turn}.{suffix}"
        more: dict[str, Any] = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
        more |= {"lossless": True} if suffix == "webp" else {}
        stored.save(file, exif=exif, **more)
        seen.append(read(file, Reading(size=20, channels=3, fit="crop")).astype(int))
    for other in seen:
        assert np.abs(other - seen[0]).max() <= (6 if suffix == "jpg" else 1)  # the codec's own rounding


def test_deep_pixels_are_divided_by_the_stated_white(tmp_path: Path) -> None:
    assert [white_of(x) for x in (0.0, 0.7, 1.0, 200.0, 255.0, 256.0, 4000.0, 40000.0)] == [
        1, 1, 1, 255, 255, 511, 4095, 65535,
    ]  # fmt: skip
    file = tmp_path / "deep.png"
    Image.fromarray(np.full((9, 9), 40000, dtype=np.uint16)).save(file)
    assert header(file).brightest == 40000
    assert (read(file, Reading(size=9, channels=1, white=65535)) == round(40000 / 65535 * 255)).all()
    with pytest.raises(UnreadableError, match="more than 8 bits"):
        read(file, Reading(size=9, channels=1))


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_fits_keep_what_they_say(tmp_path: Path, fit: Fit) -> None:
    """A long image with its object at one end."""
    image = Image.new("RGB", (1000, 20))
    image.paste((255, 0, 0), (0, 0, 100, 20))
    image.save(tmp_path / "long.png")
    pixels = read(tmp_path / "long.png", Reading(size=40, channels=3, fit=fit))
    red = (pixels[0] > 200) & (pixels[1] < 50)
    grey = (pixels == BACKGROUND).all(axis=0)
    if fit == "crop":
        assert not red.any()
    elif fit == "squash":
        assert red[:, :3].all()
        assert not red[:, 6:].any()
    else:
        assert red.sum() == pytest.approx(4, abs=2)
        assert grey.sum() == 40 * 39


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Edges and texture at many scales."""
    rng, picture = np.random.default_rng(seed), np.zeros((size[1], size[0], 3))
    for cells in (4, 16, 64, 256):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(size)
        picture += np.asarray(layer, dtype=np.float64) / 4
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(640, 480), (1024, 1024), (1600, 900)])
def test_a_large_jpeg_is_read_from_pillows_own_draft(tmp_path: Path, size: tuple[int, int]) -> None:
    file = tmp_path / "large.jpg"
    photograph(size).save(file, quality=92)
    for side in (32, 64, 224):
        pixels, facts = read_with_facts(file, Reading(size=side, channels=3))
        with Image.open(file) as image:
            image.draft("RGB", (2 * side, 2 * side))
            assert facts.reduced == (image.size != size)
            drafted = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        with Image.open(file) as image:
            whole = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.abs(pixels.astype(int) - drafted).max() <= 1
        assert np.abs(pixels.astype(int) - whole).mean() < 3


def test_a_photo_of_108_megapixels_is_read_at_an_eighth(tmp_path: Path) -> None:
    file = tmp_path / "huge.jpg"
    Image.new("RGB", (12000, 9000), (200, 100, 50)).save(file)
    pixels, facts = read_with_facts(file, Reading(size=32, channels=3))
    assert facts.reduced
    assert np.abs(pixels.mean(axis=(1, 2)) - (200, 100, 50)).max() < 2


def test_bombs_are_refused_by_their_header_with_a_way_on(tmp_path: Path) -> None:
    side = int(LARGEST**0.5) + 1
    black = Image.new("1", (side, side))
    black.save(tmp_path / "bomb.png")
    for name in ("bomb.png",):
        with pytest.raises(
            UnreadableError, match="decompression bomb: scale it down to at most 134 million"
        ) as caught:
            header(tmp_path / name)
        assert caught.value.kind == "too large"
    progressive = io.BytesIO()
    Image.new("L", (16, 16)).save(progressive, "JPEG", progressive=True)
    whole = bytearray(progressive.getvalue())
    place = whole.index(b"\xff\xc2") + 5
    whole[place : place + 4] = (
        b"\xff\xff\xff\xff"  # it says 65535 x 65535: libjpeg would keep all of it in memory
    )
    (tmp_path / "bomb.jpg").write_bytes(whole)
    with pytest.raises(UnreadableError, match="baseline JPEG"):
        read(tmp_path / "bomb.jpg", Reading(size=32, channels=1))


def test_damaged_files_give_a_reason_and_never_another_error(tmp_path: Path) -> None:
    """Truncated, with flipped and inserted bytes, emptied: of every format."""
    chance = random.Random(0)
    reading = Reading(size=SIDE, channels=3, white=65535)
    failed = 0
    with quiet():
        for suffix, modes in MODES.items():
            for mode in modes:
                whole = tmp_path / f"whole.{suffix}"
                noise(mode, (SIDE, SIDE)).save(whole)
                content = whole.read_bytes()
                for attempt in range(12):
                    bad = bytearray(content)
                    for _ in range(chance.randint(1, 12)):
                        bad[chance.randrange(len(bad))] = chance.randrange(256)
                    if attempt % 3 == 0:
                        del bad[chance.randrange(len(bad)) :]
                    if attempt % 4 == 1:
                        bad[8:8] = chance.randbytes(40)
                    file = tmp_path / "bad"
                    file.write_bytes(bad)
                    try:
                        header(file)
                        read(file, reading)
                    except UnreadableError as error:
                        failed += 1
                        assert str(error)
                        assert str(file) not in str(error)  # who reports it names the file once
    assert failed > 100


def test_what_is_no_image_says_so(tmp_path: Path) -> None:
    for name, content, kind in (
        ("a.jpg", b"", "broken"),
        ("b.jpg", b"#!/bin/sh\nrm -rf /\n", "no known image"),
        (
            "c.eps",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "no known image",
        ),  # would run Ghostscript
        ("d.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no known image"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableError) as caught:
            read(tmp_path / name, Reading(size=8, channels=3))
        assert caught.value.kind == kind, name
    with pytest.raises(UnreadableError, match="No such file"):
        header(tmp_path / "nowhere.png")


def test_only_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (12, 12), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    for suffix in ("gif", "webp", "tif", "png"):
        file = tmp_path / f"moving.{suffix}"
        more: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(file, save_all=True, append_images=frames[1:], **more)
        pixels, facts = read_with_facts(file, Reading(size=12, channels=3))
        assert facts.frames, suffix
        np.testing.assert_array_equal(pixels[:, 0, 0], [200, 0, 0])


def test_many_files_are_read_in_their_order_with_the_reasons_in_place(tmp_path: Path) -> None:
    files = []
    for i in range(300):
        files.append(tmp_path / f"{i}.png")
        files[-1].write_bytes(b"") if i % 7 == 0 else Image.new("L", (8, 8), i % 256).save(files[-1])
    before = threading.active_count()
    for i, got in enumerate(read_each(files, Reading(size=8, channels=1), threads=3)):
        if i % 7 == 0:
            assert isinstance(got, UnreadableError)
        else:
            assert not isinstance(got, UnreadableError)
            assert (got == i % 256).all()
    assert threading.active_count() == before
