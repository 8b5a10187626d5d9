"""Whole studies in simulated time under recipes whose axes hang on the optimizer."""

import dataclasses
from pathlib import Path

import pytest
from support.schedules import ARMS, a_plan, all_trials, play

from search_spaces import load, load_recipe
from study.protocol.ledger import Ledger
from study.scheduling.schedule import Schedule
from study.scheduling.spaces import describe


@pytest.mark.parametrize("recipe", ["modern", "finetune"])
def test_a_study_searches_both_optimizers_and_is_rebuilt_from_its_ledger(recipe: str, tmp_path: Path) -> None:
    arms = {name: load(name, recipe) for name in ARMS}
    plan = dataclasses.replace(
        a_plan(minutes=30),
        recipe=recipe,
        batch_sizes=(32, 64),
        spaces={name: describe(arm.space) for name, arm in arms.items()},
    )
    ledger = play(plan, tmp_path / "ledger.jsonl", arms=arms)
    shared = load_recipe(recipe).space
    for trial in all_trials(ledger):
        expected = {name for name, axis in arms[trial.arm].space.items() if axis.active(trial.config)}
        assert trial.config.keys() == expected
        assert ("adamw_lr" in trial.config) != ("lr" in trial.config)
    for arm, made in arms.items():
        searches = [t.config for t in ledger.of(arm, "search")]
        assert {config["optimizer"] for config in searches} == {"adamw", "sgd"}
        assert ledger.of(arm, "baseline")[0].config == made.default()
    first = [t.config for t in ledger.of("tiny_resnet", "search") if t.pair == 0][:3]
    assert {config["optimizer"] for config in first} == {"adamw", "sgd"}  # the known settings
    assert all(name in shared or name == "cardinality" for t in all_trials(ledger) for name in t.config)
    with Ledger(tmp_path / "ledger.jsonl") as again:
        assert Schedule(plan, again, arms).done
