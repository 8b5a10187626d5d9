"""Scale: one driver's cost for 10 to 5,000 simultaneous trials, and their waiting time.

Driver, cluster and ledger are the study's own: ``run_trials`` with Ray Tune's controller, our schedule, searches and
ledger, on a cluster of a head and four nodes that claim to have the GPUs, with a placement group per trial. Only the
trial is simulated: it sleeps instead of training, and hundreds share a process of their node, since thousands of
processes do not fit here. Each is a ``Trainable`` that sends a real trial's messages every few seconds. The baseline
runs are synthetic, so that random slice and search begin at once, at full width.

A trial waits from its report to the driver's answer. "Trained" is the rest of the time:
the driver's waste subtracted from the GPUs. All five nodes share this machine's cores with the driver.

Command:   python -m tests.bench.scale --json scale.json
"""
# ruff: noqa: T201 - a command speaks to its user

import asyncio
import contextlib
import dataclasses
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from support.plans import PLAN
from support.schedules import ARMS

from bench.timing import parser, save, table
from study.data.images import Images
from study.execution import cluster  # sets Ray's environment, so import it before Ray
from study.execution.messages import Alive, Assignment, Began, Event, Message, Trained
from study.execution.trainable import slice_seconds
from study.execution.tune import run_trials
from study.protocol import allocation
from study.protocol.budget import Budget
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.protocol.question import Machine
from study.protocol.records import Cost, Epoch, Outcome, Record, Trial
from study.protocol.rundir import RunDir
from study.scheduling.schedule import Schedule, derive_seed
from study.scheduling.spaces import describe

import ray  # isort: skip
from ray import cloudpickle, tune  # isort: skip
from ray.air.execution.resources import placement_group as groups  # isort: skip
from ray.cluster_utils import Cluster  # isort: skip
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # isort: skip

NODES = 4
EPOCHS = 50
AIM = 0.98
"""Smallest share of the time spent training: a driver may cost a fiftieth of the GPUs."""
PATIENCE = 300.0
"""Seconds within which all trials must run, and as many for every thousand of them."""


class Played(tune.Trainable):
    """Sends the messages of ``StudyTrial`` without training."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial = Assignment.of(new_config).trial
        self._steps = -2
        dice = np.random.default_rng(self._trial.seed)
        self._height, self.pace = float(dice.uniform(0.3, 0.9)), float(dice.uniform(0.9, 1.1))
        return True

    @property
    def trains(self) -> bool:
        """Whether the next step trains; the first two only start the trial."""
        return self._steps >= 0

    def next_result(self, reports: int) -> dict[str, Any]:
        """The result of ``train``, with this many reports per epoch."""
        self._reports = reports
        result: dict[str, Any] = self.train()  # type: ignore[no-untyped-call]
        return result

    def step(self) -> dict[str, Any]:
        self._steps += 1
        return Message(trial=self._trial.id, event=self._event()).result()

    def _event(self) -> Event:
        if self._steps == -1:
            return Began(node=ray.get_runtime_context().get_node_id(), process=os.getpid())
        if self._steps <= 0 or self._steps % self._reports:
            return Alive()
        number = self._steps // self._reports
        epoch = an_epoch(self._trial, number, self._height * (1 - 0.5**number))
        return Trained(epoch=epoch, last=number == self._trial.epochs)

    def get_auto_filled_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the real one."""
        del args, kwargs
        return {}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Like the real one: writes nothing for Tune."""


class Host:
    """A process that simulates many trials, each in its own seat, with a report every ``pause`` seconds."""

    def __init__(self, pause: float, reports: int) -> None:
        self._pause, self._reports = pause, reports
        self._seats: dict[int, Played] = {}
        self._reported: dict[tuple[str, int], float] = {}
        self._sleeps: dict[int, tuple[float, float]] = {}
        """By seat: start and length of its sleep."""
        self._results, self._trained = 0, 0.0

    async def call(self, seat: int, method: str, args: Any, kwargs: Any) -> Any:
        if method == "start":
            self._seats[seat] = Played(*args, **kwargs)
        if method in ("start", "__ray_ready__"):
            return None
        played = self._seats[seat]
        if method != "train":
            return getattr(played, method)(*args, **kwargs)
        if played.trains:
            seconds = self._pause * played.pace
            self._sleeps[seat] = (time.monotonic(), seconds)
            await asyncio.sleep(seconds)
            del self._sleeps[seat]
            self._trained += seconds
        result = played.next_result(self._reports)
        self._results += 1
        message = Message.of(result)
        if message and isinstance(message.event, Trained):
            self._reported[message.trial, message.event.epoch.epoch] = time.time()
        return result

    def so_far(self) -> tuple[int, float]:
        """Number of results, and the total seconds slept by all trials."""
        now = time.monotonic()
        unfinished = sum(min(now - since, seconds) for since, seconds in self._sleeps.values())
        return self._results, self._trained + unfinished

    def reported(self) -> dict[tuple[str, int], float]:
        """The time of each trial's report of each epoch."""
        return self._reported


