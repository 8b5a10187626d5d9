"""Folders as people bring them: what is read of each class, what is lost, and pictures that are where they should not be."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.folders import folder, read_as
from support.pictures import make_images

from study.data.images import Streamed
from study.data.looks import Looks, contradictions, near
from study.data.opened import Asked, reading_of
from study.data.prepare import prepare, prepare_again
from study.data.reading import BACKGROUND, UnreadableError, read_each
from study.protocol import classes
from study.protocol.errors import InputError
from study.protocol.question import LeftOut


def picture(label: int, number: int, side: int = 16) -> Image.Image:
    pixels = np.random.default_rng([label, number]).integers(0, 80, (side, side, 3))
    pixels[:, : side // 2 if label else side, label] += 120
    return Image.fromarray(pixels.astype(np.uint8))


def tree(root: Path, *, train: int = 30, test: int = 10, suffix: str = "png", **saved: Any) -> Path:
    for part, count in (("train", train), ("test", test)):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                file = root / part / name / f"{i:03}.{suffix}"
                picture(label, i + 1000 * (part == "test")).save(file, **saved)
    return root


def test_photos_that_differ_in_their_orientation_only_are_told_apart(tmp_path: Path) -> None:
    turn = Image.Exif()
    turn[0x112] = 6
    tree(tmp_path, suffix="jpg")
    for file in sorted(tmp_path.glob("*/dog/*.jpg")):
        picture(0, int(file.stem) + 1000 * ("test" in file.parts)).save(file, exif=turn)
    prepared = folder(tmp_path)
    assert "40 of 80 images turned upright by their EXIF orientation" in prepared.card.note
    pixels, labels = prepared.train.pixels, prepared.train.labels
    np.testing.assert_array_equal(pixels[labels == 1], np.rot90(pixels[labels == 0], -1, (2, 3)))


def test_names_do_not_matter_and_what_is_no_image_is_told(tmp_path: Path) -> None:
    tree(tmp_path, suffix="jpg")
    for i, file in enumerate(sorted((tmp_path / "train" / "dog").iterdir())):
        file.rename(file.with_suffix((".jfif", ".jpe", "", ".JPEG", ".dat", ".db")[i % 6]))
    for file in (tmp_path / "train" / "cat").glob("01*"):
        file.rename(file.with_name(f".{file.name}"))
    (tmp_path / "train" / "cat" / "._000.jpg").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X")
    (tmp_path / "train" / "dog" / "labels.xml").write_text("<x/>")  # no image, and no loss
    prepared = folder(tmp_path)
    assert prepared.card.train_counts == (30, 30)
    assert prepared.card.left_out == ()
    for i in range(3):
        (tmp_path / "train" / "dog" / f"{i}.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(
        InputError, match=r"3 of 43 files of class 'dog'.*dog/0\.heic: its content is no AVIF.*: convert it"
    ):
        folder(tmp_path)
    card = read_as(tmp_path, Asked(allow_losses=True)).card
    assert card.train_counts == (30, 30)
    assert card.left_out == (LeftOut(label=1, folder="train/dog", kind="no known image (.heic)", count=3),)
    assert card.allow_losses


def test_broken_files_are_all_counted_and_ten_are_named_once(tmp_path: Path) -> None:
    tree(tmp_path)
    for i in range(12):
        (tmp_path / "train" / "cat" / f"b{i:02}.jpg").write_bytes(b"")
    whole = (tmp_path / "test" / "dog" / "000.png").read_bytes()
    (tmp_path / "test" / "dog" / "000.png").write_bytes(whole[: len(whole) // 2])  # its header is whole
    with pytest.raises(InputError) as caught:
        folder(tmp_path)
    said = str(caught.value)
    assert (
        "12 of 52 files of class 'cat' and more than 1% of 1 other class cannot be used, 13 files in all"
        in said
    )
    assert said.count("b03.jpg") == 1
    assert said.count(str(tmp_path)) == 10
    assert "; and 3 more. Repair or remove them, or go on without them by --allow-losses" in said
    for memory in (None, 0):
        asked = Asked(allow_losses=True)
        prepared = prepare(f"folder:{tmp_path}", seed=0, root=tmp_path, asked=asked, memory=memory)
        card = prepared.card
        assert isinstance(prepared.train, Streamed) == (memory == 0)
        assert (card.train_counts, card.test_counts) == ((30, 30), (10, 9))
        assert sum(left.count for left in card.left_out) == 13


def test_a_loss_of_less_than_one_per_cent_is_told_and_borne(tmp_path: Path) -> None:
    tree(tmp_path, train=150, test=3)
    (tmp_path / "train" / "cat" / "bad; 2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    card = folder(tmp_path).card
    assert any(
        note.startswith(f"left out: {tmp_path}/train/cat/bad; 2.png: ") for note in card.note.splitlines()
    )
    assert [(left.folder, left.count) for left in card.left_out] == [("train/cat", 1)]
    assert classes.rows(card) == [("cat", "153", "150", "3", "1"), ("dog", "153", "150", "3", "-")]
    assert "Left out: 1 no known image (.png) in train/cat." in classes.sentences(card)


def test_a_class_whose_files_are_all_lost_is_refused_even_with_leave(tmp_path: Path) -> None:
    tree(tmp_path)
    for file in (tmp_path / "train" / "cat").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="classes that train lacks: cat"):
        read_as(tmp_path, Asked(allow_losses=True))


def test_transparent_noise_is_not_trained_on(tmp_path: Path) -> None:
    for file in tree(tmp_path).rglob("*.png"):
        pixels = np.asarray(Image.open(file).convert("RGBA")).copy()
        pixels[:, :8, 3] = 0
        pixels[:, :8, :3] = np.random.default_rng(1).integers(0, 255, (16, 8, 3))
        Image.fromarray(pixels).save(file)
    prepared = folder(tmp_path)
    assert (prepared.train.pixels[..., :8] == BACKGROUND).all()
    assert "80 of 80 images with transparency laid over grey (128)" in prepared.card.note


def test_no_object_is_cut_away_unless_asked(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("test", 5)):
        for name, x in (("left", 0), ("right", 900)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (1000, 20), (i + 30 * (part == "test"), 0, 0))
                image.paste((0, 255, 0), (x, 0, x + 100, 20))
                image.save(tmp_path / part / name / f"{i}.png")
    for fit in ("squash", "pad"):
        asked = Asked(fit=fit, size=64)
        train = read_as(tmp_path, asked).train
        green = train.pixels[:, 1] > 200
        assert green[train.labels == 0][..., :16].any(axis=(1, 2)).all()
        assert not green[train.labels == 0][..., 16:].any()
    card = read_as(tmp_path, Asked(fit="crop")).card
    assert card.cut == pytest.approx(0.98)
    assert "98.0% of all pixels" in card.note
    assert (card.fit, folder(tmp_path).card.fit) == ("crop", "squash")


def test_deep_and_huge_images_are_read(tmp_path: Path) -> None:
    tree(tmp_path)
    Image.fromarray(np.full((16, 16), 40000, dtype=np.uint16)).save(tmp_path / "train" / "cat" / "deep.png")
    Image.new("RGB", (12000, 9000)).save(tmp_path / "train" / "cat" / "huge.jpg")
    card = folder(tmp_path).card
    assert card.train_counts == (32, 30)
    assert card.white == 65535
    assert "1 of 82 images of more than 8 bits divided by 65535" in card.note


def test_colours_of_16_bits_are_told(tmp_path: Path) -> None:
    tree(tmp_path)

    def chunk(kind: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))

    def note(*values: int) -> str:
        """With an image of this colour, with an alpha of full range if it has a fourth value."""
        row = b"\0" + struct.pack(f">{len(values)}H", *values) * 16
        file = b"\x89PNG\r\n\x1a\n" + chunk(
            b"IHDR", struct.pack(">2I5B", 16, 16, 16, 2 if len(values) == 3 else 6, 0, 0, 0)
        )
        file += chunk(b"IDAT", zlib.compress(row * 16)) + chunk(b"IEND", b"")
        (tmp_path / "train" / "cat" / "deep.png").write_bytes(file)
        prepared = folder(tmp_path)
        assert [value >> 8 for value in values[:3]] in prepared.train.pixels[:, :, 0, 0].tolist()
        return prepared.card.note

    assert note(40000, 4095, 255) == "1 of 81 images of 16 bits per colour divided by 256 to the range of 8"
    for values in ((4095, 4095, 255), (4095, 0, 0, 65535)):
        assert "WARNING: no value of these reaches 32768, as in train/cat/deep.png: " in note(*values)


def test_guessing_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    make_images(tmp_path, train=6, test=3)
    for file in sorted((tmp_path / "test" / "flat").iterdir())[1:]:
        file.rename(tmp_path / "test" / "rows" / f"more-{file.name}")
    card = folder(tmp_path).card
    assert card.test_counts == (1, 5, 3)
    assert classes.guessing(card) == ("rows", 5 / 9)


def test_a_size_that_is_asked_for_holds_for_files_and_arrays(tmp_path: Path) -> None:
    tree(tmp_path)
    assert read_as(tmp_path, Asked(size=40)).train.shape[1:] == (3, 40, 40)
    digits = prepare("digits", seed=0, root=tmp_path, asked=Asked(size=16))
    assert digits.card.size == 16
    usual = prepare("digits", seed=0, root=tmp_path)
    image = Image.fromarray(usual.train.pixels[3, 0]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(digits.train.pixels[3, 0], np.asarray(image))
    assert usual.card.fingerprint != digits.card.fingerprint


def test_one_picture_under_two_labels_is_told(tmp_path: Path) -> None:
    tree(tmp_path)
    picture(0, 5).save(tmp_path / "train" / "dog" / "again.png")
    note = folder(tmp_path).card.note
    assert "WARNING: 1 picture is under two labels: train/cat/005.png = train/dog/again.png" in note


def scenes(count: int, seed: int) -> list[Image.Image]:
    """Smooth pictures, all different."""
    rng = np.random.default_rng(seed)
    return [
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((96, 72))
        for _ in range(count)
    ]


def looks_of(pictures: list[Image.Image], side: int = 64) -> Looks:
    pixels = np.stack(
        [np.asarray(p.convert("RGB").resize((side, side))).transpose(2, 0, 1) for p in pictures]
    )
    looks = Looks.empty(len(pixels), 3, side)
    looks.see(0, pixels)
    return looks


def saved(image: Image.Image, kind: str, **how: Any) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return Image.open(buffer)


def test_pictures_saved_again_are_found_and_others_are_not() -> None:
    pool, others = scenes(300, 0), scenes(300, 1)
    again = [
        saved(pool[3], "JPEG", quality=60),
        saved(pool[5].resize((48, 36)), "JPEG", quality=85),
        saved(pool[7].resize((200, 150)), "WEBP", quality=70),
        pool[9].point(lambda value: min(255, round(value * 1.1) + 4)),
    ]
    found = near(looks_of(pool), looks_of([*others, *again]))
    assert found == [(300, 3), (301, 5), (302, 7), (303, 9)]
    plain = [Image.new("RGB", (64, 64), (c, c, c)) for c in range(100, 140)]
    assert near(looks_of(plain[:20]), looks_of(plain[20:])) == []  # they show too little to be told apart
    assert near(looks_of(pool), looks_of([pool[3]])) == []  # equal pixels are counted elsewhere
    assert contradictions(looks_of([pool[0], pool[1], pool[0]]), np.array([0, 0, 1])) == [(0, 2)]


def test_near_copies_in_the_test_are_warned_of(tmp_path: Path) -> None:
    for part, seed, count in (("train", 0, 12), ("test", 1, 5)):
        for label, name in enumerate(("a", "b")):
            (tmp_path / part / name).mkdir(parents=True)
            for i, scene in enumerate(scenes(count, 10 * seed + label)):
                scene.save(tmp_path / part / name / f"{i}.png")
    assert folder(tmp_path).card.near == 0
    scenes(12, 1)[4].resize((60, 45)).save(tmp_path / "test" / "b" / "small.jpg", quality=80)
    card = folder(tmp_path).card
    assert (card.near, card.copies) == (1, 0)
    assert "1 of 11 test images look like a training image saved again" in card.note
    assert "test/b/small.jpg and train/b/4.png" in card.note


def test_a_plan_reads_its_images_again_as_it_did(tmp_path: Path) -> None:
    import dataclasses

    from support.plans import PLAN

    tree(tmp_path)
    Image.new("RGB", (50, 20)).save(tmp_path / "train" / "cat" / "long.png")
    (tmp_path / "train" / "cat" / "bad.png").write_bytes(b"")
    asked = Asked(size=24, fit="pad", allow_losses=True)
    card = read_as(tmp_path, asked).card
    plan = dataclasses.replace(PLAN, data=card)
    assert prepare_again(plan, tmp_path).card == card


def test_new_files_are_read_as_the_study_read_its_own(tmp_path: Path) -> None:
    tree(tmp_path)
    Image.new("RGB", (50, 20), (9, 99, 199)).save(tmp_path / "train" / "cat" / "aaa.png")
    Image.fromarray(np.full((16, 16), 40000, dtype=np.uint16)).save(tmp_path / "train" / "cat" / "bbb.png")
    for fit in ("crop", "pad", "squash"):
        prepared = read_as(tmp_path, Asked(size=24, fit=fit))
        files = sorted((tmp_path / "train" / "cat").iterdir()) + sorted(
            (tmp_path / "train" / "dog").iterdir()
        )
        again = read_each(files, reading_of(prepared.card))
        np.testing.assert_array_equal(
            np.stack([p for p in again if not isinstance(p, UnreadableError)]), prepared.train.pixels
        )
