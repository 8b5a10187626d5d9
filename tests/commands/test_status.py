"""The status of a run: active, abandoned and finished."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from support.synthetic import Diary, plan, write_run

from analysis.report import build
from study.__main__ import main
from study.commands import status
from study.commands.list import SCOPE, listing
from study.protocol.ledger import Ledger
from study.protocol.records import Config, Trial
from study.protocol.rundir import RunDir


def text(shown: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "first")
    build.write(run)
    return run


def test_a_finished_study_shows_its_verdict_and_every_trial(finished: Path) -> None:
    said = text(status.overview(RunDir(finished)))
    assert "finished" in said
    run = status.look(RunDir(finished))
    assert run.verdict
    assert run.scope.startswith("Holds for new searches of the same share")
    assert " ".join(f"{run.scope} {run.verdict}".split()) in " ".join(said.split())
    for arm in ("resnet8", "resnext8"):
        (row,) = (line for line in said.splitlines() if f" {arm} " in line and "confirm" in line)
        counts = [int(n) for n in re.findall(r"│ +(\d+) ", row)]
        assert sum(counts) == sum(t.arm == arm for t in run.history.trials.values())


def test_an_active_study_runs_and_an_abandoned_one_can_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diary = Diary(tmp_path / "run", plan())
    config: Config = {"learning_rate": 0.03162, "augmentation": "flip"}
    trial = Trial(id="resnet8-search-0000", arm="resnet8", phase="search", index=0, pair=0, config=config,
                  seed=0, fold=0, epochs=9)  # fmt: skip
    diary.ledger.add(trial)
    said = text(status.overview(diary.run))
    assert "running" in said.splitlines()[0]
    assert "resnet8-search-0000: epoch 0 of 9, learning_rate=0.0316 augmentation=flip" in said
    diary.ledger.__exit__(None, None, None)
    said = text(status.overview(diary.run))
    assert "stopped" in said.splitlines()[0]
    assert f"--resume {diary.folder}" in said
    with Ledger(diary.folder / "ledger.jsonl"):
        assert status.look(diary.run).state == "running"
    (diary.folder / ".claimed").write_text("process 1 on another machine")
    assert status.look(diary.run).state == "running"  # another host may share the folder but not its locks
    monkeypatch.setattr(status, "LIVELY_SECONDS", -1.0)  # as after a minute without a record
    assert status.look(diary.run).state == "stopped"


def test_the_list_shows_every_run_and_marks_damaged_ones(finished: Path) -> None:
    other = finished.parent / "other"
    other.mkdir()
    (other / "ledger.jsonl").write_text("nonsense\n")
    said = text(listing(finished.parent))
    rows = {line.split("│")[1].strip(): line for line in said.splitlines() if line.count("│") > 4}
    assert "finished" in rows["first"]
    assert "unreadable" in rows["other"]
    assert " ".join(said.split()).endswith(SCOPE)


@pytest.mark.parametrize("content", ["{", "[]", None])
def test_a_missing_verdict_is_left_out(tmp_path: Path, content: str | None) -> None:
    run = write_run(tmp_path / "run", images=50, runs=2)
    if content is None:
        (run / "verdict.json").mkdir()
    else:
        (run / "verdict.json").write_text(content)
    assert status.look(RunDir(run)).verdict == ""
    assert "finished" in text(listing(tmp_path))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["status", "study"], "holds no study"),
        (["status", "n" * 5000], ""),
        (["list", "nowhere"], ""),
        (["list", "n" * 5000], ""),
    ],
)
def test_a_folder_without_a_study_is_one_sentence(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert why in error


def test_missing_parts_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diary = Diary(tmp_path / "run", plan())
    assert main(["rerun", str(diary.folder), "resnet8-search-0000"]) == 2
    assert "none has begun yet" in capsys.readouterr().err
    diary.trial("resnet8", "search", state="finished", reason="full length", epochs=9)
    assert main(["rerun", str(diary.folder), "nothing"]) == 2
    assert "they are called like arm0-search-0" in capsys.readouterr().err
    (diary.folder / "plan.json").unlink()
    assert "plan.json is gone" in text(status.overview(diary.run))
    diary.ledger.__exit__(None, None, None)