class _Seat:
    """Tune uses this as a trial's actor."""

    def __init__(self, host: Any, number: int) -> None:
        self._host, self._number = host, number

    def __getattr__(self, method: str) -> Any:
        return _Method(self._host, self._number, method)


@dataclasses.dataclass(frozen=True)
class _Method:
    host: Any
    seat: int
    name: str

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return self.host.call.remote(self.seat, self.name, args, kwargs)


@contextlib.contextmanager
def seated(hosts: list[Any]) -> Iterator[None]:
    """Inside, Tune starts a seat in one of the ``hosts`` in place of an actor on granted resources."""
    seats: list[_Seat] = []

    class Seated(groups.PlacementGroupAcquiredResources):
        def annotate_remote_entities(self, entities: Any) -> Any:
            del entities
            return [self]

        def remote(self, **kwargs: Any) -> _Seat:
            seats.append(_Seat(hosts[len(seats) % len(hosts)], len(seats)))
            seats[-1].start.remote(**kwargs)
            return seats[-1]

    usual = groups.PlacementGroupResourceManager._resource_cls
    groups.PlacementGroupResourceManager._resource_cls = Seated  # type: ignore[assignment]
    try:
        yield
    finally:
        groups.PlacementGroupResourceManager._resource_cls = usual


def an_epoch(trial: Trial, number: int, accuracy: float, *, seconds: float = 0.0, cost: float = 0.0) -> Epoch:
    return Epoch(
        trial=trial.id, epoch=number, train_loss=1.0, train_accuracy=accuracy, val_loss=1.0, val_accuracy=accuracy,
        train_seconds=seconds, eval_seconds=0.0, cost=cost,
    )  # fmt: skip


def a_plan(slots: int, epoch: float) -> Plan:
    """A study whose slice and search fill all slots, with epochs of this many seconds."""
    train, val = PLAN.train_images, PLAN.val_images
    audit = dataclasses.replace(
        PLAN.audits["a"], images_per_second=train / (0.9 * epoch), eval_images_per_second=val / (0.1 * epoch)
    )
    runs = 60 + 1.5 * slots  # per arm
    return dataclasses.replace(
        PLAN,
        arms=tuple(ARMS),
        audits=dict.fromkeys(ARMS, audit),
        probe_cost=dict.fromkeys(ARMS, 10.0),
        epochs=EPOCHS,
        budget=Budget(seconds=len(ARMS) * runs * EPOCHS * epoch, resource="gpu"),
        machine=Machine(resource="gpu", slots=slots, fraction=1.0, threads=1, name=f"GPU x {slots}"),
        spaces={name: describe(arm.space) for name, arm in ARMS.items()},
    )


def add_baselines(plan: Plan, ledger: Ledger, schedule: Schedule) -> None:
    for arm in plan.arms:
        ledger.add(Cost(arm=arm, phase="probe", what="speed and memory", cost=plan.probe_cost[arm]))
        for index in range(plan.folds):
            trial = Trial(
                id=f"{arm}-baseline-{index:04d}", arm=arm, phase="baseline", index=index, pair=0, epochs=plan.epochs,
                config=schedule.defaults[arm], seed=derive_seed(arm, index), fold=index,
            )  # fmt: skip
            ledger.add(trial)
            seconds = allocation.epoch_cost(plan, arm)
            for number in range(1, plan.epochs + 1):
                ledger.add(an_epoch(trial, number, 0.8, seconds=seconds, cost=number * seconds))
            cost = plan.epochs * seconds
            ledger.add(
                Outcome(trial=trial.id, state="finished", reason="full length", epochs=plan.epochs, cost=cost)
            )


