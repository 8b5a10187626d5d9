"""Every wrong flag ends with code 2 and one sentence that says what would work."""

import shlex
from pathlib import Path

import pytest

from study.cli import Options

GOOD = ["--budget", "10cpu-minutes", "--data", "digits"]


def refusal(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as caught:
        Options.parse(list(flags))
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "Traceback" not in printed
    return printed


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--data", "digits"], "--budget"),
        (["--budget", "8"], "gpu-hours"),
        (["--budget=-3gpu-hours"], "positive"),
        (["--budget", "-5cpu-minutes"], "positive"),
        (["--budget", "0cpu-minutes"], "at least a minute"),
        (["--budget", "0.1cpu-minutes"], "at least a minute"),
        (["--budget", "1e30gpu-hours"], "at most"),
        ([*GOOD, "--arms", "resnet51,resnet50"], "search_spaces/resnet51.py"),
        ([*GOOD, "--arms", "resnet50"], "two or more"),
        ([*GOOD, "--arms", "resnet50,resnet50"], "different"),
        ([*GOOD, "--arms", ","], "two or more"),
        ([*GOOD, "--arms", "../evil,resnet50"], "no arm '../evil'"),
        ([*GOOD, "--epochs", "0"], "from 1"),
        ([*GOOD, "--epochs", "many"], "--epochs"),
        ([*GOOD, "--rope", "0"], "above 0"),
        ([*GOOD, "--rope", "nan"], "above 0"),
        ([*GOOD, "--seed", "-1"], "from 0"),
        ([*GOOD, "--fraction", "0.5"], "whole cores"),
        (["--budget", "1gpu-hour", "--fraction", "2"], "0.01 to 1"),
        ([*GOOD, "--bugdet", "1"], "--bugdet"),
        ([*GOOD, "--wait-for", "8"], "--address"),
        ([*GOOD, "--wait-for", "0", "--address", "127.0.0.1:6379"], "1 or more"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_flags_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: list[str], says: str
) -> None:
    assert says in refusal(capsys, *flags, "--out", str(tmp_path / "new"))


def test_an_out_folder_that_is_taken_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert "something else" in refusal(capsys, *GOOD, "--out", str(tmp_path))
    (tmp_path / ".claimed").touch()
    told = refusal(capsys, *GOOD, "--out", str(tmp_path))
    assert "killed before it began" in told
    assert f"delete this one if python -m study status {tmp_path} says" in told
    (tmp_path / "plan.json").write_text("{}")
    assert "python -m analysis" in refusal(capsys, *GOOD, "--out", str(tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_an_out_folder_that_cannot_be_written_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(capsys, *GOOD, "--out", str(tmp_path / "file" / "below"))
    assert "--out is empty" in refusal(capsys, *GOOD, "--out", "")


def test_a_cpu_budget_takes_the_small_arms_and_says_so(tmp_path: Path) -> None:
    options = Options.parse([*GOOD, "--out", str(tmp_path / "new")])
    assert options.arms == ("small_resnet", "small_resnext")
    assert "small_resnet with small_resnext" in options.notes[0]


def test_the_command_it_remembers_asks_the_same_question(tmp_path: Path) -> None:
    flags = [
        "--budget",
        "10cpu-minutes",
        "--data",
        "folder:my images",
        "--arms",
        "tiny_resnet,tiny_resnext",
        "--rope",
        "1.5",
        "--seed",
        "7",
        "--epochs",
        "4",
        "--fraction",
        "2",
    ]
    first = Options.parse([*flags, "--out", str(tmp_path / "a")])
    words = shlex.split(first.command.removeprefix("python study/run.py "))
    again = Options.parse([*words, "--out", str(tmp_path / "b")])
    for field in ("budget", "arms", "data", "epochs", "rope", "seed", "fraction", "command"):
        assert getattr(first, field) == getattr(again, field)


def test_planning_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Options.parse([*GOOD, "--plan"]).plan_only
    assert list(tmp_path.iterdir()) == []
