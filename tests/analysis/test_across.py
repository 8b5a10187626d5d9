"""Several studies on one page: what is joined, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.synthetic import write_run

from analysis.__main__ import main
from analysis.across import join
from study.protocol.errors import InputError
from study.protocol.plan import Plan


def study(
    folder: Path,
    number: int,
    *,
    share: float = 5400.0,
    tuned: tuple[float, float] = (0.92, 0.94),
    **changes: object,
) -> Path:
    """A finished study of its own data set."""
    run = write_run(folder / f"run{number}", tuned=tuned, seed=number, luck_sd=0.004, share=share)
    plan = Plan.load(run / "plan.json")
    card = replace(plan.data, spec=f"folder:set{number}", fingerprint=f"{number:064d}")
    (run / "plan.json").unlink()
    replace(plan, data=card, test_source=f"{number:064d}", **changes).save(run / "plan.json")  # type: ignore[arg-type]
    return run


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sets")
    return [study(folder, number) for number in range(5)]


def test_five_data_sets_give_a_mean_and_the_next_one(five: list[Path], tmp_path: Path) -> None:
    joined = join(five)
    (pair,) = joined.pairs
    assert (pair.first, pair.second) == ("resnet8", "resnext8")
    assert pair.pooled is not None
    differences = [row.delta for row in pair.rows]
    assert all(d is not None and d < 0 for d in differences)  # first minus second, in the plan's order
    assert pair.pooled.mean.high < 0
    assert pair.sentence.startswith("resnext8 is better than resnet8 on the average data set")
    assert all(row.holm_p is not None and row.p is not None and row.holm_p >= row.p for row in pair.rows)
    assert main(["across", *map(str, five), "--to", str(tmp_path / "page")]) == 0
    facts = json.loads((tmp_path / "page" / "across.json").read_text())
    assert facts["pairs"][0]["pooled"]["mean"]["delta"] == pytest.approx(pair.pooled.mean.delta)
    page = (tmp_path / "page" / "across.html").read_text()
    assert page.count("<svg") == 1
    assert all(f"set{number}" in page for number in range(5))


def test_fewer_than_five_give_the_table_only(
    five: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["across", *map(str, five[:3])]) == 0
    assert [path.parent.parent for path in tmp_path.rglob("across.html")] == [tmp_path / "runs"]
    (pair,) = join(five[:3]).pairs
    assert pair.pooled is None
    assert len(pair.rows) == 3
    assert "too few" in pair.sentence


def test_what_does_not_ask_the_same_question_is_refused(five: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two or more"):
        join(five[:1])
    with pytest.raises(InputError, match="same images"):
        join([five[0], study(tmp_path, 0)])
    other = write_run(tmp_path / "others", arms=("a", "b"))
    with pytest.raises(InputError, match="same arms"):
        join([five[0], other])
    axis = {"lr": {"kind": "float", "low": 0.1, "high": 1.0, "log": True, "default": 0.5}}
    with pytest.raises(InputError, match="other ranges of lr"):
        join([five[0], study(tmp_path, 7, spaces={arm: axis for arm in ("resnet8", "resnext8")})])
    with pytest.raises(InputError, match="same --recipe"):
        join([five[0], study(tmp_path, 6, recipe="modern")])
    unfinished = write_run(tmp_path / "unfinished", confirmed=False)
    with pytest.raises(InputError, match="no answer yet"):
        join([five[0], unfinished])
    with pytest.raises(InputError, match="no answer yet"):
        join([five[0], unfinished], partial=True)
    some = join([*five[:2], unfinished], partial=True)
    assert [row.run for row in some.pairs[0].rows] == [run.name for run in five[:2]]
    assert "no answer yet" in some.notes[-1]


def test_a_study_without_a_claim_stands_in_the_table_and_not_in_the_mean(
    five: list[Path], tmp_path: Path
) -> None:
    """With this share there is one search per arm, and no pair to compare."""
    (pair,) = join([*five, study(tmp_path, 9, share=1500.0)]).pairs
    assert [row.counts for row in pair.rows] == [True] * 5 + [False]
    assert pair.pooled is not None
    assert len(pair.pooled.weights) == 5


def test_arms_that_learnt_nothing_do_not_enter_the_mean(five: list[Path], tmp_path: Path) -> None:
    """Their difference is small and its interval narrow, whatever the architectures are."""
    joined = join([*five, study(tmp_path, 9, tuned=(0.1, 0.1))])
    (pair,) = joined.pairs
    assert [row.counts for row in pair.rows] == [True] * 5 + [False]
    assert pair.pooled is not None
    assert pair.pooled.mean == join(five).pairs[0].pooled.mean  # type: ignore[union-attr]
    assert any(note.startswith("run9: ") for note in joined.notes)


def test_one_set_in_two_splits_is_one_set(five: list[Path], tmp_path: Path) -> None:
    again = study(tmp_path, 8)
    for run, images in ((five[0], range(100)), (again, range(30, 130))):
        np.save(run / "images.npy", np.array(images, dtype=np.uint64))
    with pytest.raises(InputError, match="70 % of their images"):
        join([five[0], again])
    (again / "images.npy").write_bytes((again / "images.npy").read_bytes().replace(b"}", b" "))
    assert join([five[0], again]).arms == ("resnet8", "resnext8")  # an unreadable list says nothing
    np.save(again / "images.npy", np.array(["2026-11-28"], dtype="M8[s]"))
    assert join([five[0], again]).arms == ("resnet8", "resnext8")
    np.save(again / "images.npy", np.arange(60, 160, dtype=np.uint64))
    assert join([five[0], again]).arms == ("resnet8", "resnext8")
