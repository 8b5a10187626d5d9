"""The command as a user runs it: real Ray, real Optuna, real training, on 8x8 images made here.

The repository is copied, search_spaces/README.md's arm is added as a new file and nothing else is edited.
"""

import csv
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from support.edited import edit
from support.user import MARKS, command, marked, user_repo

from study.data.prepare import prepare
from study.protocol import accounting, allocation, examples, selection, validation
from study.protocol.history import History
from study.protocol.ledger import read, records
from study.protocol.plan import Plan
from study.protocol.records import SCORED_PHASES, Epoch, Record, Trial
from study.protocol.rundir import RunDir
from study.protocol.selection import to_be_scored
from study.training.trial import start

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
WATCHED = """
import json, pathlib, sys
home, log = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
def watch(event, details):
    if event == "open" and str(details[0]).endswith("sealed_test.npz"):
        ledger = home / "ledger.jsonl"
        with log.open("a") as file:
            file.write(json.dumps("Manifest" in ledger.read_text() if ledger.exists() else False) + "\\n")
sys.addaudithook(watch)
sys.path.insert(0, "")
import study.run
sys.exit(study.run.main(sys.argv[3:]))
"""
"""Runs the study and writes down, at every opening of the sealed file, whether the manifest was there."""


@dataclass(frozen=True)
class Finished:
    """A study that ran to its end."""

    repo: Path
    home: Path
    output: str
    wall: float
    openings: list[bool]
    plan: Plan
    history: History


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_repo(tmp_path_factory.mktemp("marked-folder"))


@pytest.fixture(scope="module")
def finished(repo: Path) -> Finished:
    log = repo / "openings"
    began = time.monotonic()
    flags = (
        "--budget 3cpu-minutes --arms tiny_resnet,moody --data folder:images --epochs 3 --seed 3 --out out"
    )
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "out", str(log), *flags.split()],
        cwd=repo, env=marked(repo.parent), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(
        repo=repo,
        home=repo / "out",
        output=done.stdout,
        wall=time.monotonic() - began,
        openings=[json.loads(line) for line in log.read_text().splitlines()],
        plan=Plan.load(repo / "out" / "plan.json"),
        history=read(repo / "out" / "ledger.jsonl"),
    )


def test_the_last_score_comes_after_every_file_and_leaves_nothing_behind(finished: Finished) -> None:
    """A study that is killed after it is over, and only its report is made again."""
    made = {path.name: path.stat().st_mtime_ns for path in finished.home.rglob("*")}
    assert made["pictures.npz"] <= made["ledger.jsonl"]  # a file system's clock ticks every few milliseconds
    assert ".tune" not in made
    assert not [name for name in made if name.endswith((".partial", ".before.pt"))]


def test_it_ends_with_the_verdict_and_the_report(finished: Finished) -> None:
    *_, verdict, path = finished.output.strip().splitlines()
    assert "pt" in verdict
    assert path == "report: out/report.html"
    assert (finished.home / "report.html").read_text().count("<svg") >= 3
    stored = json.loads((finished.home / "verdict.json").read_text())
    assert verdict in json.dumps(stored, ensure_ascii=False)
    for part in ("measuring the arms", "runs per arm", "127.0.0.1", *finished.plan.arms):
        assert part in finished.output


def test_the_packing_is_one_that_was_measured_for_every_arm(finished: Finished) -> None:
    plan = finished.plan
    taken = [row for row in plan.packing if row.fraction == plan.machine.fraction]
    assert {row.arm for row in taken} == set(plan.arms)
    assert all(row.threads == plan.machine.threads for row in taken)
    assert all(row.images_per_second > 0 and row.peak_bytes > 10**7 for row in plan.packing)
    assert "% of the budget" in plan.packing_notes[-1]


def test_a_new_file_was_a_new_arm(finished: Finished) -> None:
    assert finished.plan.arms == ("tiny_resnet", "moody")
    assert finished.history.full_length("moody", "confirm")


