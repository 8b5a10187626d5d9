"""Data sets made here: image folders with the oddities found in practice, and an archive in CIFAR's format."""

import hashlib
import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import MANIFEST, folder
from support.pictures import fill
from support.plans import PLAN
from torchvision import datasets

from study.data.images import Images
from study.data.opened import Asked
from study.data.prepare import prepare
from study.data.sealed import unseal
from study.data.sources import spellings
from study.data.split import folds, sealed_share, split, split_for
from study.protocol.errors import InputError
from study.protocol.records import Manifest


def test_folder_is_read_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 5, "ant": 4})
    fill(tmp_path / "test", {"cat": 2, "ant": 1})
    prepared = folder(tmp_path)
    card, train = prepared.card, prepared.train
    assert card.classes == ("ant", "cat")
    assert (card.train, card.test, card.size, card.channels, card.note) == (9, 3, 12, 3, "")
    assert train.labels.tolist() == [0] * 4 + [1] * 5
    assert train.pixels.dtype == np.uint8
    assert train.pixels.flags.c_contiguous
    with Image.open(tmp_path / "train" / "cat" / "001.png") as image:
        np.testing.assert_array_equal(train.pixels[5], np.asarray(image).transpose(2, 0, 1))


def test_same_folder_same_fingerprint_and_any_change_another(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 4, "b": 4})
    fill(tmp_path / "test", {"a": 2, "b": 2})
    before = folder(tmp_path).card.fingerprint
    assert folder(tmp_path, seed=1).card.fingerprint == before
    Image.new("RGB", (12, 12), (1, 2, 3)).save(tmp_path / "test" / "a" / "000.png")
    assert folder(tmp_path).card.fingerprint != before


@pytest.mark.parametrize(
    ("images", "share"), [(400, 0.3), (1797, 0.3), (5000, 0.2), (10_000, 0.1), (60_000, 0.1)]
)
def test_few_images_give_more_of_them_to_the_test(images: int, share: float) -> None:
    assert sealed_share(images) == pytest.approx(share)


def test_studies_of_the_same_test_files_know_each_other(tmp_path: Path) -> None:
    """Only the content of test files counts: not their names, the scaled size or the training images."""
    fill(tmp_path / "a" / "train", {"x": 6, "y": 6})
    fill(tmp_path / "a" / "test", {"x": 3, "y": 3})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    fill(tmp_path / "b" / "train", {"x": 8, "y": 8}, size=(30, 30))  # decides the size
    (tmp_path / "b" / "test" / "x" / "000.png").rename(tmp_path / "b" / "test" / "x" / "other.png")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    Image.new("RGB", (12, 12), (1, 2, 3)).save(tmp_path / "c" / "test" / "x" / "000.png")
    one, same, other = (folder(tmp_path / name) for name in "abc")
    assert one.card.size != same.card.size
    assert one.test_source == same.test_source != other.test_source
    apart = tmp_path / "apart"
    fill(apart / "train", {"x": 20, "y": 20})
    assert folder(apart).test_source == folder(apart).test_source != folder(apart, seed=1).test_source


def test_without_a_test_part_a_share_is_set_apart_by_seed(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 40, "b": 20})
    first, again, other = folder(tmp_path), folder(tmp_path), folder(tmp_path, seed=1)
    assert (first.card.train, first.card.test) == (42, 18)
    assert np.bincount(first.train.labels).tolist() == [28, 14]
    assert "30% of each class set apart as the test, by seed 0" in first.card.note
    np.testing.assert_array_equal(first.train.pixels, again.train.pixels)
    assert not np.array_equal(first.train.pixels, other.train.pixels)


def test_val_is_the_test_part_where_test_has_no_classes(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 4, "b": 4})
    fill(tmp_path / "val", {"a": 2, "b": 2})
    (tmp_path / "test").mkdir()  # ImageNet's: images without labels
    Image.new("RGB", (12, 12)).save(tmp_path / "test" / "x.png")
    card = folder(tmp_path).card
    assert card.test == 4
    assert "test left unused, without labels\nval is the test part" in card.note


