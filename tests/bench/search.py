"""The search against stock Ray Tune, on the same arms, images, cores and resource-seconds.

Stock has the shape of Ray's own CIFAR example (docs, "How to use Tune with PyTorch"): one joint space, here with
the arm as one more choice, one ASHAScheduler, one OptunaSearch, a function that trains and reports each epoch with
a checkpoint. It trains the study's own core, so that only the search differs; ASHA has the
same first rung and reduction, and Tune's loggers and snapshots are off on both sides. A study searches first, from
its own baseline runs on; Tune then gets the total resource-seconds of both arms' searches.

A trial holds its slot from the moment the slot was free, so including the start of its process, to its end.

Command:   python -m tests.bench.search --json search.json           (half of 9 core-minutes for each search: 6 minutes)
"""
# ruff: noqa: T201 - a command speaks to its user

import heapq
import math
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.execution import cluster  # sets Ray's environment, so import it before Ray

# isort: split
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from bench.timing import parser, save, table
from search_spaces import Arm, Choice, Config, Float, Int, load
from study import planning
from study.cli import parse
from study.data.images import Images
from study.data.prepare import prepare
from study.execution.tune import run_trials
from study.protocol.allocation import REDUCTION
from study.protocol.errors import InputError
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Outcome, Record, Trial, asdict
from study.protocol.rundir import RunDir
from study.scheduling.schedule import Schedule
from study.scheduling.spaces import searched
from study.training.device import device_of
from study.training.trial import start


@dataclass
class Held:
    """A trial while it held a slot, in its side's own clock."""

    arm: str
    began: float
    ended: float = math.inf
    trained: float = 0.0
    """Seconds of its epochs and their evaluation."""
    full: bool = False
    """Whether it trained to its full length."""
    accuracy: float = math.nan
    """Accuracy on its validation images after its last epoch."""
    counts: bool = True
    """Whether it belongs to the search, and not to another phase at that time."""


def study_search(plan: Plan, arms: Mapping[str, Arm], pool: Images, home: Path) -> tuple[list[Held], float]:
    """Run a study from its baseline runs to the end of its search. Returns trials and the search's resource-seconds."""
    trials: dict[str, Held] = {}

    def watch(record: Record) -> None:
        now = time.monotonic()
        match record:
            case Trial():
                trials[record.id] = Held(record.arm, now, counts=record.phase in ("slice", "search"))
            case Epoch():
                held = trials[record.trial]
                held.trained += record.train_seconds + record.eval_seconds
                held.full, held.accuracy = record.epoch == plan.epochs, record.val_accuracy
            case Outcome():
                trials[record.trial].ended = now
            case _:
                pass

    with Ledger(RunDir(home).ledger) as ledger:
        ledger.watchers.append(watch)
        schedule = Schedule(plan, ledger, arms)
        run_trials(
            schedule,
            pool,
            RunDir(home),
            lambda: None,
            lambda: all(ledger.of(arm, "select") for arm in plan.arms),
            print,
        )
        assert ledger.tuning is not None
        return list(trials.values()), ledger.tuning.per_arm * len(plan.arms)


def stock_search(
    plan: Plan, arms: Mapping[str, Arm], pool: Images, home: Path, seconds: float, *, reuse: bool
) -> list[Held]:
    """Run stock Ray Tune for these resource-seconds. Returns its trials. ``reuse`` is Tune's ``reuse_actors``."""
    os.environ.pop("TUNE_MAX_PENDING_TRIALS_PG", None)  # as the study sets it
    machine, watch = plan.machine, _Watch(plan.epochs)
    held = tune.PlacementGroupFactory([cluster.resources(machine, machine.fraction)])
    tune.Tuner(
        tune.with_resources(tune.with_parameters(train, plan=asdict(plan), pool=pool), held),
        param_space=joint_space(plan, arms),
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            search_alg=OptunaSearch(seed=plan.seed),
            scheduler=ASHAScheduler(
                max_t=plan.epochs,
                grace_period=(plan.rungs or (plan.epochs,))[0],
                reduction_factor=REDUCTION,
            ),
            num_samples=-1,
            time_budget_s=seconds / (machine.slots * machine.fraction),
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(name="stock", storage_path=str(home), callbacks=[watch], verbose=0),
    ).fit()
    trials = sorted(watch.trials.values(), key=lambda trial: trial.began)
    free = [watch.began] * machine.slots
    for trial in trials:
        trial.ended = min(trial.ended, watch.ended)  # the time is up: Tune ends it in mid-run
        trial.began = heapq.heapreplace(free, trial.ended)
    return trials


def train(config: dict[str, Any], plan: dict[str, Any], pool: Images) -> None:
    """Train a net of the joint space and report each epoch with a checkpoint, as in Ray's example."""
    asked, space = Plan.from_dict(plan), load(config["arm"]).space
    own: Config = {}
    for name, axis in space.items():
        if axis.active(own):
            own[name] = config[name]
    trial = Trial(
        id=tune.get_context().get_trial_id(), arm=config["arm"], phase="search", index=0, pair=0, config=own,
        seed=zlib.crc32(repr(sorted(config.items())).encode()), fold=0, epochs=asked.epochs,
    )  # fmt: skip
    net, epochs = start(asked, trial, pool, device_of(asked.machine))
    trained = 0.0
    for epoch in epochs:
        trained += epoch.train_seconds + epoch.eval_seconds
        with tempfile.TemporaryDirectory() as folder:
            torch.save(net.state_dict(), Path(folder) / "checkpoint.pt")
            checkpoint = tune.Checkpoint.from_directory(folder)
            tune.report({"accuracy": epoch.val_accuracy, "trained": trained}, checkpoint=checkpoint)


