"""EDGE-1: a winner on the edge of its range is flagged, with the command that widens it."""

import dataclasses
from pathlib import Path

import pytest
from synthetic import plan, write_run

from analysis import health
from analysis.evidence import Evidence, read

AXIS = {"low": 0.001, "high": 1.0, "default": 0.1, "log": True}


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return read(write_run(tmp_path / "run"))


def with_axis(evidence: Evidence, **changes: float | bool) -> Evidence:
    spaces = {arm: {"learning_rate": {**AXIS, **changes}} for arm in evidence.plan.arms}
    return dataclasses.replace(evidence, plan=dataclasses.replace(evidence.plan, spaces=spaces))


def test_edge_1_a_winner_on_the_edge_is_flagged_with_the_command_that_widens_it(evidence: Evidence) -> None:
    at_the_top = with_axis(evidence, high=0.11)
    assert [(arm, name) for arm, name, _ in health.edges(at_the_top)] == [
        (arm, "learning_rate") for arm in evidence.plan.arms
    ]
    told = health.warnings(at_the_top)
    assert any("edge of what was searched (0.001 to 0.11)" in line for line in told)
    assert any(line.endswith("--widen learning_rate") for line in told)


def test_edge_1_a_winner_inside_is_not_flagged(evidence: Evidence) -> None:
    assert health.edges(with_axis(evidence)) == []
    assert health.edges(with_axis(evidence, low=0.0999)) != []
    assert health.edges(with_axis(evidence, low=0.0, high=10.0, log=False)) == []  # nothing below zero


def test_a_clean_study_has_nothing_to_warn_of(evidence: Evidence) -> None:
    assert evidence.plan == plan()
    assert [line for line in health.warnings(evidence) if "edge" in line] == []
