"""A study on a cluster that grows for it and shrinks afterwards: Ray's real autoscaler and raylets."""

from pathlib import Path

import pytest
from support.cluster_up import missing
from support.growing import alone

from study.protocol.ledger import read
from study.protocol.plan import Plan

pytestmark = pytest.mark.slow
FLAGS = "--arms tiny_resnet,tiny_resnext --data digits --epochs 3"


@pytest.fixture(autouse=True)
def _hosts() -> None:
    if why := missing(("ip", "unshare")):
        pytest.skip(why)


@pytest.mark.hosts
def test_machines_start_for_a_waiting_study_and_stop_when_idle() -> None:
    done = alone(f"--budget 1cpu-hours {FLAGS} --plan", timeout=400)
    said = done.stdout + done.stderr
    assert "before: 0 cores" in said, said
    assert "during: 2 cores, exit code 0" in said, said
    assert "2 trials side by side" in said, said
    assert "after: 0 cores" in said, said


@pytest.mark.hosts
def test_a_study_runs_on_the_nodes_of_a_cluster_and_not_on_its_head(tmp_path: Path) -> None:
    home = tmp_path / "out"
    done = alone(f"--budget 8cpu-minutes {FLAGS} --out {home}", timeout=900)
    said = done.stdout + done.stderr
    assert "trained on 2 nodes" in said, said
    assert "cores, exit code 0" in said, said  # a busy autoscaler may start a third, idle one
    plan, history = Plan.load(home / "plan.json"), read(home / "ledger.jsonl")
    assert plan.machine.slots == 2
    assert all(history.full_length(arm, "confirm") for arm in plan.arms)
    assert all(outcome.state != "failed" for outcome in history.outcomes.values())
    assert (home / "report.html").exists()
