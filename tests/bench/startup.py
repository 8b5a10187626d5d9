"""Start-up: seconds from Ray's grant to the first training step, on a fresh process and on a reused one.

The trials are the study's own ``StudyTrial`` on real images (scikit-learn's digits), started as actors like
Tune starts them. "Fresh" counts from the request for the process to the end of a trial's first epoch, less
that epoch's own seconds; "reused" from the reset of a process that has just trained another trial.

Command:   python -m tests.bench.startup --json startup.json         (2 minutes)
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
from study import cluster, packing
from study.data import Prepared, prepare
from study.plan import Audit, Budget, Plan
from study.records import Trial, asdict
from study.worker import StudyTrial

AIM = {"fresh": 12.0, "reused": 3.0}
ARMS = {"cpu": "small_resnet", "gpu": "resnet50"}


def one(plan: Plan, pool: Any, trial: Trial, actor: Any | None) -> tuple[Any, float]:
    """The actor, and the seconds until its first training step began."""
    import ray  # after study.cluster, which sets Ray's environment

    asked = time.perf_counter()
    config = {"trial": asdict(trial)}
    if actor is None:
        held = cluster.resources(plan.machine)
        remote: Any = ray.remote(StudyTrial).options(num_cpus=held["CPU"], num_gpus=held.get("GPU", 0))
        # Tune hands the pool over as a reference to shared memory, and so does this
        actor = remote.remote(config=config, plan=asdict(plan), pool=pool)
    else:
        ray.get(actor.reset_config.remote(config))
    epoch = ray.get(actor.train.remote())["epoch"]
    return actor, time.perf_counter() - asked - epoch["train_seconds"] - epoch["eval_seconds"]


def measured(prepared: Prepared, plan: Plan, arm: str, turns: int) -> dict[str, list[float]]:
    """``turns`` fresh processes, two more trials in each."""
    import ray

    found: dict[str, list[float]] = {"fresh": [], "reused": []}
    pool = ray.put(prepared.train)
    for turn in range(turns):
        actor = None
        for index in range(3):
            trial = Trial(
                id=f"t{turn}-{index}", arm=arm, phase="search", index=index, island=0, config=load(arm).default(),
                seed=index, split_seed=0, epochs=3,
            )  # fmt: skip
            actor, seconds = one(plan, pool, trial, actor)
            found["reused" if index else "fresh"].append(seconds)
        ray.kill(actor)  # type: ignore[arg-type]  # the loop has made one
    return found


def main(arguments: list[str] | None = None) -> None:
    options = parser("startup", __doc__)
    options.add_argument("--turns", type=int, default=5, help="fresh processes (default 5)")
    given = options.parse_args(arguments)
    resource = "gpu" if torch.cuda.is_available() else "cpu"
    budget = Budget.parse(f"1{resource}-hours")
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare("digits", seed=0, root=Path(folder))
        cluster.connect(None, Path(folder) / "ray.log")
        try:
            machine = packing.ways(cluster.hardware(budget), None)[0].machine
            plan = a_plan(prepared, budget, machine, ARMS[resource])
            found = measured(prepared, plan, ARMS[resource], given.turns)
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
        arms=(arm,), data=prepared.card, budget=budget, epochs=3, rope=0.005, seed=0, val_fraction=0.1,
        train_fraction=1.0, widen=(), spaces={}, batch_sizes=(32,), audits={arm: audit}, machine=machine,
        probe_cost={arm: 0.0}, command="", versions={}, code="",
    )  # fmt: skip


if __name__ == "__main__":
    main()