def test_odd_things_in_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 4, "b c ü": 4})
    fill(tmp_path / "test", {"a": 2, "b c ü": 1})
    inside = tmp_path / "train" / "a"
    (inside / ".DS_Store").write_bytes(b"x")
    (inside / "notes.txt").write_text("x")
    (inside / "more.png").mkdir()
    os.mkfifo(inside / "pipe.jpg")  # reading it would block forever
    (tmp_path / "train" / ".cache").mkdir()
    (inside / "link.png").symlink_to(inside / "000.png")
    (inside / "LOUD.JPEG").write_bytes(jpeg(12))
    card = folder(tmp_path).card
    assert card.train == 10
    assert card.classes == ("a", "b c ü")
    assert card.note == (
        "2 files that are no images left out: 1 .jpg and 1 .txt\nfolders that begin with a dot left out: train/.cache\n"
        "training images that are copies of others: 1, pixel for pixel; they stay on one side of every split"
    )


def jpeg(side: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 4, "b": 4})
    os.rename(tmp_path / "train" / "b", os.fsencode(tmp_path / "train") + b"/\xff")  # noqa: PTH104 bytes
    folder(tmp_path).card.classes[1].encode()


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA"])
def test_modes_of_colour(tmp_path: Path, mode: str) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 3}, mode=mode)
    fill(tmp_path / "test", {"a": 1, "b": 1})
    assert folder(tmp_path).card.channels == (3 if mode in ("P", "RGBA") else 1)


def test_unequal_sizes_are_scaled_and_cropped(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 3}, size=(50, 21))
    fill(tmp_path / "train", {"a": 0, "b": 3}, size=(19, 19))
    fill(tmp_path / "test", {"a": 1, "b": 1}, size=(16, 16))
    stripes = np.zeros((20, 60, 3), dtype=np.uint8)
    stripes[:, 20:40] = 200  # the crop keeps the middle third
    Image.fromarray(stripes).save(tmp_path / "train" / "a" / "000.png")
    prepared = prepare(f"folder:{tmp_path}", seed=0, root=tmp_path, asked=Asked(fit="crop"))
    assert prepared.card.size == 16  # the median of the shorter sides is 19.5
    assert prepared.card.cut == pytest.approx((2 * (1 - 21 / 50) + (1 - 20 / 60)) / 8)
    assert prepared.card.note == (
        "6 of 8 images scaled to 16 x 16 pixels (their ends cut away, 22.8% of all pixels and up to 67% of an image: --fit crop)"
    )
    assert (prepared.train.pixels[0, :, :, 1:-1] == 200).all()
    assert prepared.train.pixels[0].min() > 150  # the filter reaches less than a pixel past the edge


@pytest.mark.parametrize(("given", "used"), [(4, 8), (224, 224), (300, 224)])
def test_size_stays_in_bounds(tmp_path: Path, given: int, used: int) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 3}, size=(given, given))
    assert folder(tmp_path).card.size == used


def test_broken_images_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 4, "b": 4})
    file = tmp_path / "train" / "b" / "bad.jpg"
    whole = jpeg(64)
    for content in (b"", b"not an image", whole[:200], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(
            InputError,
            match=r"1 of 5 files of class 'b' cannot be used.* \S+b/bad\.jpg: .*Repair or remove it",
        ):
            folder(tmp_path)
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"bad\.jpg"):
        folder(tmp_path)


def test_image_bombs_and_negative_pixels_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 4, "b": 4})
    bomb = tmp_path / "train" / "a" / "bomb.png"
    Image.new("1", (14_000, 14_000)).save(bomb)
    with pytest.raises(InputError, match=r"bomb\.png: .*decompression bomb: scale it down"):
        folder(tmp_path)
    Image.fromarray(np.full((12, 12), -1, dtype=np.int32)).save(bomb, "TIFF")
    with pytest.raises(InputError, match=r"bomb\.png: .*mode I.* values from 0"):
        folder(tmp_path)


