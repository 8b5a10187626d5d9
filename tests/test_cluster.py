"""A study on a cluster of several nodes, and on one that grows."""

import subprocess
import sys
from pathlib import Path

import pytest
import ray
from cluster_up import missing
from growing import alone
from ray.cluster_utils import Cluster

from study import cluster as ours
from study.ledger import read
from study.plan import Plan

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_study_runs_on_the_nodes_of_a_cluster_and_not_on_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = {cluster.add_node(num_cpus=1).node_id for _ in range(2)}
        home = tmp_path / "out"
        done = subprocess.run(
            [sys.executable, "study/run.py", "--budget", "6cpu-minutes", "--arms", "tiny_resnet,tiny_resnext", "--data",
             "digits", "--epochs", "3", "--out", home, "--address", cluster.address, "--wait-for", "2"],
            cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        ray.init(address=cluster.address, log_to_driver=False)
        from ray.util.state import list_actors

        trained = {actor.node_id for actor in list_actors(detail=True) if "StudyTrial" in actor.class_name}
        assert trained == nodes
        monkeypatch.setattr(ours, "WAIT_SECONDS", 3)
        with pytest.raises(ours.ClusterError, match="--wait-for 3: .* the cluster has 2 CPUs"):
            ours.wait_for(3, "cpu")
        ours.wait_for(2, "cpu")  # the wish that was not met holds nothing
    finally:
        ray.shutdown()
        cluster.shutdown()
    plan, history = Plan.load(home / "plan.json"), read(home / "ledger.jsonl")
    assert plan.machine.slots == 2
    assert all(history.full_length(arm, "confirm") for arm in plan.arms)
    assert (home / "report.html").exists()
    assert not history.resumed


def test_machines_come_for_a_study_that_waits_and_go_when_idle() -> None:
    if why := missing():
        pytest.skip(why)
    done = alone(timeout=400)
    said = done.stdout + done.stderr
    assert "before: 0 cores" in said, said
    assert "during: 2 cores, exit code 0" in said, said
    assert "2 trials side by side" in said, said
    assert "after: 0 cores" in said, said