class Meter:
    """Measures the study for ``seconds`` once all trials run, then stops it."""

    def __init__(self, schedule: Schedule, hosts: list[Any], processes: list[psutil.Process], seconds: float):
        self._schedule, self._hosts, self._processes, self._seconds = schedule, hosts, processes, seconds
        self._slots = schedule.plan.machine.slots
        self._opened = time.monotonic()
        self._all_run = self._settled = self._asked = 0.0
        self._before: dict[str, float] = {}
        self.found: dict[str, float] = {}
        self.window = (0.0, 0.0)
        self.written: dict[tuple[str, int], float] = {}
        self._lines = 0
        self._ours = 0.0
        schedule.ledger.watchers.append(self._wrote)
        for owner, name in (
            (schedule, "next"),
            (schedule, "report"),
            (schedule, "end"),
            (schedule.slots, "beat"),
        ):
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self._ours += time.perf_counter() - began

        return timed

    def _wrote(self, record: Record) -> None:
        self._lines += 1
        if isinstance(record, Epoch):
            self.written[record.trial, record.epoch] = time.time()

    def tick(self) -> None:
        now = time.monotonic()
        if not self._all_run:
            if len(self._schedule.ledger.open) < self._slots:
                if now > self._opened + PATIENCE * (1 + self._slots / 1000):
                    raise RuntimeError(
                        f"of {self._slots} trials {len(self._schedule.ledger.open)} run after {now - self._opened:.0f} s"
                    )
                return
            self._all_run = now
        if not self._before:
            if now < self._asked + 1:
                return
            self._asked = now
            results, _ = self._so_far()
            if results >= 2 * self._slots:  # every trial has begun
                self._before, self.window = self._now(), (time.time(), 0.0)
                self._settled = now
                self.found["seconds_to_start"] = now - self._opened
            return
        if not self.found.get("seconds") and now > self._settled + self._seconds:
            after = self._now()
            self.found |= {name: after[name] - self._before[name] for name in after}
            self.window = (self.window[0], time.time())

    @property
    def done(self) -> bool:
        return "seconds" in self.found

    def _so_far(self) -> tuple[int, float]:
        each = ray.get([host.so_far.remote() for host in self._hosts])
        return sum(results for results, _ in each), sum(trained for _, trained in each)

    def _now(self) -> dict[str, float]:
        results, trained = self._so_far()
        driver = psutil.Process().cpu_times()
        own = [p.cpu_times() for p in self._processes]
        return {
            "seconds": time.monotonic(),
            "results": results,
            "trained": trained,
            "lines": self._lines,
            "ours": self._ours,
            "driver": driver.user + driver.system,
            "ray": sum(times.user + times.system for times in own),
        }