def test_folders_that_cannot_be_studied(tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words):
            folder(tmp_path)

    refused("holds no class folders")
    (tmp_path / "train").mkdir()
    refused("train holds no class folders")
    (tmp_path / "train" / "a").mkdir()
    refused("train holds no images")
    fill(tmp_path / "train", {"a": 4})
    refused("one class, 'a'")
    fill(tmp_path / "train", {"a": 4, "b": 2})
    refused("2 training images of class 'b': at least 3")
    fill(tmp_path / "train", {"a": 4, "b": 4})
    (tmp_path / "test").mkdir()
    refused("test holds no class folders or labels")
    fill(tmp_path / "test", {"c": 1})
    refused("classes that train lacks: c")


def test_unknown_names_list_what_there_is(tmp_path: Path) -> None:
    for spec in ("mnist", "folder", "folder:", "", "cifar10:x"):
        with pytest.raises(InputError, match="csv:FILE, digits, folder:PATH"):
            prepare(spec, seed=0, root=tmp_path)
    assert {"cifar10", "cifar100", "digits", "folder:PATH"} <= {*spellings()}
    with pytest.raises(InputError, match="cannot be listed"):
        prepare("folder:~nobody-of-this-name/x", seed=0, root=tmp_path)


def test_digits_set_three_tenths_apart() -> None:
    prepared = prepare("digits", seed=3, root=Path("unused"))
    card = prepared.card
    assert (card.train, card.test, card.size, card.channels) == (1258, 539, 8, 1)
    assert "30% of each class set apart as the test, by seed 3" in card.note
    assert (prepared.train.pixels.min(), prepared.train.pixels.max()) == (0, 255)


def test_sealed_part_needs_the_manifest(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 4, "b": 4})
    fill(tmp_path / "test", {"a": 1, "b": 2})
    prepared, sealed = folder(tmp_path), tmp_path / "test.npz"
    prepared.seal(sealed)
    test = unseal(sealed, MANIFEST)
    assert test.labels.tolist() == [0, 1, 1]
    assert test.names == ("test/a/000.png", "test/b/000.png", "test/b/001.png")
    with Image.open(tmp_path / "test" / "b" / "001.png") as image:
        np.testing.assert_array_equal(test.pixels[2], np.asarray(image).transpose(2, 0, 1))
    for manifest in (
        None,
        Manifest(look=1, choices=MANIFEST.choices, in_hand=MANIFEST.in_hand, sha256="0" * 64),
    ):
        with pytest.raises(InputError, match="stays sealed"):
            unseal(sealed, manifest)  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test", "test.npz", "train"]


def test_sealing_forgets_the_test_part(tmp_path: Path) -> None:
    prepared = prepare("digits", seed=0, root=tmp_path)
    prepared.seal(tmp_path / "test.npz")
    left = [value for value in vars(prepared).values() if isinstance(value, Images)]
    assert [len(part) for part in left] == [prepared.card.train]
    assert prepared.train.pixels.base is None  # not a view into a larger array
    with pytest.raises(InputError, match="sealed already"):
        prepared.seal(tmp_path / "again.npz")


