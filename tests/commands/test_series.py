"""Several data sets in one command: which studies start, which resume after a stop, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.pictures import fill

from analysis.__main__ import main as report
from study import cli
from study.__main__ import main as words
from study.commands import series
from study.protocol.errors import InputError
from study.protocol.rundir import SERIES, RunDir

STUDY = """\
import shutil, sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = {path!r}
from support.synthetic import write_run
from analysis.report.build import write
from study.protocol.plan import Plan

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with Path("asked").open("a") as file:
    print(*sys.argv[1:], file=file)
if "--resume" in given:
    run, number = Path(given["--resume"]), 3
    shutil.rmtree(run)
else:
    run, number = Path(given["--out"]), int(given["--data"][-1])
stopped = number == 3 and "--resume" not in given
write_run(run, tuned=(0.92, 0.94), seed=number, confirmed=not stopped)
plan = Plan.load(run / "plan.json")
(run / "plan.json").unlink()
card = replace(plan.data, spec=f"set{{number}}", fingerprint=f"{{number:064d}}")
replace(plan, data=card, test_source=f"{{number:064d}}").save(run / "plan.json")
write(run)  # a report of an unfinished study is no sign of its end
if stopped:
    sys.exit(143)
"""
"""A finished study in the place of a real one; the third is stopped the first time."""


def asked_by(words: str) -> series.Series | None:
    return series.of(*series._parser().parse_known_args(words.split()))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    root = Path(__file__).parents[2]
    (tmp_path / "study.py").write_text(STUDY.format(path=[str(root), str(root / "tests")]))
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        fill(Path(f"set{number}"), {"a": 4, "b": 4})
    Path("bare").mkdir()
    return sys.executable, str(tmp_path / "study.py")


def test_a_series_goes_on_where_it_stopped_and_ends_with_one_page(
    study: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = asked_by("--data set1,set2,set3 --budget 30cpu-minutes --arms tiny_resnet,tiny_resnext --log a,b")
    assert asked is not None
    assert [m.budget for m in asked.members] == ["10cpu-minutes"] * 3
    folder = series.place_of("many")
    said: list[str] = []
    assert series.run(asked, folder, said.append, study=study) == 143
    assert any("--resume many" in line for line in said)
    assert not (folder / "across.html").exists()
    assert words(["status", "many"]) == words(["list", "."]) == 0
    shown = capsys.readouterr().out
    assert "many/1-set1" in shown
    assert "--resume many" in shown
    assert report(["many"]) == 2
    home = RunDir(folder / "1-set1")
    assert series._is_done(home)
    home.verdict.rename("verdict")
    assert not series._is_done(home)  # is resumed for its report
    Path("verdict").rename(home.verdict)
    again = cli.parse(["--resume", "many", "--address", "host:1", "--wait-for", "2", "--accept-changed-code"])
    assert series.run(series.read(folder), folder, said.append, again=again, study=study) == 0
    lines = Path("asked").read_text().splitlines()
    assert len(lines) == 4  # two finished, the third begun and resumed
    running = "--address host:1 --wait-for 2 --log a,b"
    assert lines[3] == f"--resume many/3-set3 {running} --accept-changed-code"
    facts = json.loads((folder / "across.json").read_text())
    assert [row["data"] for row in facts["pairs"][0]["rows"]] == ["set1", "set2", "set3"]
    assert facts["pairs"][0]["pooled"] is None  # three are too few


def test_a_budget_for_each_data_set_and_flags_for_all() -> None:
    found = asked_by("--seed=3 --data=digits,folder:x --budget 4cpu-minutes,6cpu-minutes --rope 1")
    assert found is not None
    assert [(m.data, m.budget) for m in found.members] == [
        ("digits", "4cpu-minutes"),
        ("folder:x", "6cpu-minutes"),
    ]
    assert found.flags == ("--seed=3", "--rope", "1")


def test_one_data_set_is_no_series(tmp_path: Path) -> None:
    comma = tmp_path / "a,b"
    comma.mkdir()
    (tmp_path / "t,x.csv").touch()
    for data in ("digits", "digits,", f"folder:{comma}", str(comma), f"csv:{tmp_path / 't,x.csv'}"):
        assert asked_by(f"--data {data} --budget 4cpu-minutes") is None
    assert asked_by("--budget 4cpu-minutes") is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--data digits,digits --budget 4cpu-minutes", "counts once"),
        ("--data set1,folder:./set1/ --budget 4cpu-minutes", "counts once"),
        ("--data digits,nope --budget 4cpu-minutes", "no data set 'nope'"),
        ("--data digits,csv:nope.csv --budget 4cpu-minutes", "nope.csv"),
        ("--data digits,parquet:nope --budget 4cpu-minutes", "nope"),
        ("--data digits,torchvision:MNISTS --budget 4cpu-minutes", "MNISTS is not known"),
        ("--data digits,cifar10,torchvision:CIFAR10 --budget 9cpu-minutes", "counts once"),
        ("--data digits,hf:gone/x/y --budget 4cpu-minutes", "no name of the hub"),
        ("--data digits,hf:~nobody-here/x --budget 4cpu-minutes", "no name of the hub"),
        ("--data digits,s3://bucket --budget 4cpu-minutes", "no folder of its own"),
        ("--data set1,set2 --budget 6cpu-minutes --test val", "val"),
        ("--data set1,set2,folder:bare --budget 9cpu-minutes", "holds no class folders"),
        ("--data digits,cifar10 --budget 4cpu-minutes,4cpu-minutes,4cpu-minutes", "one for each"),
        ("--data digits,cifar10 --budget 1cpu-minutes", "out of range"),
        ("--data digits,cifar10 --budget 4cpu-minutes,4gpu-minutes", "same kind of machine"),
        ("--data digits,cifar10", "one for each"),
        (
            "--data set1,set2 --budget 4cpu-minutes --arms tiny_resnet,tiny_resnext --out study.py/x",
            "--out DIRECTORY",
        ),
    ],
)
@pytest.mark.usefixtures("study")
def test_what_cannot_be_divided_or_written_is_refused(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert series.main(words.split()) == 2
    assert says in capsys.readouterr().err


def test_a_series_at_a_uri_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one study per data set"):
        series.place_of("s3://bucket/x")
    with pytest.raises(InputError, match="exists"):
        series.place_of(str(tmp_path))
    member = '{"data": "digits", "budget": "9cpu-minutes", "folder": "%s"}'
    for body in (
        '"members": 3',
        '"members": [1], "flags": []',
        f'"members": [{member % "../x"}], "flags": []',
        f'"members": [{member % "x"}], "flags": ["--help"]',
    ):
        (tmp_path / SERIES).write_text(f'{{"format": 1, {body}}}')
        with pytest.raises(InputError, match="is no series"):
            series.read(tmp_path)
    (tmp_path / SERIES).write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deeply"):
        series.read(tmp_path)
    assert series.main(["--resume", str(tmp_path)]) == 2


@pytest.mark.parametrize("words", ["--frobnicate", "--seed 7", "--data other", "--out elsewhere", "--plan"])
def test_what_a_resumed_series_cannot_take_is_refused(words: str, tmp_path: Path) -> None:
    member = {"data": "digits", "budget": "9cpu-minutes", "folder": "1-digits"}
    (tmp_path / SERIES).write_text(json.dumps({"format": 1, "members": [member], "flags": []}))
    with pytest.raises(SystemExit) as refused:
        series.main(["--resume", str(tmp_path), *words.split()])
    assert refused.value.code == 2


def test_the_budget_of_what_has_not_begun_can_be_changed(
    study: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_by("--data set1,set3,set2 --budget 10cpu-minutes")
    assert asked is not None
    assert [m.budget for m in asked.members] == ["3.33cpu-minutes"] * 3
    assert series.run(asked, Path("many"), lambda _: None, study=study) == 143
    monkeypatch.setattr(series, "_process", lambda _: 143)
    assert series.main(["--resume", "many", "--budget", "5cpu-minutes"]) == 143
    assert [m.budget for m in series.read(Path("many")).members] == ["3.33cpu-minutes"] * 2 + ["5cpu-minutes"]
    assert series.main(["--resume", "many", "--budget", "5gpu-minutes"]) == 2
    assert series.main(["--resume", "many", "--budget", "5cpu-minutes,6cpu-minutes"]) == 2


SLEEPER = """\
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
os.kill(os.getppid(), signal.SIGINT)
time.sleep(30)
sys.exit(7)
"""


def test_a_signal_to_the_series_alone_stops_its_study() -> None:
    assert series._process([sys.executable, "-c", SLEEPER]) == 130


def test_ctrl_z_stops_the_study_too_and_both_go_on() -> None:
    code = "import sys; from study.commands import series; sys.exit(series._process(sys.argv[1:]))"
    study = "print(flush=True); import time; time.sleep(60)"
    command = [sys.executable, "-c", code, sys.executable, "-c", study]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as whole:
        assert whole.stdout is not None
        whole.stdout.readline()  # the study has begun
        (child,) = psutil.Process(whole.pid).children()
        whole.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(whole.pid, os.WUNTRACED)[1])
        _becomes(child, stopped=True)
        whole.send_signal(signal.SIGCONT)
        _becomes(child, stopped=False)
        whole.terminate()
        assert whole.wait() == 128 + signal.SIGTERM


def _becomes(process: psutil.Process, *, stopped: bool) -> None:
    until = time.monotonic() + 30
    while (process.status() == psutil.STATUS_STOPPED) != stopped:
        assert time.monotonic() < until


@pytest.mark.usefixtures("study")
def test_a_plan_is_made_for_every_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[str] = []

    def refuses(words: list[str]) -> int:
        planned.append(words[words.index("--data") + 1])
        return 2

    monkeypatch.setattr(series, "_process", refuses)
    assert series.main(["--data", "set1,set2", "--budget", "4cpu-minutes", "--plan"]) == 2
    assert planned == ["set1", "set2"]


def test_what_was_killed_as_it_measured_begins_anew(tmp_path: Path) -> None:
    home = RunDir(tmp_path / "1-digits")
    home.take()
    home.sign()
    home.ledger.touch()
    assert not series._is_done(home)
    assert not home.path.exists()
