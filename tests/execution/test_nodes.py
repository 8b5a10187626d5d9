"""Studies on several Ray nodes: the same results as on one, also when a node is lost."""

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults.ground import (
    LIMIT,
    Ground,
    check_same,
    prepare_ground,
    run_out,
)
from support.nodes import a_head

from study.protocol.ledger import read, records
from study.protocol.plan import Plan
from study.protocol.records import Resumed
from study.protocol.rundir import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.hosts, pytest.mark.usefixtures("rays_leftovers")]
OUTAGE = 45.0
"""Seconds without a machine for the trial."""


@contextmanager
def a_cluster(*workers: str) -> Iterator[tuple[Any, list[Any]]]:
    """A head without cores, and a one-core node per entry of ``workers``, the kind of GPU it claims to have."""
    made = a_head(num_cpus=0)
    try:
        yield made, [add(made, kind) for kind in workers]
    finally:
        made.shutdown()  # type: ignore[no-untyped-call]


def add(cluster: Any, kind: str) -> Any:
    return cluster.add_node(num_cpus=1, resources={f"accelerator_type:{kind}": 1} if kind else {})


def trains(node: Any) -> bool:
    """Whether a trial's process runs on the node now: it is a child of the node's raylet."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any(_trains(child) for child in raylet.children())


def _trains(process: psutil.Process) -> bool:
    try:
        return "StudyTrial" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def wait_until(happened: Callable[[], bool], session: Any) -> None:
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert session.poll() is None, session.communicate()[0][-1500:]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def epochs_of(home: Path) -> int:
    path = home / "ledger.jsonl"
    return path.read_bytes().count(b'"record":"Epoch"') if path.exists() else 0


def resumed(home: Path) -> list[Resumed]:
    return [r for r in records(home / "ledger.jsonl") if isinstance(r, Resumed)]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return prepare_ground(tmp_path_factory.mktemp("nodes"))


def test_two_nodes_answer_as_one_also_when_one_is_killed(ground: Ground) -> None:
    """One trial at a time on a clock that counts epochs: no trial, curve, choice or word may differ."""
    alone = ground.begin("alone", slots=1)
    with a_cluster("") as (cluster, _):
        run_out(ground, alone, "--address", cluster.address)
    together, killed = ground.begin("together", slots=1), ground.begin("killed", slots=1)
    with a_cluster("", "") as (cluster, nodes):
        run_out(ground, together, "--address", cluster.address)
        session = ground.session(killed, "--address", cluster.address)
        wait_until(lambda: epochs_of(killed) >= 10, session)
        wait_until(lambda: any(map(trains, nodes)), session)
        cluster.remove_node(next(filter(trains, nodes)), allow_graceful=False)
        output, _ = session.communicate(timeout=LIMIT)
        assert session.returncode == 0, output[-1500:]
    check_same(together, alone)
    check_same(killed, alone)
    assert not resumed(together)
    (stretch,) = resumed(killed)  # only the trial that ran there
    assert stretch.lost <= read(killed / "ledger.jsonl").trials[stretch.trial].epochs


def test_waiting_for_a_lost_machine_is_free_and_other_kinds_are_ignored(ground: Ground) -> None:
    home = ground.begin("lost", slots=1)
    plan = Plan.load(RunDir(home).plan)
    dataclasses.replace(plan, machine=dataclasses.replace(plan.machine, kind="L4")).save(RunDir(home).plan)
    with a_cluster("L4") as (cluster, (node,)):
        session = ground.session(home, "--address", cluster.address, clocked=False)
        wait_until(lambda: epochs_of(home) >= 4, session)
        stranger = add(cluster, "H100")
        before = epochs_of(home)
        wait_until(lambda: epochs_of(home) >= before + 4 and trains(node), session)
        assert not trains(stranger)
        cluster.remove_node(node, allow_graceful=False)
        lost = time.monotonic()
        while time.monotonic() < lost + OUTAGE:
            assert not trains(stranger)
            time.sleep(0.5)
        before = epochs_of(home)
        add(cluster, "L4")
        wait_until(lambda: len(resumed(home)) == 1 and epochs_of(home) >= before + 4, session)
        assert not trains(stranger)
        session.send_signal(signal.SIGINT)
        output, _ = session.communicate(timeout=LIMIT)
        assert session.returncode == 130, output[-1500:]
    assert output.count("a node with H100 has joined, and is left alone: this study runs on L4") == 1
    (stretch,) = resumed(home)
    assert 0 < stretch.lost < OUTAGE  # unsaved epochs and the start of a new worker
