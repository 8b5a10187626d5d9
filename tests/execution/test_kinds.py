"""One study runs on one kind of GPU: real Ray nodes that report made-up GPUs."""

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from support.nodes import a_head

from study.execution import cluster
from study.execution.tasks import run_tasks
from study.protocol.budget import Budget
from study.protocol.errors import StudyError
from study.protocol.question import Machine

pytestmark = [pytest.mark.slow, pytest.mark.hosts, pytest.mark.usefixtures("rays_leftovers")]
GPU = Budget.parse("1gpu-hours")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Any]:
    """Start a node with two GPUs of a kind, or of no kind known to Ray; the head has no GPU."""
    made = a_head(num_cpus=1, num_gpus=0)

    def node(kind: str, gpus: int = 2) -> Any:
        kinds = {f"accelerator_type:{kind}": 1} if kind else {}
        return made.add_node(num_cpus=1, num_gpus=gpus, resources=kinds)

    cluster.connect(made.address, tmp_path / "ray.log")
    yield node
    cluster.disconnect()
    made.shutdown()  # type: ignore[no-untyped-call]


def test_mixed_gpu_kinds_are_refused_and_one_kind_is_enforced(nodes: Any) -> None:
    with pytest.raises(StudyError, match="no GPU, but the budget"):
        cluster.hardware(GPU)
    first = nodes("L4")
    have = cluster.hardware(GPU)
    assert (have.kind, have.name, have.units) == ("L4", "L4", 2)
    nodes("L4")
    assert cluster.hardware(GPU).units == 4
    stranger = nodes("H100")
    with pytest.raises(StudyError, match=r"several kinds \(2 H100, 4 L4\).*--num-gpus=0"):
        cluster.hardware(GPU)
    assert cluster.hardware(Budget.parse("1cpu-hours")).units == 4

    machine = Machine(resource="gpu", slots=6, fraction=1.0, threads=1, name="L4", kind="L4")
    with pytest.raises(StudyError, match=r"6 GPUs \(L4\), and 4 are here"):
        cluster.check(machine)
    four = dataclasses.replace(machine, slots=4)
    cluster.check(four)

    def where() -> tuple[str, str, str]:
        time.sleep(1)
        now = os.environ["CUDA_VISIBLE_DEVICES"]
        first = os.environ.setdefault("FIRST", now)  # set before CUDA starts, and permanent
        return str(ray.get_runtime_context().get_node_id()), first, now

    jobs = [(str(i), ()) for i in range(8)]
    halves = dataclasses.replace(four, slots=8, fraction=0.5)
    found = [each for m in (four, halves, four) for _, each, _ in run_tasks(where, jobs, m)]
    used = {node for node, _, _ in found}
    assert all(begun == now for _, begun, now in found)
    assert first.node_id in used
    assert stranger.node_id not in used
