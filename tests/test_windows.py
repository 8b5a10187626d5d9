"""What each tool shows of a study, read back with the tool's own reader."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from synthetic import SPACES, Diary, plan, write_run

from study import windows
from study.ledger import History, Ledger, read
from study.plan import Plan, PlanError
from study.records import Record, Resumed, Trial

ROOT = Path(__file__).parent.parent
FINISHED = re.compile(r'ray_study_trials{[^}]*arm="(\w+)"[^}]*state="finished"} [1-9]')
STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", spaces=SPACES, slice_runs=3, failed=1)


def studies(home: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = JournalStorage(JournalFileBackend(str(home / "optuna.journal")))
    return {s.study_name: storage.get_all_trials(s._study_id) for s in storage.get_all_studies()}


def test_optuna_has_every_trial_with_its_values_and_its_end(run: Path) -> None:
    windows.write(run, "optuna")
    history = read(run / "ledger.jsonl")
    shown = {t.user_attrs["trial"]: t for trials in studies(run).values() for t in trials}
    assert shown.keys() == history.trials.keys()
    for name, trial in history.trials.items():
        told = shown[name]
        assert told.params == trial.config
        assert told.intermediate_values == {e.epoch: e.val_accuracy for e in history.epochs[name]}
        assert told.state == STATES[history.outcomes[name].state]
    assert {n for n in studies(run) if "other" not in n} == set(Plan.load(run / "plan.json").arms)


def test_writing_again_gives_the_same_and_not_twice(run: Path) -> None:
    windows.write(run, "optuna")
    before = {n: len(t) for n, t in studies(run).items()}
    windows.write(run, "optuna")
    assert {n: len(t) for n, t in studies(run).items()} == before


def test_optuna_makes_no_link_in_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its usual lock is one, and a study that is killed while it holds it could not go on."""
    (run / "optuna.journal.lock").touch()  # left by one that was killed

    def linked(*_: object, **__: object) -> None:
        raise AssertionError("a link was made")

    monkeypatch.setattr(os, "symlink", linked)
    windows.write(run, "optuna")
    assert not (run / "optuna.journal.lock").exists()


