"""A schedule driven in simulated time: no Ray, no training."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from search_spaces import Arm, load
from study.protocol import levels
from study.protocol.allocation import with_length
from study.protocol.budget import Budget
from study.protocol.codec import plain
from study.protocol.history import History
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Extension, Trial
from study.scheduling.schedule import Schedule
from support.plans import PLAN

ARMS = {"tiny_resnet": load("tiny_resnet"), "tiny_resnext": load("tiny_resnext")}


SECONDS = {"tiny_resnet": 0.9, "tiny_resnext": 1.3, "third": 1.0}
"""Wall seconds of one epoch."""


def a_plan(*, minutes: float = 10, slots: int = 2, seed: int = 0) -> Plan:
    plan = dataclasses.replace(
        PLAN,
        arms=tuple(ARMS),
        audits=dict(zip(ARMS, PLAN.audits.values(), strict=True)),
        probe_cost=dict.fromkeys(ARMS, 10.0),
        budget=Budget(seconds=60 * minutes, resource="cpu"),
        machine=dataclasses.replace(PLAN.machine, slots=slots),
        batch_sizes=(32, 64, 128, 256),
        seed=seed,
    )
    return with_length(plan, 9)


def an_arm(three: Plan) -> Extension:
    """The last arm of ``three`` as an extension of the other arms' study."""
    name = three.arms[-1]
    return Extension(
        look=2, budget_seconds=three.budget.seconds, arms=(name,), pairs=0, level=levels.ADDED, declared=False, reason="asked",
        plan=plain(
            {
                "audits": {name: dataclasses.asdict(three.audits[name])},
                "spaces": {name: {}},
                "probe_cost": {name: three.probe_cost[name]},
            }
        ),
    )  # fmt: skip


def rate_of(trial: Trial) -> float:
    return float(trial.config.get("lr", 0.0)) or 30 * float(trial.config["adamw_lr"])


def accuracy_of(trial: Trial, epoch: int) -> float:
    """A rising curve; its height depends on the learning rate, its noise on the seed."""
    height = 0.9 - 0.1 * abs(np.log10(rate_of(trial)) + 1)
    noise = 0.01 * float(np.random.default_rng([trial.seed, epoch]).standard_normal())
    return float(np.clip(height * (1 - 0.5**epoch) + noise, 0, 1))


def scored(trial: Trial, epoch: int) -> float:
    """As a loss would judge it: another order than that of the accuracies."""
    return -abs(math.log10(float(trial.config["lr"])) + 1.5) - 2.0**-epoch


def diverges(trial: Trial, epoch: int) -> str:
    return "diverged: nan" if rate_of(trial) > 0.3 and epoch == 2 else ""


def play(
    plan: Plan,
    path: Path,
    *,
    fails: Callable[[Trial, int], str] = diverges,
    arms: dict[str, Arm] = ARMS,
) -> Ledger:
    """Run the whole schedule in simulated time."""
    now = [0.0]
    with Ledger(path) as ledger:
        drive(Schedule(plan, ledger, arms, clock=lambda: now[0]), now, fails)
    return ledger


def drive(
    schedule: Schedule, now: list[float], fails: Callable[[Trial, int], str], dies: Callable[[], bool] | None = None
) -> bool:  # fmt: skip
    """Run the trials: True at the end, False if the study ``dies`` at an event."""
    running: list[tuple[float, Trial, int]] = []
    while True:
        while (start := schedule.next()) is not None:
            if start.again:
                schedule.resumed(start.trial.id, start.epochs, 0.0)
            first = now[0] + SECONDS[start.trial.arm] + (0.0 if start.epochs else 0.05)
            running.append((first, start.trial, start.epochs + 1))
        if not running:
            assert schedule.done
            return True
        if dies and dies():
            return False
        running.sort(key=lambda item: item[0])
        now[0], trial, epoch = running.pop(0)
        failure = fails(trial, epoch)
        if failure:
            schedule.end(trial.id, failure)
            continue
        accuracy = accuracy_of(trial, epoch)
        goes_on = schedule.report(
            Epoch(
                trial=trial.id,
                epoch=epoch,
                train_loss=1.0,
                train_accuracy=accuracy,
                val_loss=1.0,
                val_accuracy=accuracy,
                train_seconds=SECONDS[trial.arm],
                eval_seconds=0.01,
                score=None if schedule.plan.metric == "accuracy" else scored(trial, epoch),
            )
        )
        if dies and dies():
            return False
        if goes_on and epoch < trial.epochs:
            running.append((now[0] + SECONDS[trial.arm], trial, epoch + 1))
        else:
            schedule.end(trial.id)


def all_trials(ledger: Ledger) -> list[Trial]:
    return list(ledger.trials.values())


def accuracy(history: History, trial: Trial) -> float:
    found = history.val_accuracy(trial.id)
    assert found is not None
    return found
