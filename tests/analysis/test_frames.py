"""A study as tables for pandas: ``analysis.frames.load`` and ``analysis tables``."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.records import unpacked
from support.synthetic import write_run

from analysis import frames
from analysis.__main__ import main
from analysis.results import read
from study.protocol.text import class_columns


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("one_look", tmp_path_factory.mktemp("tables"))


def test_the_tables_are_those_of_the_study(run: Path) -> None:
    tables, evidence = frames.load(run), read(run)
    assert len(tables.trials) == len(evidence.history.trials)
    assert tables.spend["cost"].sum() == pytest.approx(
        sum(evidence.history.spent(a) for a in evidence.plan.arms)
    )
    said = tables.predictions
    assert len(said) == len(evidence.history.scores) * evidence.plan.data.test
    right = (said["label"] == said["prediction"]).groupby(said["run"]).mean()
    for trial, score in evidence.history.scores.items():
        assert right[trial] == pytest.approx(score.test_accuracy)
    soft = said[list(evidence.plan.data.classes)]
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=0.01)
    assert (soft.idxmax(axis=1) == said["prediction"]).mean() > 0.99  # float16 has ties


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_written_tables_are_read_again(
    run: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tables", str(run), "--to", str(tmp_path / "out"), "--format", kind]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.stem for path in written] == ["trials", "epochs", "spend", "predictions"]
    of = pd.read_csv if kind == "csv" else pd.read_parquet
    for path, table in zip(written, vars(frames.load(run)).values(), strict=True):
        again = of(path)
        assert list(again) == list(table)
        assert len(again) == len(table)
    both = of(written[-1])
    sides = []
    for arm, own in both[both["phase"] == "confirm"].groupby("arm"):
        sides.append(tmp_path / f"{arm}.csv")
        own.to_csv(sides[-1], index=False)
    assert main(["compare", *map(str, sides)]) == 0  # a table of predictions is a side


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = write_run(tmp_path / "run", images=20, runs=2)
    (tmp_path / "file").touch()
    for words in (
        [str(tmp_path / "none"), "--to", str(tmp_path)],
        [str(made), "--to", str(tmp_path / "file")],
    ):
        assert main(["tables", *words]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1
        assert shown.out == ""


def test_a_class_called_as_a_column_has_a_column_of_its_own() -> None:
    assert class_columns(["cat", "label", "Run"]) == ["cat", "class label", "class Run"]
