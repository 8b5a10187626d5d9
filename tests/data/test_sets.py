"""torchvision's sets, from copies made here in their own formats on disk, read by its own code."""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from support.folders import data, refused, the_same
from support.pictures import fill
from torchvision import datasets

from study.data.sealed import Prepared


def arrays(count: int, shape: tuple[int, ...], seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % 3


def idx(values: Any) -> bytes:
    return bytes(
        struct.pack(">HBB", 0, 8, values.ndim)
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_sets_in_the_format_of_mnist(tmp_path: Path, name: str) -> None:
    raw = tmp_path / "downloads" / name / "raw"
    raw.mkdir(parents=True)
    made = {}
    for part, count in (("train", 30), ("t10k", 12)):
        made[part] = arrays(count, (28, 28), count)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(made[part][0]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(made[part][1].astype(np.uint8)))
    kind = getattr(datasets, name)
    found = found_set(name.lower(), tmp_path, kind.classes[:10])
    np.testing.assert_array_equal(found.train.pixels[:, 0], made["train"][0])
    np.testing.assert_array_equal(found.train.labels, made["train"][1])
    assert (found.card.test, found.card.channels, found.card.size) == (12, 1, 28)


def found_set(name: str, tmp_path: Path, classes: Sequence[str]) -> Prepared:
    """``MNIST`` has ten classes, and only three of them have images here."""
    with pytest.MonkeyPatch.context() as patch:
        for each in (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST):
            patch.setattr(each, "classes", list(classes[:3]))
        return data(f"torchvision:{name}", tmp_path)


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "downloads").mkdir()
    made, listed = {}, dict(datasets.SVHN.split_list)
    for part, count in (("train", 30), ("test", 12)):
        pixels, labels = arrays(count, (3, 32, 32), count)
        made[part] = pixels, labels
        file = tmp_path / "downloads" / f"{part}_32x32.mat"
        savemat(file, {"X": pixels.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        listed[part] = [*listed[part][:2], hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    found = data("torchvision:SVHN", tmp_path)
    np.testing.assert_array_equal(found.train.pixels, made["train"][0])
    np.testing.assert_array_equal(found.train.labels, made["train"][1])
    assert found.card.classes == ("0", "1", "2")


def test_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = datasets.STL10
    base = tmp_path / "downloads" / kind.base_folder
    base.mkdir(parents=True)
    made = {}
    for part, count in (("train", 30), ("test", 12)):
        pixels, labels = arrays(count, (3, 96, 96), count)
        made[part] = pixels, labels
        (base / f"{part}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
        (base / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
    (base / "unlabeled_X.bin").write_bytes(b"")
    (base / "class_names.txt").write_text("airplane\nbird\ncar\n")
    for which in ("train_list", "test_list"):
        summed = [[n, hashlib.md5((base / n).read_bytes()).hexdigest()] for n, _ in getattr(kind, which)]
        monkeypatch.setattr(kind, which, summed)
    found = data("torchvision:stl10", tmp_path)
    np.testing.assert_array_equal(found.train.pixels, made["train"][0])
    assert found.card.classes == ("airplane", "bird", "car")
    assert (found.card.train, found.card.test, found.card.size) == (30, 12, 96)


def put(path: Path, source: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, path)


def numbered(images: Path, part: str) -> list[tuple[Path, str]]:
    """A part's images in order, and their classes."""
    return [(p, p.parent.name) for p in sorted((images / part).glob("*/*"))]


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    """Three parts of images with .jpg as their suffix, whatever they hold."""
    root = tmp_path / "jpegs"
    for part, count in (("train", 6), ("val", 3), ("test", 4)):
        fill(root / part, {"a": count, "b": count})
        for file in (root / part).rglob("*.png"):
            with Image.open(file) as image:
                image.save(file.with_suffix(".jpg"), quality=95)
            file.unlink()
    return root


def test_flowers102(jpegs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = datasets.Flowers102
    base = tmp_path / "downloads" / "flowers-102"
    base.mkdir(parents=True)
    number, labels = 0, list[int]()
    sets: dict[str, list[int]] = {}
    for part, name in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        sets[name] = []
        for file, label in numbered(jpegs, part):
            number += 1
            put(base / "jpg" / f"image_{number:05d}.jpg", file)
            labels.append("ab".index(label) + 1)
            sets[name].append(number)
    savemat(base / "imagelabels.mat", {"labels": [labels]})
    savemat(base / "setid.mat", {name: [own] for name, own in sets.items()})
    sums = {
        key: (name, hashlib.md5((base / name).read_bytes()).hexdigest())
        for key, (name, _) in kind._file_dict.items()
        if key != "image"
    }
    monkeypatch.setattr(kind, "_file_dict", {**sums, "image": kind._file_dict["image"]})
    monkeypatch.setattr(kind, "download", lambda _: None)  # its archive would be unpacked again
    monkeypatch.setattr(kind, "classes", ["a", "b"], raising=False)
    the_same(data("torchvision:Flowers102", tmp_path), jpegs)


def test_oxford_pets(jpegs: Path, tmp_path: Path) -> None:
    base = tmp_path / "downloads" / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for split, parts in (("trainval", ("train", "val")), ("test", ("test",))):
        lines = []
        for part in parts:
            for file, label in numbered(jpegs, part):
                name = f"{label}_{part}{file.stem}"
                put(base / "images" / f"{name}.jpg", file)
                lines.append(f"{name} {'ab'.index(label) + 1} 1 1")
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines))
    found, folder = data("torchvision:OxfordIIITPet", tmp_path), data(jpegs, tmp_path)
    assert found.card.classes == ("A", "B")
    assert sorted(map(bytes, found.train.pixels)) == sorted(map(bytes, folder.train.pixels))
    assert found.test_source == folder.test_source


def dtd(images: Path, base: Path, parts: Sequence[str]) -> None:
    (base / "dtd/dtd/labels").mkdir(parents=True)
    for part in parts:
        lines = []
        for file, label in numbered(images, part):
            put(base / "dtd/dtd/images" / label / f"{part}{file.name}", file)
            lines.append(f"{label}/{part}{file.name}")
        (base / "dtd/dtd/labels" / f"{part}1.txt").write_text("\n".join(lines))


def food101(images: Path, base: Path, parts: Sequence[str]) -> None:
    (base / "food-101/meta").mkdir(parents=True)
    for part in parts:
        chosen: dict[str, list[str]] = {}
        for file, label in numbered(images, part):
            put(base / "food-101/images" / label / f"{part}{file.name}", file)
            chosen.setdefault(label, []).append(f"{label}/{part}{file.stem}")
        (base / "food-101/meta" / f"{part}.json").write_text(json.dumps(chosen))


def eurosat(images: Path, base: Path, parts: Sequence[str]) -> None:
    for file, label in numbered(images, parts[0]):
        put(base / "eurosat/2750" / label / file.name, file)


def gtsrb(images: Path, base: Path, parts: Sequence[str]) -> None:
    train, test = parts
    lines = ["Filename;Width;ClassId"]
    for file, label in numbered(images, train):
        put(base / f"gtsrb/GTSRB/Training/{'ab'.index(label):05d}" / f"{file.stem}.ppm", file)
    for file, label in numbered(images, test):
        put(base / "gtsrb/GTSRB/Final_Test/Images" / f"{label}{file.stem}.ppm", file)
        lines.append(f"{label}{file.stem}.ppm;9;{'ab'.index(label)}")
    (base / "gtsrb/GT-final_test.csv").write_text("\n".join(lines))


def imagenette(images: Path, base: Path, parts: Sequence[str]) -> None:
    for part in parts:
        for file, label in numbered(images, part):
            put(
                base
                / "imagenette2"
                / part
                / {"a": "n01440764", "b": "n02102040"}[label]
                / f"{file.stem}.jpeg",
                file,
            )


@pytest.mark.parametrize(
    ("name", "write", "parts"),
    [
        ("DTD", dtd, ("train", "val", "test")),
        ("Food101", food101, ("train", "test")),
        ("EuroSAT", eurosat, ("train",)),
        ("GTSRB", gtsrb, ("train", "test")),
        ("Imagenette", imagenette, ("train", "val")),
    ],
)
def test_sets_of_files(
    jpegs: Path,
    tmp_path: Path,
    name: str,
    write: Callable[[Path, Path, Sequence[str]], None],
    parts: Sequence[str],
) -> None:
    write(jpegs, tmp_path / "downloads", parts)
    for part in {"train", "val", "test"} - {*parts}:
        (jpegs / part).rename(tmp_path / part)
    found, folder = data(f"torchvision:{name}", tmp_path), data(jpegs, tmp_path)
    assert sorted(map(bytes, found.train.pixels)) == sorted(map(bytes, folder.train.pixels))
    assert (found.card.train, found.card.test) == (folder.card.train, folder.card.test)
    assert found.test_source == folder.test_source


def test_an_unknown_or_unreachable_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("torchvision:ImageNet22k", tmp_path, "not known. There are: CIFAR10, CIFAR100, .*SVHN")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    refused(
        "torchvision:FashionMNIST",
        tmp_path,
        "could not be fetched: .*Copy what another machine has fetched into",
    )
