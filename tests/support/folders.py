"""Image folders for tests, and a manifest that unseals their test part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.data.opened import Asked
from study.data.prepare import prepare
from study.data.sealed import Prepared
from study.protocol.errors import InputError
from study.protocol.records import Choice, Manifest

CHOICE = Choice(
    pair=0, config={"lr": 0.1}, default=False, trials=("t1",), val_accuracy=0.5, lead=0.01, lead_se=0.01,
    run_variance=0.0, runs=3, ties="",
)  # fmt: skip


MANIFEST = Manifest.of({"a": (CHOICE,)}, {"a": 0})


def folder(path: Path, seed: int = 0) -> Prepared:
    return prepare(f"folder:{path}", seed=seed, root=path / "unused")


def data(spec: str | Path, tmp_path: Path, **asked: Any) -> Prepared:
    return prepare(str(spec), seed=0, root=tmp_path / "downloads", **asked)


def the_same(found: Prepared, images: Path) -> None:
    expected = prepare(f"folder:{images}", seed=0, root=images)
    assert found.card.classes == expected.card.classes
    assert (found.card.train, found.card.test) == (expected.card.train, expected.card.test)
    assert found.card.fingerprint == expected.card.fingerprint
    np.testing.assert_array_equal(found.train.pixels, expected.train.pixels)
    np.testing.assert_array_equal(found.train.labels, expected.train.labels)
    assert found.test_source == expected.test_source


def refused(spec: str | Path, tmp_path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        data(spec, tmp_path)
    assert "\n" not in str(error.value)


def read_as(path: Path, asked: Asked) -> Prepared:
    return prepare(f"folder:{path}", seed=0, root=path / "unused", asked=asked)
