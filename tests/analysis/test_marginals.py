"""Accuracy by value of each axis: by hand, by simulation, and in the report."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.synthetic import RATE, SPACES, plan, verdict_json, write_run

from analysis.report import marginals
from analysis.report.build import write
from analysis.report.figures import colours
from analysis.report.section import Context
from analysis.report.sections import hyperparameters
from analysis.results import Draw, Evidence
from analysis.summary import find
from study.protocol.history import History
from study.protocol.metrics import ACCURACY
from study.protocol.records import Config

CHOICE: dict[str, Any] = {"options": ["x", "y", "z"], "default": "x"}


def evidence(
    draws: dict[str, list[tuple[Config, float | None]]], spaces: dict[str, dict[str, dict[str, Any]]]
) -> Evidence:
    """A study that consists of its random slices: settings with their validation accuracies, None if failed."""
    slices = {
        arm: tuple(
            Draw(index=i, config=config, cost=1.0, val=val, test=None, val_accuracy=val, train=val)
            for i, (config, val) in enumerate(own)
        )
        for arm, own in draws.items()
    }
    question = replace(plan(tuple(draws)), spaces=spaces)
    return Evidence(
        plan=question, history=History(), default={}, tuned={}, finds={}, slices=slices, open=("all",)
    )


def test_a_value_has_the_mean_and_t_interval_of_its_trials() -> None:
    values: dict[str, list[float | None]] = {"x": [0.8, 0.82, 0.81], "y": [0.7, None, 0.74, 0.72], "z": [0.9]}
    own: list[tuple[Config, float | None]] = [({"aug": k}, v) for k, vs in values.items() for v in vs]
    study = evidence({"a": own, "b": []}, {"a": {"aug": CHOICE}, "b": {"aug": CHOICE}})
    found = marginals.table(study)
    x, y, z = found[found["arm"] == "a"].to_dict("records")
    assert (x["value"], x["trials"], x["failed"], x["isolated"], x["own"]) == ("x", 3, 0, True, True)
    half = stats.t.ppf(0.975, 2) * stats.sem([0.8, 0.82, 0.81])
    assert [x[f"val_{k}"] for k in ("mean", "low", "high")] == pytest.approx([0.81, 0.81 - half, 0.81 + half])
    assert y["val_mean"] == pytest.approx((0.7 + 0.74 + 0.72 + 0.1) / 4)  # a failed trial guesses one of ten
    assert (y["failed"], y["test"]) == (1, [])
    assert math.isnan(z["val_mean"])
    assert not found.loc[found["arm"] == "b", "isolated"].any()
    text = " ".join(hyperparameters.section(Context(run=Path(), evidence=study, found=find(study))).text)
    assert "how the values of aug differ for b (0 random settings, it takes 3 of each of two values)" in text
    assert "difference beyond chance between the values of aug" in text


def test_numbers_are_binned_in_thirds_and_conditional_axes_where_they_exist() -> None:
    own: list[tuple[Config, float | None]] = [
        ({"lr": rate, **({"own": 4} if rate > 0.05 else {})}, 0.5 + rate / 10)
        for rate in (0.002, 0.005, 0.009, 0.02, 0.2, 0.5, 0.999, 1.0)
    ]
    four = {"options": [2, 4], "default": 4}
    study = evidence({"a": own, "b": own}, {"a": {"lr": RATE, "own": four}, "b": {"lr": RATE}})
    found = marginals.table(study).set_index(["arm", "axis", "value"])
    assert [found.loc[("a", "lr", third), "trials"] for third in marginals.THIRDS] == [3, 1, 4]
    assert [found.loc[("a", "own", value), "trials"] for value in ("2", "4")] == [0, 4]
    assert not found.loc[("a", "lr", marginals.THIRDS[0]), "own"]
    assert found.loc[("a", "own", "4"), "own"]
    assert found.loc[("a", "lr", marginals.THIRDS[0]), "isolated"]
    assert not found.loc[("a", "own", "4"), "isolated"]


@pytest.mark.slow
def test_the_p_keeps_its_level_and_finds_an_effect() -> None:
    rng = np.random.default_rng(0)
    for effect, low, high in ((0.0, 0.02, 0.08), (0.06, 0.9, 1.0)):
        found = 0
        for _ in range(300):
            at = rng.integers(3, size=24)
            other = rng.integers(4, size=24) * 0.03  # another axis, drawn at random
            own: list[tuple[Config, float | None]] = [
                ({"aug": CHOICE["options"][a]}, float(0.7 + effect * a + o + rng.normal(0, 0.01)))
                for a, o in zip(at, other, strict=True)
            ]
            table = marginals.table(evidence({"a": own, "b": []}, {"a": {"aug": CHOICE}, "b": {}}))
            found += marginals.adjusted(table).get(("a", "aug"), 1.0) <= 0.05
        assert low <= found / 300 <= high


def test_the_report_shows_choices_and_own_axes_per_arm(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", slice_runs=24, spaces=SPACES)
    write(run)
    body = verdict_json(run)["what_mattered"]
    assert (run / "figures" / "levels.svg").exists()
    text, html = (run / "report.md").read_text(), (run / "report.html").read_text()
    for needed in ("resnext8: cardinality 8", "resnet8: augmentation flip+crop"):
        assert f"| {needed} |" in text
        assert f"<td>{needed}</td>" in html
    assert (
        "resnet8: learning_rate lowest third" not in text
    )  # numeric axes shared by all arms appear in verdict.json only
    rows = {(r["arm"], r["axis"], r["value"]): r for r in body["levels"]}
    assert rows["resnet8", "learning_rate", "middle third"]["trials"] > 0
    for arm in ("resnet8", "resnext8"):
        for axis in ("learning_rate", "augmentation"):
            assert sum(r["trials"] for k, r in rows.items() if k[:2] == (arm, axis)) == 24
    shared = [rows["resnext8", "cardinality", v] for v in ("2", "4", "8")]
    assert all(len(r["val"]) == len(r["test"]) == r["trials"] for r in shared)
    assert "observational over the other random axes" in html


def test_too_few_trials_give_a_sentence_instead_of_a_figure(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", slice_runs=3, spaces=SPACES)
    write(run)
    assert not (run / "figures" / "levels.svg").exists()
    text = (run / "report.md").read_text()
    assert "how the values of augmentation and cardinality differ for resnext8 (3 random settings" in text


def test_a_panel_for_every_arm_that_has_an_axis_to_show() -> None:
    own: list[tuple[Config, float | None]] = [({"aug": v}, 0.8) for v in "xxxyyy"]
    found = marginals.table(evidence({"a": own, "b": []}, {"a": {"aug": CHOICE}, "b": {"aug": CHOICE}}))
    figure = hyperparameters.draw(found[found["isolated"]], colours(("a", "b")), ACCURACY)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["a"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "aug\nx (3)",
        "aug\ny (3)",
        "aug\nz (0)",
    ]