def test_seal_that_cannot_be_written_keeps_the_test_part(tmp_path: Path) -> None:
    prepared = prepare("digits", seed=0, root=tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        prepared.seal(tmp_path / "missing" / "test.npz")
    prepared.seal(tmp_path / "test.npz")


def test_damaged_seal_is_noticed(tmp_path: Path) -> None:
    prepared, sealed = prepare("digits", seed=0, root=tmp_path), tmp_path / "test.npz"
    prepared.seal(sealed)
    whole = sealed.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], pickle.dumps([1])):
        sealed.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            unseal(sealed, MANIFEST)
    np.savez(sealed, pixels=np.zeros((1, 1, 8, 8), np.uint8), labels=np.zeros(2, np.int64), sha256="x")
    with pytest.raises(InputError, match="cannot be read"):  # an image without pixels
        unseal(sealed, MANIFEST)
    np.savez(sealed, pixels=np.zeros((1, 1, 8, 8), np.uint8), labels=np.zeros(1, np.int64), sha256="x")
    with pytest.raises(InputError, match="not what was sealed"):
        unseal(sealed, MANIFEST)


@pytest.mark.parametrize("seed", range(20))
def test_split_is_exact_and_stratified(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 60, rng.integers(2, 12))
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    val = int(rng.integers(len(counts), len(labels) - len(counts) + 1))
    train, held_out = split(labels, val=val, seed=seed)
    assert len(held_out) == val
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(len(labels)))
    taken = np.bincount(labels[held_out], minlength=len(counts))
    assert (taken >= 1).all()
    assert (taken < counts).all()
    fair = np.clip(val * counts / len(labels), 1, counts - 1)
    slack = 1 + np.abs(fair - val * counts / len(labels)).sum()  # moved to other classes by the bounds
    assert (np.abs(taken - fair) <= slack).all()