def test_bud_2_failures_keep_their_reason_and_cost_and_the_worker_lives_on(finished: Finished) -> None:
    history = finished.history
    failed = [o for o in history.outcomes.values() if o.state == "failed"]
    assert {history.trials[o.trial].arm for o in failed} == {"moody"}
    assert {o.reason.split(":")[0] for o in failed} <= {"error", "diverged"}
    assert any(o.reason == "error: RuntimeError: too wide for my taste" for o in failed)
    assert all(0 < o.cost < allocation.startup(finished.plan) for o in failed[1:])


def test_only_nets_that_are_scored_are_kept(finished: Finished) -> None:
    kept = {p.stem for p in (finished.home / "checkpoints").iterdir()}
    assert kept == set(finished.history.scores)


def test_no_file_contains_the_environment(finished: Finished) -> None:
    """A study that is stopped, and Ray's token: test_security.py."""
    written = [path for path in finished.home.rglob("*") if path.is_file()]
    assert {"plan.json", "ledger.jsonl", "verdict.json", "report.html"} <= {path.name for path in written}
    for path in written:
        if path.name != "ray.log":  # Ray's messages name its own folders
            assert [mark for mark in MARKS if mark.encode() in path.read_bytes()] == [], path.name


def test_the_report_is_rebuilt_byte_for_byte(finished: Finished) -> None:
    built = ("report.html", "report.md", "verdict.json")
    before = {name: (finished.home / name).read_bytes() for name in built}
    figures = {p.name: p.read_bytes() for p in (finished.home / "figures").iterdir()}
    for name in built:
        (finished.home / name).unlink()
    done = subprocess.run([sys.executable, "-m", "analysis", "out"], cwd=finished.repo, check=False)
    assert done.returncode == 0
    assert {name: (finished.home / name).read_bytes() for name in built} == before
    assert {p.name: p.read_bytes() for p in (finished.home / "figures").iterdir()} == figures


def test_sel_3_the_test_set_is_opened_once_and_after_the_manifest(finished: Finished) -> None:
    assert finished.openings == [True]
    assert len(finished.history.opened) == 1
    (manifest,) = finished.history.manifests
    assert finished.history.opened[0].manifest == manifest.sha256
    source = {p.name for p in (ROOT / "study").rglob("*.py") if "unseal(" in p.read_text()}
    assert source == {"sealed.py", "final_test.py"}


def test_every_net_that_met_the_test_left_its_predictions(finished: Finished) -> None:
    history = finished.history
    assert not any(to_be_scored(history, arm) for arm in finished.plan.arms)  # no more
    kept = {
        t.id for arm in finished.plan.arms for phase in SCORED_PHASES for t in history.full_length(arm, phase)
    }
    assert {p.stem for p in (finished.home / "predictions").iterdir()} == kept == set(history.scores)
    for trial in kept:
        with np.load(finished.home / "predictions" / f"{trial}.npz", allow_pickle=False) as file:
            said = file["log_probabilities"]
            assert said.shape == (120, 3)
            assert said.dtype == np.float32
            assert np.exp(said).sum(axis=1) == pytest.approx(1, abs=1e-5)
            assert (said.argmax(axis=1) == file["predictions"]).all()
            accuracy = float((file["predictions"] == file["labels"]).mean())
            classes = [name.split("/")[-2] for name in file["names"]]
            assert classes == [finished.plan.data.classes[label] for label in file["labels"]]
        assert accuracy == history.scores[trial].test_accuracy


def test_the_report_shows_images_that_were_kept_when_the_test_was_opened(finished: Finished) -> None:
    with np.load(finished.home / "pictures.npz", allow_pickle=False) as kept:
        positions = kept["positions"].tolist()
    page = (finished.home / "report.html").read_text()
    assert 0 < len(positions) <= 2 * examples.MOST
    assert page.count('<img alt="') >= len(positions)
    assert page.count('src="data:image/png;base64,') == page.count('<img alt="')


