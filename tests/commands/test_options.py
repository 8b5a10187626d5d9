"""A wrong flag ends with code 2 and one sentence that names a working one."""

import os
import shlex
from pathlib import Path

import pytest

from study.cli import parse
from study.protocol.errors import InputError
from study.protocol.rundir import RunDir
from study.session import open_run, place_of

GOOD = ["--budget", "10cpu-minutes", "--data", "digits"]


def refusal(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(list(flags))
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
        ([*GOOD, "--arms", "resnet50,resnext50,resnet50"], "names resnet50 more than once"),
        (["--resume", "RUN", "--arms", "resnet50,resnet50"], "names resnet50 more than once"),
        ([*GOOD, "--arms", ","], "names no arm"),
        ([*GOOD, "--arms", "../evil,resnet50"], "no arm '../evil'"),
        ([*GOOD, "--epochs", "0"], "from 1"),
        ([*GOOD, "--epochs", "many"], "--epochs"),
        ([*GOOD, "--rope", "0"], "above 0"),
        ([*GOOD, "--rope", "nan"], "above 0"),
        ([*GOOD, "--rope", "21"], "at most 20 accuracy points"),
        ([*GOOD, "--metric", "f1"], "there are accuracy, balanced-accuracy"),
        ([*GOOD, "--metric", "log-loss"], "no usual margin"),
        ([*GOOD, "--metric", "brier"], "no usual margin"),
        ([*GOOD, "--metric", "log-loss", "--rope", "3"], "at most 2 nats"),
        (["--resume", "RUN", "--metric", "brier"], "leave out --metric"),
        ([*GOOD, "--looks", "3"], "twice"),
        ([*GOOD, "--recipe", "adam"], "There are: finetune, modern, sgd"),
        ([*GOOD, "--seed", "-1"], "from 0"),
        ([*GOOD, "--fraction", "0.5"], "whole cores"),
        ([*GOOD, "--fraction", "half"], "--fraction half"),
        (["--budget", "1gpu-hour", "--fraction", "2"], "0.01 to 1"),
        ([*GOOD, "--bugdet", "1"], "--bugdet"),
        ([*GOOD, "--wait-for", "8"], "--address"),
        ([*GOOD, "--wait-for", "0", "--address", "127.0.0.1:6379"], "1 or more"),
        ([*GOOD, "--out", ""], "--out is empty"),
        (["--resume", "RUN", "--epochs", "9"], "leave out --epochs"),
        (["--resume", "RUN", "--recipe", "sgd"], "leave out --recipe"),
        (["--resume", "RUN", "--looks=2"], "leave out --looks"),
        (
            ["--resume", "RUN", "--budget", "1cpu-hours", "--arms", "tiny_resnet,tiny_resnext"],
            "extended once",
        ),
        (["--resume", "RUN", "--budget", "1cpu-days"], "is not understood"),
        (["--resume", "RUN", "--arms", "tiny_resnet,nothing"], "no arm 'nothing'"),
        (["--accept-changed-code", "--budget", "1cpu-hours"], "goes with --resume"),
        ([], "--budget is missing"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_flags_are_refused(capsys: pytest.CaptureFixture[str], flags: list[str], says: str) -> None:
    assert says in refusal(capsys, *flags)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="something else"):
        run.take()
    run.claim.touch()
    with pytest.raises(
        InputError, match=f"before it began.*delete this one if python -m study status {tmp_path}"
    ):
        run.take()
    run.plan.write_text("{}")
    request = parse([*GOOD, "--out", str(tmp_path)])
    with pytest.raises(InputError, match="python -m analysis"), open_run(request, place_of(request), print):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", ".claimed", "plan.json"}


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        RunDir(tmp_path / "file" / "below").take()


def test_one_of_two_studies_gets_a_folder(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "new")
    run.take()
    with pytest.raises(InputError, match="holds a study that is being measured"):
        run.take()
    run.discard_false_start()
    assert not run.path.exists()


def test_studies_that_start_in_one_second_get_two_folders() -> None:
    assert f"-{os.getpid()}-" in place_of(parse(GOOD)).name


def test_a_cpu_budget_takes_the_small_arms() -> None:
    assert parse(GOOD).arms == ("small_resnet", "small_resnext")


def test_the_one_new_arm_alone_is_left_to_the_study_whose_arms_the_refusal_names() -> None:
    assert parse(["--resume", "RUN", "--arms", "small_resnet"]).arms == ("small_resnet",)


def test_the_recorded_command_asks_the_same_question() -> None:
    flags = (
        "--budget 10cpu-minutes --data 'folder:my images' --arms tiny_resnet,tiny_resnext --rope 1.5 --seed 7 --epochs 4 "
        "--fraction 2 --recipe modern --widen lr,width --train-fraction 0.3 --looks 2 --no-pictures"
    )
    for metric in ("", " --metric balanced-accuracy", " --metric log-loss"):
        first = parse(shlex.split(flags + metric))
        assert parse(shlex.split(first.command.removeprefix("python study/run.py "))) == first


def test_a_margin_is_in_the_metrics_unit() -> None:
    assert parse(GOOD).rope == parse([*GOOD, "--metric", "top5"]).rope == 0.005
    assert parse([*GOOD, "--metric", "balanced-accuracy", "--rope", "2"]).rope == 0.02
    assert parse([*GOOD, "--metric", "log-loss", "--rope", "0.02"]).rope == 0.02


def test_parsing_touches_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for flags in (GOOD, [*GOOD, "--plan"], [*GOOD, "--out", "new"], ["--resume", "nowhere"]):
        place_of(parse(flags))
    assert list(tmp_path.iterdir()) == []
