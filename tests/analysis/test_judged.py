"""Studies judged by another metric than accuracy: made ones, from their records to verdict, gate and sentences."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import SPACES, plan, verdict_json, write_run

from analysis import power
from analysis.__main__ import main
from analysis.report.build import gate
from analysis.report.section import Context
from analysis.report.sections import scores
from analysis.results import read
from analysis.statistics.intervals import crossed
from analysis.summary import find
from study.commands.plan import outlook
from study.protocol.errors import InputError, StudyError
from study.protocol.metrics import METRICS, NAMES, Name
from study.protocol.plan import Plan

MARGINS: dict[str, float] = {"log-loss": 0.02, "brier": 0.01}


def made(folder: Path, metric: Name, **how: Any) -> Path:
    """A study whose second arm is ahead by three points of accuracy."""
    margin = MARGINS.get(metric, 0.005)
    return write_run(
        folder, tuned=(0.92, 0.95), metric=metric, rope=margin, spaces=SPACES, slice_runs=8, **how
    )


@pytest.mark.parametrize("metric", ["balanced-accuracy", "log-loss"])
def test_a_report_and_its_gate(metric: Name, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "run", metric)
    assert main([str(run), "--expect", "resnext8", "--expect-net", "resnext8"]) == 0
    printed = capsys.readouterr().out
    body, judged = verdict_json(run), METRICS[metric]
    assert body["metric"] == metric
    assert ("nats" in printed) == ("lower is better" in printed) == judged.lower
    markdown = (run / "report.md").read_text()
    assert f"Judged by {judged.kind} in every step" in markdown
    assert body["scores"]["resnext8"].keys() == {*NAMES, "f1", "auc"}
    assert "F1, macro" in markdown
    assert gate(find(read(run)).answers, "resnet8") == 1


@pytest.mark.parametrize("metric", NAMES)
def test_every_metric_names_the_arm_that_is_ahead(metric: Name, tmp_path: Path) -> None:
    found = find(read(made(tmp_path / "run", metric)))
    (answer,) = found.answers
    assert (answer.ahead, answer.first) == ("resnext8", "resnext8")
    assert answer.low is not None
    assert answer.low > 0
    assert (METRICS[metric].title in found.headline) == (metric != "accuracy")
    assert ("lower is better" in found.headline) == METRICS[metric].lower


def test_ref_the_verdict_is_of_the_scores_in_the_files(tmp_path: Path) -> None:
    for metric in ("balanced-accuracy", "log-loss"):
        run = made(tmp_path / metric, metric)
        evidence, judged = read(run), METRICS[metric]
        (net,) = find(evidence).nets
        tables, labels = [], np.zeros(0, dtype=np.int64)
        for arm in (net.first, net.second):
            trials = evidence.history.confirmed(arm, evidence.history.in_hand(arm))
            rows = []
            for trial in trials:
                with np.load(run / "predictions" / f"{trial.id}.npz") as file:
                    labels = file["labels"]
                    rows.append(judged.scores(file["log_probabilities"], labels))
            tables.append(np.stack(rows).astype(np.float64))
        step = 1.0 if judged.shares else 0.0
        expected = crossed(tables[0], tables[1], sampling=judged.sampling(labels), step=step)
        assert (net.delta, net.se) == pytest.approx((expected.delta, expected.se))


def test_a_failed_run_says_the_shares_of_the_classes(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "log-loss", failed=1)
    evidence = read(run)
    (hurt,) = (r for r in evidence.finds["resnext8"].values() if r.failed)
    shares = np.bincount(np.load(next((run / "predictions").glob("*.npz")))["labels"], minlength=10) / 2000
    entropy = float((shares * np.log(shares)).sum())
    assert hurt.means[hurt.failed[0]] == pytest.approx(entropy, abs=1e-6)
    assert evidence.guessing == pytest.approx(entropy, abs=1e-9)
    assert find(evidence).answers[0].p_first is None


def test_files_that_do_not_give_the_recorded_score_are_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "log-loss")
    path = next((run / "predictions").glob("*confirm*.npz"))
    with np.load(path) as file:
        arrays = dict(file)
    kept = path.read_bytes()
    for logs, says in (
        (arrays["log_probabilities"] - 0.1, "does not give the log-loss"),
        (arrays["log_probabilities"][:, :5], "no log_probabilities of shape 2000 x 10"),
    ):
        np.savez(path, **arrays | {"log_probabilities": logs})
        with pytest.raises(StudyError, match=says):
            read(run)
    path.write_bytes(kept)
    read(run)


def test_a_plan_of_no_known_metric_is_refused(tmp_path: Path) -> None:
    run = Path(shutil.copytree(made(tmp_path / "run", "brier"), tmp_path / "copy"))
    path = run / "plan.json"
    path.write_text(path.read_text().replace('"metric": "brier"', '"metric": "f1"'))
    with pytest.raises(InputError, match="f1"):
        Plan.load(run / "plan.json")


def test_the_planner_speaks_in_the_metrics_unit_and_sees_rare_classes() -> None:
    usual, loss = plan(), plan(metric="log-loss", rope=0.02)
    assert "nats of log-loss (lower is better)" in outlook(loss)[0]
    assert "0.02 nats" in power.promise(loss)
    assert power.assumed(loss)[1].sd > 2 * power.assumed(usual)[1].sd
    even = plan(metric="balanced-accuracy")
    counts = (1100, *(100,) * 9)
    rare = dataclasses.replace(even, data=dataclasses.replace(even.data, test_counts=counts))
    assert power.assumed(rare)[1].lasting > 1.5 * power.assumed(even)[1].lasting


def test_probabilities_of_older_studies_give_the_same_scores(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "accuracy")

    def shown() -> dict[str, dict[str, Any]]:
        evidence = read(run)
        built = scores.section(Context(run=run, evidence=evidence, found=find(evidence)))
        return built.facts

    new = shown()
    for path in (run / "predictions").iterdir():
        with np.load(path) as file:
            arrays = dict(file)
        old = np.exp(arrays.pop("log_probabilities")).astype(np.float16)
        np.savez(path, **arrays, probabilities=old)
    old = shown()
    for arm, own in new.items():
        for name, found in own.items():
            assert old[arm][name]["delta"] == pytest.approx(found["delta"], abs=2e-3), name
