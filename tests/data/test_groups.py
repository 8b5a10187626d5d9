"""Groups stay whole: one side of the sealed test and of every fold, as evenly as they allow."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import MANIFEST, data, refused
from support.pictures import fill
from support.plans import PLAN

from study.data.groups import Numbers, joined, numbered, of_copies, spread
from study.data.sealed import Prepared, unseal
from study.data.split import folds, split, split_for
from study.protocol.errors import InputError


def drawn(seed: int, *, alone: float = 0.3) -> tuple[Numbers, Numbers]:
    """Labels, and groups of one to eight images; a group may hold several classes."""
    rng = np.random.default_rng(seed)
    classes, sizes = int(rng.integers(2, 6)), rng.integers(1, 9, 80)
    sizes[rng.random(80) < alone] = 1
    groups = rng.permutation(np.repeat(np.arange(80), sizes)).astype(np.int64)
    usual = rng.integers(0, classes, 80)
    labels = np.where(rng.random(len(groups)) < 0.8, usual[groups], rng.integers(0, classes, len(groups)))
    return labels.astype(np.int64), groups


@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_whole_and_classes_keep_their_shares(seed: int) -> None:
    labels, groups = drawn(seed)
    shares = (0.2, 0.2, 0.2, 0.4)
    bins = spread(labels, groups, shares, seed)
    assert all(len(np.unique(bins[groups == group])) == 1 for group in groups)
    largest = np.bincount(groups).max()
    for each, share in enumerate(shares):
        assert abs((bins == each).sum() - share * len(labels)) <= largest
        for label in np.unique(labels):
            have, whole = ((labels == label) & (bins == each)).sum(), (labels == label).sum()
            assert abs(have - share * whole) <= largest
    np.testing.assert_array_equal(bins, spread(labels, groups, shares, seed))
    assert not np.array_equal(bins, spread(labels, groups, shares, seed + 1))


@pytest.mark.parametrize("seed", range(10))
def test_images_that_stand_alone_are_dealt_exactly(seed: int) -> None:
    labels, _ = drawn(seed)
    bins = spread(labels, np.arange(len(labels)), (0.25, 0.75), seed)
    assert abs((bins == 0).sum() - 0.25 * len(labels)) < 1.01
    for label in np.unique(labels):
        assert abs(((labels == label) & (bins == 0)).sum() - 0.25 * (labels == label).sum()) < 2


@pytest.mark.parametrize("seed", range(10))
def test_split_and_folds_take_whole_groups(seed: int) -> None:
    labels, groups = drawn(seed)
    train, held = split(labels, val=len(labels) // 4, seed=seed, groups=groups)
    assert not set(groups[train]) & set(groups[held])
    assert {*labels[train]} == {*labels[held]} == {*labels}
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), np.arange(len(labels)))
    parts = folds(labels, count=3, val=len(labels) // 5, seed=seed, groups=groups)
    for i, fold in enumerate(parts):
        assert not set(groups[fold]) & set(np.delete(groups, fold))
        assert {*np.delete(labels, fold)} == {*labels}
        assert not any(set(fold) & set(other) for other in parts[:i])


def test_a_class_of_two_groups_has_one_on_each_side() -> None:
    labels = np.repeat([0, 1], [90, 10])
    groups = np.concatenate([np.arange(90) // 3, 30 + np.arange(10) // 5])
    for seed in range(20):
        train, held = split(labels, val=20, seed=seed, groups=groups)
        assert (labels[train] == 1).sum() == (labels[held] == 1).sum() == 5
    with pytest.raises(InputError, match="31 groups, and one class lies in one of them"):
        split(labels, val=20, seed=0, groups=np.minimum(groups, 30))


def test_too_few_groups_for_the_folds() -> None:
    labels = np.tile([0, 1], 200).astype(np.int64)
    plan = dataclasses.replace(PLAN, data=dataclasses.replace(PLAN.data, train=400, classes=("a", "b")))
    groups = np.arange(400) // 200
    with pytest.raises(InputError, match=f"2 groups, too few or too unequal for {plan.folds} folds"):
        split_for(plan, labels, fold=0, groups=groups)
    train, val = split_for(plan, labels, fold=0, groups=np.arange(400) // 10)
    assert not set(train // 10) & set(val // 10)
    half = dataclasses.replace(plan, train_fraction=0.5)
    assert abs(len(split_for(half, labels, fold=0, groups=np.arange(400) // 10)[0]) - half.train_images) <= 10


def test_groups_by_name_by_copy_and_both() -> None:
    assert numbered(["b", "", "b", "a", ""]).tolist() == [0, 1, 0, 2, 3]
    assert of_copies([5, 6, 7]) is None
    copies = of_copies([5, 6, 5, 8, 9])
    assert copies is not None
    assert copies.tolist() == [0, 1, 0, 2, 3]
    assert joined(numbered(["x", "y", "z", "y", "w"]), copies).tolist() == [0, 1, 0, 1, 2]
    chain = joined(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 2, 3]))
    assert chain.tolist() == [0] * 6


def grouped(tmp_path: Path, *, test: bool) -> Path:
    """A table of 60 images of 20 patients, three of each; in two classes, as few patients have both."""
    fill(tmp_path / "images", {"a": 30, "b": 30})
    lines = ["path,label,patient" + (",split" if test else "")]
    for i in range(30):
        for label in "ab":
            part = f",{'test' if i % 10 > 7 else 'train'}" if test else ""
            lines.append(f"images/{label}/{i:03}.png,{label},{label if i > 2 else ''}{i // 3}{part}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return tmp_path / "table.csv"


def groups_of(prepared: Prepared, to: Path) -> tuple[set[int], set[int]]:
    prepared.seal(to)
    train, test = prepared.train.groups, unseal(to, MANIFEST).groups
    assert train is not None
    assert test is not None
    return set(train), set(test)


def test_a_group_is_on_one_side_of_the_sealed_test(tmp_path: Path) -> None:
    prepared = data(grouped(tmp_path, test=False), tmp_path)
    train, test = groups_of(prepared, tmp_path / "test.npz")
    assert not train & test
    assert len(train) + len(test) == 19
    assert prepared.card.groups == len(test)
    assert abs(prepared.card.test - 18) <= 3
    assert "19 groups of images, each on one side of every split" in prepared.card.note


def test_a_group_in_the_test_that_is_trained_on_too_is_warned_of(tmp_path: Path) -> None:
    prepared = data(grouped(tmp_path, test=True), tmp_path)
    train, test = groups_of(prepared, tmp_path / "test.npz")
    assert train & test
    assert "WARNING: 12 of 12 test images are of groups that are trained on too" in prepared.card.note


def test_classes_of_too_few_groups_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "images", {"a": 9, "b": 9})
    lines = ["path,label,group"]
    lines += [
        f"images/{label}/{i:03}.png,{label},{label}{i % 9 if label == 'a' else i % 2}"
        for i in range(9)
        for label in "ab"
    ]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    refused(tmp_path / "table.csv", tmp_path, "images of class 'b' in 2 groups: at least 3")


def test_copies_in_the_training_pool_form_groups(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 20, "b": 20})
    fill(tmp_path / "test", {"a": 5, "b": 5})
    alone = data(tmp_path, tmp_path)
    assert alone.train.groups is None
    with Image.open(tmp_path / "train" / "a" / "000.png") as image:
        image.save(tmp_path / "train" / "a" / "again.bmp")  # other bytes, the same pixels
    twins = data(tmp_path, tmp_path)
    assert twins.train.groups is not None
    assert np.bincount(twins.train.groups).tolist() == [2] + [1] * 39
    assert "copies of others: 1, pixel" in twins.card.note
    assert twins.card.groups == 0