@pytest.mark.filterwarnings("ignore")  # the tool's own
def test_tensorboard_has_scalars_and_hyperparameters(run: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    windows.write(run, "tensorboard")
    history = read(run / "ledger.jsonl")
    trial = next(t for t in history.trials.values() if t.phase == "search" and len(history.epochs[t.id]) == 9)
    events = reader.EventAccumulator(str(run / "tensorboard" / trial.id)).Reload()
    told = [(e.step, e.value) for e in events.Scalars("val_accuracy")]
    assert told == [(e.epoch, pytest.approx(e.val_accuracy)) for e in history.epochs[trial.id]]
    assert any("hparams" in tag for tag in events.summary_metadata)


@pytest.mark.filterwarnings("ignore")  # the tool's own
def test_mlflow_has_a_run_per_trial(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    windows.write(run, "mlflow")
    history = read(run / "ledger.jsonl")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study run")
    runs = {
        r.info.run_name.split()[0]: r
        for r in client.search_runs([experiment.experiment_id], max_results=1000)
    }
    assert runs.keys() == {*history.trials, "study"}
    trial = next(t for t in history.trials.values() if len(history.epochs[t.id]) == 9)
    assert runs[trial.id].data.metrics["val_accuracy"] == pytest.approx(history.val_accuracy(trial.id))
    assert runs[trial.id].data.params == {k: str(v) for k, v in trial.config.items()}


@pytest.mark.filterwarnings("ignore")  # the tool's own
def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    diary = Diary(tmp_path / "run", plan())
    name = diary.trial("resnet8", "search", state="finished", reason="full length", epochs=9)
    diary.ledger.__exit__(None, None, None)
    windows.write(diary.folder, "wandb")
    (written,) = (diary.folder / "wandb").glob("offline-run-*/*.wandb")
    assert name.encode() in written.read_bytes()
    assert b"val_accuracy" in written.read_bytes()


class _Breaks:
    def take(self, record: Record, history: History) -> None:
        del record, history
        raise RuntimeError("the tool is down")

    def close(self) -> None:
        raise AssertionError("closed already")


class _Remembers:
    def __init__(self) -> None:
        self.seen: list[Record] = []
        self.closed = False

    def take(self, record: Record, history: History) -> None:
        assert not isinstance(record, Trial) or record.id in history.trials
        self.seen.append(record)

    def close(self) -> None:
        self.closed = True


def test_a_tool_that_fails_takes_nothing_from_the_study_or_the_others(tmp_path: Path) -> None:
    diary, remembers = Diary(tmp_path / "run", plan()), _Remembers()
    before = diary.trial("resnet8", "search", state="finished", reason="full length", epochs=2)
    opened = windows.Windows(diary.folder / "ledger.jsonl", [_Breaks(), remembers])
    diary.ledger.watchers.append(opened.add)
    after = diary.trial("resnet8", "search", state="stopped", reason="asha: rung", epochs=1)
    opened.close()
    assert [r.id for r in remembers.seen if isinstance(r, Trial)] == [before, after]
    assert remembers.closed


def test_an_epoch_that_comes_again_after_an_interruption_is_taken(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "run", dataclasses.replace(plan(), spaces=SPACES))
    folder = diary.folder
    diary.ledger.__exit__(None, None, None)
    with Ledger(folder / "ledger.jsonl") as ledger:
        trial = Trial(id="a", arm="resnet8", phase="search", index=0, island=0, config={}, seed=0, split_seed=0,
                      epochs=9)  # fmt: skip
        source = read(write_run(tmp_path / "other") / "ledger.jsonl")
        epoch = next(iter(source.epochs.values()))[0]
        epoch = dataclasses.replace(epoch, trial="a")
        ledger.add(trial)
        ledger.add(epoch)
        ledger.add(Resumed(trial="a", epoch=0, reason="worker died: x", cost=0.0, lost=1.0, fraction=1.0))
        ledger.add(dataclasses.replace(epoch, val_accuracy=0.5))
    windows.write(folder, "optuna")
    (shown,) = studies(folder)["resnet8"]
    assert shown.intermediate_values == {1: 0.5}
    assert shown.state == TrialState.RUNNING


def test_a_tool_that_is_not_there_is_said_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(windows.NEEDS, "mlflow", "a_package_of_no_name")
    with pytest.raises(PlanError, match="pip install a_package_of_no_name"):
        windows.check(["mlflow"])
    with pytest.raises(PlanError, match="optuna, tensorboard"):
        windows.check(["nothing"])


def test_the_grafana_dashboard_asks_only_for_metrics_that_there_are() -> None:
    board = json.loads((ROOT / "study" / "grafana.json").read_text())
    asked = {t["expr"] for panel in board["panels"] for t in panel["targets"]}
    names = set(re.findall(r"ray_study_\w+", " ".join(asked)))
    source = (ROOT / "study" / "windows.py").read_text()
    assert names == {f"ray_study_{name}" for name in re.findall(r'gauge\("(\w+)"', source)}


@pytest.mark.slow
def test_prometheus_gets_the_metrics_of_a_running_study(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    home = tmp_path / "out"
    log = (tmp_path / "log").open("w")
    study = subprocess.Popen(
        [sys.executable, "study/run.py", "--budget", "1cpu-hours", "--data", "digits", "--epochs", "3", "--out", home,
         "--arms", "tiny_resnet,tiny_resnext", "--log", "optuna"],
        cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
        env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_MODE": "token"},
    )  # fmt: skip
    try:
        deadline, found = time.monotonic() + 240, ""
        while time.monotonic() < deadline and len(set(FINISHED.findall(found))) < 2:
            time.sleep(2)
            with suppress(OSError):  # not all of Ray's endpoints are up at once
                found = _scrape((tmp_path / "log").read_text(), token.read_text())
        assert study.poll() is None, (tmp_path / "log").read_text()
        history = read(home / "ledger.jsonl")
    finally:
        study.send_signal(signal.SIGINT)
        study.wait(60)
        log.close()
    told = _values(found)
    share = Plan.load(home / "plan.json").share
    for arm in ("tiny_resnet", "tiny_resnext"):
        spent = sum(value for labels, value in told["ray_study_spent_seconds"] if f'arm="{arm}"' in labels)
        (left,) = (value for labels, value in told["ray_study_left_seconds"] if f'arm="{arm}"' in labels)
        assert 0 < spent <= history.spent(arm) + 1e-6
        assert left == pytest.approx(share - spent, abs=30)  # the two are scraped one after the other
    assert {re.search(r'run="(\w+)"', labels).group(1) for labels, _ in told["ray_study_trials"]} == {"out"}  # type: ignore[union-attr]
    assert sum(map(len, studies(home).values())) >= len(history.trials)


def _scrape(log: str, token: str) -> str:
    """What all of the study's Prometheus endpoints say, empty before they are there."""
    dashboard = re.search(r"Ray dashboard: (http://127\.0\.0\.1:\d+)", log)
    if dashboard is None:
        return ""
    request = urllib.request.Request(  # the study's own address
        f"{dashboard.group(1)}/api/prometheus/sd", headers={"Authorization": f"Bearer {token}"}
    )
    answer: list[dict[str, Any]] = json.load(urllib.request.urlopen(request, timeout=10))
    said = ""
    for target in answer[0]["targets"]:
        said += urllib.request.urlopen(f"http://{target}/metrics", timeout=10).read().decode()
    return said


def _values(found: str) -> dict[str, list[tuple[str, float]]]:
    told: dict[str, list[tuple[str, float]]] = {}
    for name, labels, value in re.findall(r"^(ray_study_\w+)\{(.*)\} (\S+)$", found, re.MULTILINE):
        told.setdefault(name, []).append((labels, float(value)))
    return told