def test_what_baseline_and_selection_runs_are_right_on_is_kept(finished: Finished) -> None:
    history, plan, kept = finished.history, finished.plan, validation.reader(RunDir(finished.home))
    for arm in plan.arms:
        for phase in validation.PHASES:
            for trial in history.full_length(arm, phase):
                found = kept(trial.id)
                assert found is not None
                assert found.scores.shape == (plan.val_images,)
                assert found.scores.mean() == history.val_accuracy(trial.id)


def test_the_ledger_adds_up_to_what_was_held(finished: Finished) -> None:
    history, plan = finished.history, finished.plan
    spent = sum(history.spent(arm) for arm in plan.arms)
    by_hand = sum(o.cost for o in history.outcomes.values()) + sum(c.cost for c in history.costs)
    assert spent == pytest.approx(by_hand)
    assert 0 < spent <= finished.wall * plan.machine.slots


def test_no_run_begins_beyond_the_share_but_those_that_every_find_gets(finished: Finished) -> None:
    """On a machine that became slower what every find gets may cost more than the share: it runs all the same."""
    plan, seen = finished.plan, History()
    for record in records(finished.home / "ledger.jsonl"):
        if isinstance(record, Trial) and record.phase == "confirm":
            arm, pair = record.arm, record.pair
            (choice,) = (c for c in seen.choices(arm) if c.pair == pair)
            floor = selection.runs_floor(plan, seen, hand=pair == seen.in_hand(arm))
            if len(seen.confirmed(arm, pair)) >= floor:
                left = accounting.left(plan, seen, arm, spent=seen.spent(arm))
                assert left >= accounting.run_cost(plan, seen, arm, choice) > 0
        seen.add(record)
    assert seen.manifests


def test_bud_1_both_arms_were_tuned_for_the_same_cost(finished: Finished) -> None:
    history, plan = finished.history, finished.plan
    spends = [history.spent(arm, "search", "slice") for arm in plan.arms]
    per_report = [
        later.cost - earlier.cost
        for epochs in history.epochs.values()
        for earlier, later in itertools.pairwise(epochs)
    ]
    assert abs(spends[0] - spends[1]) <= 0.02 * max(spends) + plan.machine.slots * 2 * max(per_report)


def test_any_trial_runs_again_from_its_record_alone(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.repo)
    torch.set_num_threads(finished.plan.machine.threads)
    plan, history = finished.plan, finished.history
    data = prepare(plan.data.spec, seed=plan.seed, root=Path("data"))
    assert data.card == plan.data
    chosen: list[Trial] = [
        history.full_length("tiny_resnet", p)[-1] for p in ("baseline", "search", "confirm")
    ]
    chosen += [t for t in history.of("tiny_resnet", "search") if history.outcomes[t.id].state == "stopped"][
        :1
    ]
    for trial in chosen:
        recorded = history.epochs[trial.id]
        _, epochs = start(plan, trial, data.train, torch.device("cpu"))
        for before, again in zip(recorded, epochs, strict=False):
            assert (again.train_loss, again.train_accuracy) == (before.train_loss, before.train_accuracy)
            assert (again.val_loss, again.val_accuracy) == (before.val_loss, before.val_accuracy)


def test_a_net_that_is_gone_or_torn_is_trained_again_to_the_last_digit(finished: Finished) -> None:
    again, history = finished.repo / "again", finished.history
    shutil.copytree(finished.home, again)
    lines = (again / "ledger.jsonl").read_text().splitlines(keepends=True)
    opened = next(i for i, line in enumerate(lines) if '"record":"TestOpened"' in line)
    (again / "ledger.jsonl").write_text("".join(lines[: opened + 1]))
    shutil.rmtree(again / "predictions")
    gone, torn, other = (
        again / "checkpoints" / f"{t.id}.pt" for t in history.full_length("moody", "confirm")[:3]
    )
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:-100])
    whole = other.read_bytes()
    torch.save({"net": {}, "epoch": history.trials[other.stem].epochs}, other)
    done = command(finished.repo, "--resume again")
    assert done.returncode == 3, (
        done.stdout + done.stderr
    )  # a file that is whole and another net's is no accident
    assert other.stem in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    other.write_bytes(whole)
    done = command(finished.repo, "--resume again")
    assert done.returncode == 0, done.stdout + done.stderr
    ended = read(again / "ledger.jsonl")
    assert {c.what.split()[0] for c in ended.costs if c.phase == "lost"} == {gone.stem, torn.stem}
    assert ended.scores == history.scores
    for path in (finished.home / "predictions").iterdir():
        with np.load(path) as before, np.load(again / "predictions" / path.name) as after:
            assert np.array_equal(before["log_probabilities"], after["log_probabilities"])
    shutil.rmtree(again)


