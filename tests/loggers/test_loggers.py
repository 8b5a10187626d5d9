"""Each tool's record of a study, read back with the tool's own reader."""

import dataclasses
import json
import os
import re
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from support.synthetic import SPACES, Diary, plan, write_run

from study.__main__ import main as study_word
from study.loggers import base, feed
from study.loggers import mlflow as mlflow_logger
from study.loggers import optuna as optuna_logger
from study.loggers.ray_metrics import RayMetrics
from study.protocol.errors import InputError
from study.protocol.history import History
from study.protocol.ledger import Ledger, read
from study.protocol.plan import Plan
from study.protocol.records import Record, Resumed, Trial

ROOT = Path(__file__).parents[2]
STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", spaces=SPACES, slice_runs=3, failed=1)


def studies(home: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = JournalStorage(JournalFileBackend(str(home / "optuna.journal")))
    return {s.study_name: storage.get_all_trials(s._study_id) for s in storage.get_all_studies()}


def test_optuna_has_every_trial_with_its_values_and_its_end(run: Path) -> None:
    feed.write(run, "optuna")
    history = read(run / "ledger.jsonl")
    shown = {t.user_attrs["trial"]: t for trials in studies(run).values() for t in trials}
    assert shown.keys() == history.trials.keys()
    for name, trial in history.trials.items():
        found = shown[name]
        assert found.params == trial.config
        assert found.intermediate_values == {e.epoch: e.val_accuracy for e in history.epochs[name]}
        assert found.state == STATES[history.outcomes[name].state]
    assert {n for n in studies(run) if "other" not in n} == set(Plan.load(run / "plan.json").arms)


def test_writing_again_gives_the_same_and_not_twice(run: Path) -> None:
    feed.write(run, "optuna")
    before = {n: len(t) for n, t in studies(run).items()}
    feed.write(run, "optuna")
    assert {n: len(t) for n, t in studies(run).items()} == before


def test_following_a_study_adds_its_new_trials(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "FOLLOW_SECONDS", 0.0)
    ledger = run / "ledger.jsonl"
    rounds: list[int] = []
    whole = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(whole[:5]))

    def refresh() -> None:
        rounds.append(len(whole) * (len(rounds) + 1) // 3)
        ledger.write_bytes(b"".join(whole[: rounds[-1]]))

    feed.write(run, "optuna", follow=True, refresh=refresh)
    assert rounds[-1] == len(whole)
    shown = {t.user_attrs["trial"] for trials in studies(run).values() for t in trials}
    assert shown == read(ledger).trials.keys()


def test_optunas_file_has_one_writer(run: Path) -> None:
    writer = base.tools()["optuna"].start(Plan.load(run / "plan.json"), run)
    with pytest.raises(InputError, match="being written by another process"):
        feed.write(run, "optuna")
    writer.close()
    feed.write(run, "optuna")


def test_optuna_makes_no_link_in_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's usual lock is a link; a study killed while holding it could not resume."""
    (run / "optuna.journal.lock").touch()  # left by a killed study

    def linked(*_: object, **__: object) -> None:
        raise AssertionError("a link was made")

    monkeypatch.setattr(os, "symlink", linked)
    feed.write(run, "optuna")
    assert not (run / "optuna.journal.lock").exists()


@pytest.mark.filterwarnings("ignore")  # a warning of the tool itself
def test_tensorboard_has_scalars_and_hyperparameters(run: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    feed.write(run, "tensorboard")
    history = read(run / "ledger.jsonl")
    trial = next(t for t in history.trials.values() if t.phase == "search" and len(history.epochs[t.id]) == 9)
    events = reader.EventAccumulator(str(run / "tensorboard" / trial.id)).Reload()
    scalars = [(e.step, e.value) for e in events.Scalars("val_accuracy")]
    assert scalars == [(e.epoch, pytest.approx(e.val_accuracy)) for e in history.epochs[trial.id]]
    assert any("hparams" in tag for tag in events.summary_metadata)


@pytest.mark.filterwarnings("ignore")  # a warning of the tool itself
def test_mlflow_has_a_run_per_trial(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    feed.write(run, "mlflow")
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


@pytest.mark.filterwarnings("ignore")  # a warning of the tool itself
@pytest.mark.parametrize("where", ["http://127.0.0.1:9", "damaged"])
def test_an_unreachable_mlflow_is_one_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # set here; the default has two retries
    if where == "damaged":
        (run / "mlflow.db").write_bytes(b"no data base" * 999)
        where = f"sqlite:///{run / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where)
    assert study_word(["log", str(run), "--to", "mlflow"]) == 2
    said = capsys.readouterr().err
    assert "error: mlflow failed: " in said
    assert "Traceback" not in said


def test_a_tool_that_fails_is_one_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks = dataclasses.replace(optuna_logger.TOOL, start=lambda *_: _Breaks())
    monkeypatch.setattr(optuna_logger, "TOOL", breaks)
    assert study_word(["log", str(run), "--to", "optuna"]) == 2
    assert "error: optuna failed: RuntimeError: the tool is down" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # a warning of the tool itself
def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    diary = Diary(tmp_path / "run", plan())
    name = diary.trial("resnet8", "search", state="finished", reason="full length", epochs=9)
    diary.ledger.__exit__(None, None, None)
    feed.write(diary.folder, "wandb")
    (written,) = (diary.folder / "wandb").glob("offline-run-*/*.wandb")
    assert name.encode() in written.read_bytes()
    assert b"val_accuracy" in written.read_bytes()


def test_rays_metrics_take_any_name_of_a_run_and_an_arm(run: Path) -> None:
    plan, history = Plan.load(run / "plan.json"), read(run / "ledger.jsonl")
    odd = run.with_name("run odd é中\udce9'<i>")
    shown = RayMetrics(dataclasses.replace(plan, arms=(*plan.arms, "ré_中")), odd)
    shown.take(next(iter(history.trials.values())), history)
    shown.close()
    assert shown._spent._default_tags == {"run": r"run odd \xe9\u4e2d\udce9'<i>"}


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
    opened = feed.Feed(diary.folder / "ledger.jsonl", [_Breaks(), remembers])
    diary.ledger.watchers.append(opened.add)
    after = diary.trial("resnet8", "search", state="stopped", reason="asha: rung", epochs=1)
    opened.close()
    assert [r.id for r in remembers.seen if isinstance(r, Trial)] == [before, after]
    assert remembers.closed


def test_an_epoch_repeated_after_an_interruption_is_accepted(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "run", dataclasses.replace(plan(), spaces=SPACES))
    folder = diary.folder
    diary.ledger.__exit__(None, None, None)
    with Ledger(folder / "ledger.jsonl") as ledger:
        trial = Trial(id="a", arm="resnet8", phase="search", index=0, pair=0, config={}, seed=0, fold=0,
                      epochs=9)  # fmt: skip
        source = read(write_run(tmp_path / "other") / "ledger.jsonl")
        epoch = next(iter(source.epochs.values()))[0]
        epoch = dataclasses.replace(epoch, trial="a")
        ledger.add(trial)
        ledger.add(epoch)
        ledger.add(Resumed(trial="a", epoch=0, reason="worker died: x", cost=0.0, lost=1.0, fraction=1.0))
        ledger.add(dataclasses.replace(epoch, val_accuracy=0.5))
    feed.write(folder, "optuna")
    (shown,) = studies(folder)["resnet8"]
    assert shown.intermediate_values == {1: 0.5}
    assert shown.state == TrialState.RUNNING


def test_a_missing_tool_is_reported_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dataclasses.replace(mlflow_logger.TOOL, needs="a_package_of_no_name")
    monkeypatch.setattr(mlflow_logger, "TOOL", missing)
    with pytest.raises(InputError, match="pip install a_package_of_no_name"):
        base.check(["mlflow"])
    with pytest.raises(InputError, match="mlflow, optuna, tensorboard"):
        base.check(["nothing"])


def test_the_grafana_dashboard_asks_only_for_existing_metrics() -> None:
    board = json.loads((ROOT / "study" / "loggers" / "grafana.json").read_text())
    asked = {t["expr"] for panel in board["panels"] for t in panel["targets"]}
    names = set(re.findall(r"ray_study_\w+", " ".join(asked)))
    source = (ROOT / "study" / "loggers" / "ray_metrics.py").read_text()
    assert names == {f"ray_study_{name}" for name in re.findall(r'gauge\("(\w+)"', source)}