def measure(nodes: Any, slots: int, *, pause: float, reports: int, seconds: float) -> dict[str, float]:
    """Measure ``slots`` trials on ``nodes``, each with a report every ``pause`` seconds, ``reports`` per epoch."""
    plan = a_plan(slots, pause * reports)
    workers = [n for n in nodes.list_all_nodes() if n is not nodes.head_node]
    kind: Any = ray.remote(Host)
    hosts = [
        kind.options(num_cpus=0, max_concurrency=100_000, scheduling_strategy=_on(node)).remote(
            pause, reports
        )
        for node in workers
    ]
    processes = [
        psutil.Process(each.process.pid)
        for node in nodes.list_all_nodes()
        for name, several in node.all_processes.items()
        if name in ("gcs_server", "raylet")
        for each in several
    ]
    ray.get([host.so_far.remote() for host in hosts])
    with tempfile.TemporaryDirectory() as folder, Ledger(RunDir(Path(folder)).ledger) as ledger:
        schedule = Schedule(plan, ledger, ARMS)
        add_baselines(plan, ledger, schedule)
        meter = Meter(schedule, hosts, processes, seconds)
        pool = Images(pixels=np.zeros((1, 1, 1, 1), np.uint8), labels=np.zeros(1, np.int64))
        with seated(hosts):
            run_trials(schedule, pool, RunDir(Path(folder)), meter.tick, lambda: meter.done, print)
        memory = psutil.Process().memory_info().rss
        reported: dict[tuple[str, int], float] = {}
        for host in hosts:
            reported |= ray.get(host.reported.remote())
            ray.kill(host)
    first, last = meter.window
    lags = [
        when - reported[key]
        for key, when in meter.written.items()
        if key in reported and first <= when <= last
    ]
    found = meter.found
    return {
        "trials": slots,
        "results_per_second": found["results"] / found["seconds"],
        "lines_per_second": found["lines"] / found["seconds"],
        "driver_ms_per_result": 1e3 * found["driver"] / found["results"],
        "of_which_schedule_ms": 1e3 * found["ours"] / found["results"],
        "driver_cores": found["driver"] / found["seconds"],
        "ray_cores": found["ray"] / found["seconds"],
        "driver_mib": memory / 2**20,
        "lag_ms": 1e3 * float(np.median(lags)),
        "lag_p99_ms": 1e3 * float(np.quantile(lags, 0.99)),
        "seconds_to_start": found["seconds_to_start"],
        "trained": found["trained"] / (slots * found["seconds"]),
    }


def _on(node: Any) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id=node.node_id, soft=False)


@contextlib.contextmanager
def a_cluster(nodes: int, gpus: int, log: Path) -> Iterator[Any]:
    """A head without GPUs, and nodes that claim ``gpus`` in total; this process is connected to it."""
    small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**small, "num_gpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            made.add_node(**small, num_gpus=-(-gpus // nodes))
        cluster.connect(made.address, log)
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]  # the nodes have no tests/
        try:
            yield made
        finally:
            cluster.disconnect()
    finally:
        made.shutdown()  # type: ignore[no-untyped-call]


def main(arguments: list[str] | None = None) -> None:
    options = parser("scale", __doc__)
    options.add_argument(
        "--trials", type=int, nargs="+", default=[10, 100, 1000, 5000], help="at the same time"
    )
    options.add_argument(
        "--report", type=float, help="seconds between a trial's reports (default: the study's, 5 to 8)"
    )
    options.add_argument("--reports", type=int, default=6, help="per epoch (default 6)")
    options.add_argument(
        "--seconds", type=float, default=60.0, help="measured, per number of trials (default %(default)g)"
    )
    given = options.parse_args(arguments)
    pauses = {slots: given.report or slice_seconds(slots) for slots in given.trials}
    if given.seconds < 1.2 * max(pauses.values()) * given.reports:
        options.error(
            "--seconds: every trial must tell an epoch meanwhile (--report x --reports, and a fifth)"
        )
    found: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        a_cluster(NODES, max(given.trials), Path(folder) / "ray.log") as nodes,
    ):
        for slots in given.trials:
            found.append(
                measure(nodes, slots, pause=pauses[slots], reports=given.reports, seconds=given.seconds)
            )
            save(given.json, {"found": found})
    header = ["trials", "started in, s", "results/s", "ledger lines/s", "driver ms/result", "of it schedule", "driver, cores",
              "Ray's, cores", "driver MiB", "lag ms", "lag p99 ms", "trained", "to reach", "ratio"]  # fmt: skip
    rows = [
        [
            f["trials"], *(f"{f[name]:.1f}" for name in (
                "seconds_to_start", "results_per_second", "lines_per_second", "driver_ms_per_result", "of_which_schedule_ms")),
            f"{f['driver_cores']:.2f}", f"{f['ray_cores']:.2f}", *(f"{f[name]:.0f}" for name in ("driver_mib", "lag_ms", "lag_p99_ms")),
            f"{f['trained']:.3f}", AIM, f"{f['trained'] / AIM:.2f}",
        ]
        for f in found
    ]  # fmt: skip
    print(table(header, rows))


if __name__ == "__main__":
    main()