def joint_space(plan: Plan, arms: Mapping[str, Arm]) -> dict[str, Any]:
    """The arm and all axes of all arms; axes that the drawn arm lacks are drawn too."""
    space: dict[str, Any] = {"arm": tune.choice(list(arms))}
    for arm in arms.values():
        for name, axis in searched(arm.space, plan.batch_sizes, ()).items():
            match axis:
                case Choice():
                    space[name] = tune.choice(list(axis.options))
                case Float():
                    space[name] = (tune.loguniform if axis.log else tune.uniform)(axis.low, axis.high)
                case Int():
                    space[name] = (tune.lograndint if axis.log else tune.randint)(axis.low, axis.high + 1)
    return space


class _Watch(tune.Callback):
    """Records each trial's start, end and last report."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self.trials: dict[str, Held] = {}
        self.began = self.ended = 0.0

    def setup(
        self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any
    ) -> None:
        del stop, num_samples, total_num_samples, info
        self.began = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        self.trials[trial.trial_id] = Held(trial.config["arm"], time.monotonic())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        del iteration, trials, info
        held = self.trials[trial.trial_id]
        held.trained, held.accuracy = result["trained"], result["accuracy"]
        held.full = result["training_iteration"] == self._epochs

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        self.trials[trial.trial_id].ended = time.monotonic()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.on_trial_complete(iteration, trials, trial, **info)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        del trials, info
        self.ended = time.monotonic()


def summary(trials: Sequence[Held], arms: Sequence[str], slots: int) -> dict[str, float]:
    """The use of a search's slots, from its first trial's start to its last one's end.

    Overhead is the median trial's time beyond its epochs and their evaluation.
    """
    own = [trial for trial in trials if trial.counts]
    began, ended = min(t.began for t in own), max(t.ended for t in own)
    held = sum(max(0.0, min(t.ended, ended) - max(t.began, began)) for t in trials)
    spent = {arm: sum(t.ended - t.began for t in own if t.arm == arm) for arm in arms}
    found: dict[str, float] = {"trials": len(own), "full runs": sum(t.full for t in own)}
    for arm in arms:
        full = [t.accuracy for t in own if t.arm == arm and t.full]
        found[f"full runs of {arm}"] = len(full)
        found[f"share of {arm}, %"] = 100 * spent[arm] / sum(spent.values())
        found[f"best full run of {arm}, %"] = 100 * max(full, default=math.nan)
    slot_time = slots * (ended - began)
    return {
        **found,
        "slots idle, % of their time": 100 * (1 - held / slot_time),
        "training + evaluation, % of held": 100 * sum(t.trained for t in own) / sum(spent.values()),
        "overhead per trial, s": statistics.median(t.ended - t.began - t.trained for t in own),
    }


def main(arguments: list[str] | None = None) -> None:
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    options = parser("search", __doc__)
    options.add_argument(
        "--budget",
        default=f"9{kind}-minutes",
        help="of the study, half of it for its search (default %(default)s)",
    )
    options.add_argument("--data", default="digits", help="as for a study (default digits)")
    options.add_argument("--arms", help="as for a study")
    options.add_argument("--seed", type=int, default=0, help="default 0")
    options.add_argument(
        "--reuse-actors", action="store_true", help="let Tune keep its processes, which its example does not"
    )
    given = options.parse_args(arguments)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "study"
        asked = parse([
            "--budget", given.budget, "--data", given.data, "--seed", str(given.seed), "--out", str(home),
            *(["--arms", given.arms] if given.arms else []),
        ])  # fmt: skip
        prepared = prepare(asked.data, seed=asked.seed, root=Path("data"))
        arms = {name: load(name) for name in asked.arms}
        cluster.connect(None, home / "ray.log")
        try:
            try:
                plan = planning.make_plan(asked, arms, prepared, home, {})
            except InputError as error:
                options.error(str(error))
            ours, seconds = study_search(plan, arms, prepared.train, home)
            took = time.perf_counter() - began
            print(
                f"{seconds / 60:.1f} {kind}-minutes for each search; the study's is over after {took:.0f} s",
                flush=True,
            )
            reuse = given.reuse_actors
            stock = stock_search(plan, arms, prepared.train, Path(folder), seconds, reuse=reuse)
        finally:
            cluster.disconnect()
    sides = {"stock": stock, "ours": ours}
    found = {name: summary(trials, plan.arms, plan.machine.slots) for name, trials in sides.items()}
    rows = [
        (
            name,
            f"{theirs:.2f}",
            f"{(our := found['ours'][name]):.2f}",
            f"{our / theirs:.2f}" if theirs else "-",
        )
        for name, theirs in found["stock"].items()
    ]
    slots = f"{plan.epochs} epochs a full run, {plan.machine.slots} slots"
    print(table([slots, "stock Ray Tune", "the study", "ratio"], rows))
    save(given.json, {"resource_seconds": seconds, "epochs": plan.epochs, "reuse_actors": reuse, **found})
    print(f"measured in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