def word(finished: Finished, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m study ...`` in the user's repository."""
    return subprocess.run(
        [sys.executable, "-m", "study", *arguments],
        cwd=finished.repo, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_rerun_says_the_same_numbers_and_notices_when_they_are_not(finished: Finished) -> None:
    trial = finished.history.of("tiny_resnet", "search")[1].id
    done = word(finished, "rerun", "out", trial)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(repr(finished.history.epochs[trial][0].val_loss)) == 2
    changed = finished.repo / "changed"
    shutil.copytree(finished.home, changed, dirs_exist_ok=True)

    def moved(record: Record) -> Record:
        if isinstance(record, Epoch) and record.trial == trial:
            return dataclasses.replace(record, val_loss=record.val_loss + 1e-9)
        return record

    edit(changed / "ledger.jsonl", moved)
    done = word(finished, "rerun", "changed", trial)
    assert done.returncode == 1, done.stdout + done.stderr
    shutil.rmtree(changed)


def test_an_arms_fault_comes_again(finished: Finished) -> None:
    failed = [o for o in finished.history.outcomes.values() if o.reason.startswith("error: RuntimeError")]
    done = word(finished, "rerun", "out", failed[0].trial)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "too wide for my taste" in done.stdout


def test_the_exported_net_says_what_the_study_recorded(finished: Finished, tmp_path: Path) -> None:
    done = word(finished, "export", "out", "moody", "--out", str(tmp_path / "net"))
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "net" / "config.json").read_text())
    history = finished.history
    runs = [t for t in history.confirmed("moody", history.in_hand("moody")) if history.finished(t.id)]
    assert card["val_accuracy"] == history.val_accuracy(runs[0].id)
    assert card["test_accuracy"] == finished.history.scores[card["trial"]].test_accuracy
    stored = np.load(finished.home / "predictions" / f"{card['trial']}.npz")
    called = [finished.plan.data.classes[p] for p in stored["predictions"]]
    test = finished.repo / "images" / "test"
    done = subprocess.run(
        [sys.executable, str(tmp_path / "net" / "load.py"), str(test)], cwd="/", env={**os.environ, "PYTHONPATH": ""},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = dict(line.split("\t")[:2] for line in done.stdout.splitlines())
    assert [said[str(finished.repo / "images" / name)] for name in stored["names"]] == called
    done = word(finished, "predict", "out", "moody", "images/test", "--to", str(tmp_path / "said.csv"))
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "said.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert [rows[f"images/{name}"]["prediction"] for name in stored["names"]] == called
    soft = [[float(rows[f"images/{n}"][c]) for c in finished.plan.data.classes] for n in stored["names"]]
    np.testing.assert_allclose(soft, np.exp(stored["log_probabilities"]), atol=2e-6)


def test_a_net_that_is_not_there_is_one_sentence(finished: Finished) -> None:
    done = word(finished, "export", "out", "nobody")
    assert done.returncode == 2
    assert "it compares tiny_resnet, moody" in done.stderr


def test_a_finished_study_is_never_overwritten(finished: Finished) -> None:
    before = (finished.home / "ledger.jsonl").read_bytes()
    done = command(finished.repo, "--budget 10cpu-minutes --data folder:images --out out")
    assert done.returncode == 2
    assert "python -m analysis out" in done.stderr
    assert (finished.home / "ledger.jsonl").read_bytes() == before
