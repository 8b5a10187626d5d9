"""Several data sets before the first costs anything: copies of one under another name, and what cannot be read."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.pictures import fill

from study.data import ahead
from study.protocol.errors import InputError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    fill(tmp_path / "images", {"a": 8, "b": 8}, size=(16, 9))
    return tmp_path / "images"


def once(one: Path | str, other: Path | str) -> None:
    with pytest.raises(InputError, match="counts once"):
        ahead.check([str(one), "digits", str(other)], "")


def test_a_copy_counts_once_whatever_it_is_called_and_however_it_is_divided(
    images: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(images, tmp_path / "copy")
    once(images, copy)
    once(images, f"folder:{copy}")
    moved = tmp_path / "moved"
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        place = moved / ("test" if number % 3 == 0 else "train") / path.parent.name / f"{99 - number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    once(images, moved)
    fill(copy, {"c": 15})
    once(images, copy)
    for path in [*copy.glob("a/*"), *copy.glob("b/00[4-7].png")]:
        path.unlink()
    ahead.check([str(images), str(copy)], "")  # a quarter of the smaller


def test_a_table_or_a_shard_of_the_same_images_counts_once(images: Path, tmp_path: Path) -> None:
    files = sorted(images.rglob("*.png"))
    table = pd.DataFrame({"path": files, "label": [file.parent.name for file in files]})
    table.to_csv(tmp_path / "labels.csv", index=False)
    once(images, tmp_path / "labels.csv")
    table.assign(image=[file.read_bytes() for file in files]).drop(columns="path").to_parquet(
        tmp_path / "x.parquet"
    )
    shutil.copy(tmp_path / "x.parquet", tmp_path / "y.parquet")
    once(tmp_path / "x.parquet", tmp_path / "y.parquet")


def test_files_of_equal_size_are_no_copies(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fill(tmp_path / name, {"a": 40, "b": 40})
        for path in (tmp_path / name).rglob("*.png"):
            path.write_bytes(path.read_bytes().ljust(1000, b"\0"))
    ahead.check([str(tmp_path / "one"), str(tmp_path / "two")], "")