@pytest.mark.parametrize("seed", range(20))
def test_folds_are_disjoint_stratified_and_leave_a_class_to_train_on(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 60, rng.integers(2, 12))
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    count = int(rng.integers(3, 9))
    val = int(rng.integers(1, len(labels) // count + 1))
    found = folds(labels, count=count, val=val, seed=seed)
    assert [len(fold) for fold in found] == [val] * count
    assert len(np.unique(np.concatenate(found))) == count * val
    for fold in found:
        taken = np.bincount(labels[fold], minlength=len(counts))
        assert (np.abs(taken - val * counts / len(labels)) < 2).all()
        assert (taken < counts).all()
        assert (np.diff(fold) > 0).all()
    again = folds(labels, count=count, val=val, seed=seed)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_a_run_trains_on_all_but_its_fold() -> None:
    labels = np.repeat(np.arange(2), 500).astype(np.int64)
    held = []
    for fold in range(PLAN.folds):
        train, val = split_for(PLAN, labels, fold=fold)
        assert (len(train), len(val)) == (PLAN.train_images, PLAN.val_images)
        assert not set(train) & set(val)
        held += val.tolist()
    assert len(set(held)) == len(held)
    with pytest.raises(InputError, match="cannot be divided into 4 folds"):
        split_for(PLAN, labels[498:502], fold=0)


def test_split_goes_by_seed() -> None:
    labels = np.repeat(np.arange(3), 30)
    once, again, other = (split(labels, val=9, seed=s)[1] for s in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert np.bincount(labels[once]).tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("labels", "val"), [([0, 0, 1, 1], 1), ([0, 0, 1, 1], 3), ([0, 0, 0, 1], 2), ([], 0)]
)
def test_an_impossible_split_is_refused(labels: list[int], val: int) -> None:
    with pytest.raises(InputError, match="cannot be split"):
        split(np.array(labels, dtype=np.int64), val=val, seed=0)


def test_cifar_comes_from_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive in CIFAR's format, at the path that the error message gives a user without network."""
    rng = np.random.default_rng(0)
    members: dict[str, bytes] = {"batches.meta": pickle.dumps({"label_names": ["air", "car"]})}
    for name, count in (("data_batch_1", 8), ("test_batch", 4)):
        rows = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        members[name] = pickle.dumps({"data": rows, "labels": [0, 1] * (count // 2)})
    source = datasets.CIFAR10
    archive = tmp_path / source.filename
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{source.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in members.items()}
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(source, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(source, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": sums["batches.meta"]})

    prepared = prepare("cifar10", seed=0, root=tmp_path)
    assert prepared.card.classes == ("air", "car")
    assert (prepared.card.train, prepared.card.test, prepared.card.size) == (8, 4, 32)
    rows = pickle.loads(members["data_batch_1"])["data"]
    np.testing.assert_array_equal(prepared.train.pixels.reshape(8, -1), rows)
    assert prepared.train.pixels.flags.c_contiguous


def test_a_failed_cifar_download_says_where_to_put_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    with pytest.raises(InputError, match=r"Put cifar-100-python\.tar\.gz .* into .*folder:PATH"):
        prepare("cifar100", seed=0, root=tmp_path)


def test_test_images_among_the_training_images_are_counted(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 5, "ant": 4})
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    card = folder(tmp_path).card
    assert card.copies == 9
    assert card.note == (
        "1 file that is no image left out: 1 .txt\nWARNING: 9 of 9 test images are training images too, pixel for pixel"
    )


def test_a_test_part_split_off_has_no_copy_among_the_training_images(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 30, "ant": 30})
    for image in (tmp_path / "train" / "cat").glob("*.png"):
        shutil.copy(image, image.with_name(f"copy-{image.name}"))
    prepared = folder(tmp_path)
    card = prepared.card
    prepared.seal(tmp_path / "test.npz")
    trained, tested = (
        {image.tobytes() for image in part.pixels}
        for part in (prepared.train, unseal(tmp_path / "test.npz", MANIFEST))
    )
    assert not trained & tested
    left_out = 90 - card.train - card.test
    assert (card.test, card.copies) == (27, 0)
    assert 0 < left_out <= 18
    assert f"\n{left_out} training images left out, as copies of test images" in card.note


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 30, "ant": 1})
    for each in range(9):
        shutil.copy(tmp_path / "train" / "ant" / "000.png", tmp_path / "train" / "ant" / f"copy-{each}.png")
    with pytest.raises(InputError, match="too few different images of class 'ant'"):
        folder(tmp_path)


def test_a_message_names_a_few_of_many_classes(tmp_path: Path) -> None:
    for number in range(30):
        for part in ("train", "test") if number < 2 else ("train",):
            folder = tmp_path / part / f"class {number:02d}"
            folder.mkdir(parents=True)
            for each in range(3):
                Image.new("L", (8, 8), 8 * number + each).save(folder / f"{each}.png")
    with pytest.raises(InputError, match="no test images of class 02, class 03, .* class 11 and 18 more, "):
        prepare(f"folder:{tmp_path}", seed=0, root=tmp_path)


def test_a_class_is_named_on_one_line_without_orders_to_a_terminal(tmp_path: Path) -> None:
    for level, name in enumerate(("a\nb", "\x1b[31mred", "\N{NO-BREAK SPACE}\N{GREEK SMALL LETTER PI}")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for each in range(3):
            Image.new("L", (8, 8), 3 * level + each).save(tmp_path / "train" / name / f"{each}.png")
    classes = prepare(f"folder:{tmp_path}", seed=0, root=tmp_path).card.classes
    assert classes == ("\\x1b[31mred", "a\\nb", "\N{NO-BREAK SPACE}\N{GREEK SMALL LETTER PI}")


def test_a_folder_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """The plan and the report contain the name."""
    with pytest.raises(InputError, match=r"x\\xff is no text"):
        prepare("folder:x\udcff", seed=0, root=tmp_path)


def test_the_images_that_other_nets_have_seen_are_found_among_the_test_images(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 3)):
        fill(tmp_path / part, {"a": count, "b": count})
    prepared = folder(tmp_path)
    other = prepared.seen
    assert len(other) == 24  # of each its pixels and its file
    assert prepared.tested_among(other) == 0
    shutil.copytree(tmp_path / "train" / "b", tmp_path / "test" / "b", dirs_exist_ok=True)
    assert folder(tmp_path).tested_among(other) == 6
