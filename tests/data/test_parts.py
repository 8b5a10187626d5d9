"""Layouts of folders, and which of their images become the sealed test."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.folders import MANIFEST, folder
from support.pictures import fill

from study.data.prepare import prepare
from study.data.sealed import Prepared, unseal
from study.protocol.errors import InputError

POOL, FEW = {"ant": 20, "cat": 20}, {"ant": 5, "cat": 5}


def sealed(prepared: Prepared, to: Path) -> set[bytes]:
    prepared.seal(to)
    return {image.tobytes() for image in unseal(to, MANIFEST).pixels}


def images(prepared: Prepared) -> set[bytes]:
    return {image.tobytes() for image in prepared.train.pixels}


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "VAL"])
def test_without_a_test_a_validation_part_is_the_test(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "Train", POOL)
    fill(tmp_path / name, FEW)
    card = folder(tmp_path).card
    assert (card.train, card.test) == (40, 10)
    assert f"{name} is the test part" in card.note


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_with_a_test_a_validation_part_joins_the_pool(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "train", POOL)
    fill(tmp_path / name, FEW)
    fill(tmp_path / "TEST", {"ant": 3, "cat": 4})
    prepared = folder(tmp_path)
    assert (prepared.card.train, prepared.card.test) == (50, 7)
    assert np.bincount(prepared.train.labels).tolist() == [25, 25]
    assert f"{name} (10 images) joined to the training images" in prepared.card.note


def test_the_test_can_be_chosen(tmp_path: Path) -> None:
    fill(tmp_path / "train", POOL)
    fill(tmp_path / "valid", FEW)
    fill(tmp_path / "test", {"ant": 3, "cat": 4})

    def of(test: str) -> Prepared:
        return prepare(str(tmp_path), seed=0, root=tmp_path, test=test)

    usual, share = of(""), of("20%")
    assert sealed(of("test"), tmp_path / "1.npz") == sealed(usual, tmp_path / "2.npz")
    for word in ("valid", "val", "VALID"):
        chosen = of(word)
        assert (chosen.card.train, chosen.card.test) == (40, 10)
        assert "test (7 images) left unused" in chosen.card.note
    assert (share.card.train, share.card.test) == (46, 11)  # of all 57
    assert np.bincount(share.train.labels).tolist() == [23, 23]
    for word, says in (
        ("dev2", "has train, valid and test|has test, train and valid"),
        ("train", "leaves nothing to train on"),
        ("95%", "from 1% to 90%"),
        ("20", "neither a part's name"),
    ):
        with pytest.raises(InputError, match=says):
            of(word)


@pytest.mark.parametrize("classes", [("cat", "dog"), ("bus", "train"), ("Test", "x")])
def test_class_folders_alone_are_the_pool(tmp_path: Path, classes: tuple[str, str]) -> None:
    """Keras' layout; a class may be called train."""
    fill(tmp_path / "images", dict.fromkeys(classes, 50))
    (tmp_path / "images" / "labels").mkdir()
    (tmp_path / "images" / "README.txt").write_text("x")
    prepared = prepare(str(tmp_path / "images"), seed=0, root=tmp_path)
    assert prepared.card.classes == classes
    assert (prepared.card.train, prepared.card.test) == (70, 30)
    assert np.bincount(prepared.train.labels).tolist() == [35, 35]
    assert "30% of each class set apart" in prepared.card.note


def test_folders_inside_a_class_are_read(tmp_path: Path) -> None:
    fill(tmp_path / "train", POOL)
    whole = folder(tmp_path)
    for i, file in enumerate(sorted((tmp_path / "train" / "cat").iterdir())):
        to = tmp_path / "train" / "cat" / "deep" / f"{i % 3}"
        to.mkdir(parents=True, exist_ok=True)
        file.rename(to / file.name)
    for link, up in {"up": "cat", "further_up": ".", "ant": "ant/.."}.items():
        (tmp_path / "train" / "cat" / "deep" / link).symlink_to(tmp_path / "train" / up)  # without end
    nested = folder(tmp_path)
    assert nested.card.classes == whole.card.classes
    assert (nested.card.train, nested.card.test) == (28, 12)
    joined = images(nested) | sealed(nested, tmp_path / "a.npz")
    assert joined == images(whole) | sealed(whole, tmp_path / "b.npz")


@pytest.mark.parametrize("part", ["", "train"])
def test_a_class_without_a_readable_image_is_lost_and_not_left_out(tmp_path: Path, part: str) -> None:
    fill(tmp_path / part, {"ant": 20, "cat": 20})
    for suffix in (".heic", ".jpg"):
        (tmp_path / part / suffix[1:]).mkdir()
        for i in range(5):
            (tmp_path / part / suffix[1:] / f"{i}{suffix}").touch()
    with pytest.raises(InputError, match="5 of 5 files of class 'heic' and more than 1% of 1 other class"):
        folder(tmp_path)


def test_the_accents_of_a_class_may_be_composed_or_not(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"K\u00e4fer": 20, "cat": 20})
    fill(tmp_path / "test", {"Ka\u0308fer": 5, "cat": 5})
    assert folder(tmp_path).card.test_counts == (5, 5)


def test_an_empty_folder_beside_flat_classes_is_told(tmp_path: Path) -> None:
    fill(tmp_path, {"ant": 20, "cat": 20})
    (tmp_path / "dog").mkdir()
    assert "dog/ left out, beside the classes" in folder(tmp_path).card.note


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "train", POOL)
    fill(tmp_path / "train", {".secret": 4})
    fill(tmp_path / "train" / "cat", {".thumbs": 2})
    fill(tmp_path, {"extra": 3})
    shutil.copy(tmp_path / "extra" / "000.png", tmp_path / "train" / "loose.png")
    card = folder(tmp_path).card
    assert card.train + card.test == 40
    for part in ("train/.secret", "train/cat/.thumbs", "extra/ left out", "1 image left out, outside"):
        assert part in card.note


def test_layouts_that_say_too_little(tmp_path: Path) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(InputError, match=words) as error:
            prepare(str(path), seed=0, root=tmp_path)
        assert "\n" not in str(error.value)

    fill(tmp_path / "a" / "b", POOL)
    refused(tmp_path / "a", "lie in one folder of it: give .*/a/b")
    fill(tmp_path / "c" / "test", FEW)
    fill(tmp_path / "c", POOL)
    refused(tmp_path / "c", r"has test but no train beside it: put ant, cat into train/")
    fill(tmp_path / "d" / "train", POOL)
    fill(tmp_path / "d" / "test", {"ant": 9})
    refused(tmp_path / "d", "no test images of cat, and what cannot be tested")
    fill(tmp_path / "e" / "test", POOL)
    (tmp_path / "e" / "train").mkdir()
    refused(tmp_path / "e", "train holds no class folders")
    (tmp_path / "f" / "x" / "y").mkdir(parents=True)
    refused(tmp_path / "f", "holds no class folders with images")
