"""Start-up: seconds from Ray's grant to the first training step, on a fresh process and on a reused one.

The trials are the study's own ``StudyTrial`` on real images, started as by Tune, but without Tune's
own bookkeeping. "Fresh" counts from the request for the process to the end of a trial's first epoch, less
that epoch's own seconds; "reused" from the reset of a process that has just trained another trial.

Command:   python -m tests.bench.startup --json startup.json
"""
# ruff: noqa: T201 - a command speaks to its user

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.timing import parser, save, table
from search_spaces import load
from study.data.prepare import prepare
from study.data.sealed import Prepared
from study.execution import cluster, packing
from study.execution.messages import Assignment, Event, Message, Trained
from study.execution.trainable import StudyTrial
from study.protocol.budget import Budget
from study.protocol.plan import Plan
from study.protocol.question import Audit
from study.protocol.records import Trial, asdict

AIM = {"fresh": 12.0, "reused": 3.0}
ARMS = {"cpu": "small_resnet", "gpu": "resnet50"}


def measured(prepared: Prepared, plan: Plan, arm: str, turns: int, home: Path) -> dict[str, list[float]]:
    """Seconds of ``turns`` fresh processes, with two more trials in each."""
    import ray  # after study.execution.cluster, which sets Ray's environment
    from ray import tune

    held = cluster.resources(plan.machine, plan.machine.fraction)
    kind = tune.with_parameters(StudyTrial, plan=asdict(plan), pool=prepared.train, home=str(home))
    remote: Any = ray.remote(kind).options(num_cpus=held["CPU"], num_gpus=held.get("GPU", 0))
    found: dict[str, list[float]] = {"fresh": [], "reused": []}
    for turn in range(turns):
        asked = time.perf_counter()
        actor: Any = None
        for index in range(3):
            trial = Trial(
                id=f"t{turn}-{index}", arm=arm, phase="search", index=index, pair=0, config=load(arm).default(),
                seed=index, fold=0, epochs=3,
            )  # fmt: skip
            given = Assignment(trial=trial, epochs=0, again=False, fraction=plan.machine.fraction)
            config = given.config()
            if actor is None:
                actor = remote.remote(config=config)
            else:
                asked = time.perf_counter()
                ray.get(actor.reset_config.remote(config))
            event: Event | None = None
            while not isinstance(event, Trained):  # the first messages name the process and confirm the net
                message = Message.of(ray.get(actor.train.remote()))
                event = message.event if message else None
            trained = event.epoch.train_seconds + event.epoch.eval_seconds
            found["reused" if index else "fresh"].append(time.perf_counter() - asked - trained)
        ray.kill(actor)
    return found


def main(arguments: list[str] | None = None) -> None:
    options = parser("startup", __doc__)
    options.add_argument("--turns", type=int, default=5, help="fresh processes (default 5)")
    options.add_argument("--data", default="digits", help="as for a study (default digits)")
    given = options.parse_args(arguments)
    resource = "gpu" if torch.cuda.is_available() else "cpu"
    budget = Budget.parse(f"1{resource}-hours")
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(given.data, seed=0, root=Path("data"))
        cluster.connect(None, Path(folder) / "ray.log")
        try:
            machine = packing.ways(cluster.hardware(budget), None)[0].machine
            plan = a_plan(prepared, budget, machine, ARMS[resource])
            found = measured(prepared, plan, ARMS[resource], given.turns, Path(folder))
        finally:
            cluster.disconnect()
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    rows = [
        (
            name,
            len(found[name]),
            f"{max(found[name]):.2f}",
            f"{median:.2f}",
            f"{AIM[name]:.0f}",
            f"{median / AIM[name]:.2f}",
        )
        for name, median in medians.items()
    ]
    print(table(["process", "trials", "slowest, s", "median, s", "to reach, s", "ratio"], rows))
    save(given.json, {"seconds": found, "median": medians})


def a_plan(prepared: Prepared, budget: Budget, machine: Any, arm: str) -> Plan:
    audit = Audit(
        params=0, macs=0, images_per_second=1.0, eval_images_per_second=1.0, peak_bytes=0, startup_seconds=0.0
    )
    return Plan(
        arms=(arm,), data=prepared.card, budget=budget, epochs=3, rope=0.005, seed=0,
        train_fraction=1.0, widen=(), spaces={}, batch_sizes=(32,), audits={arm: audit}, machine=machine,
        probe_cost={arm: 0.0}, command="", versions={}, code="",
    )  # fmt: skip


if __name__ == "__main__":
    main()
