"""Ray: start or join it, ship the code, run tasks and trials on fractions of its resources.

Ray Tune is the executor; it decides nothing. Its searcher asks the Schedule what to start, its
stopper whether a trial goes on, and its callback tells when a trial began and ended. Nothing of
Tune's own state is ever restored: the ledger is the truth.
"""

import collections
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

# Ray reads these when it is imported.
os.environ.update(
    {
        "RAY_AIR_NEW_OUTPUT": "0",  # our own live view instead of Tune's tables
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger has it all
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it keeps the ledger
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's snapshots are never read
        "TUNE_RESULT_BUFFER_LENGTH": "1",
        "TUNE_WARN_THRESHOLD_S": "10",
    }
)
if (
    os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    or (Path.home() / ".ray" / "auth_token").exists()
):
    # A token is presented only in this mode; a cluster that needs none takes no notice of it.
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import search_spaces
import study
from study.confirm import StudyError
from study.data import Images
from study.packing import Hardware
from study.plan import Budget, Machine
from study.records import Epoch, asdict
from study.schedule import Schedule
from study.worker import WEIGHTS, StudyTrial, first_line

TRIALS = "checkpoints"
Result = TypeVar("Result")


class ClusterError(StudyError):
    """Ray cannot be started or joined, or has not what the budget asks for."""


def connect(address: str | None, log: Path) -> str:
    """Start Ray on this machine, or join the cluster at ``address``; the dashboard's URL, or "".

    All of Ray's own messages go to ``log``. Raises ClusterError when Ray does not come up.
    """
    handler = logging.FileHandler(log)
    for name in ("ray", "ray.tune", "ray.data", "ray._private", "ray.util"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    if address:
        _knock(address)
    modules = [str(Path(m.__path__[0])) for m in (study, search_spaces)]
    try:
        context = ray.init(
            address=address or "local",
            runtime_env={"py_modules": modules},  # code only, addressed by content
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
            include_dashboard=None if address else True,
            dashboard_host="127.0.0.1",
        )
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
        hint = (
            "is it running, and does this machine have its token (RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)?"
            if address
            else f"its messages are in {log}"
        )
        raise ClusterError(
            f"Ray cannot be {'reached at ' + address if address else 'started'}: {first_line(error) or type(error).__name__}; {hint}"
        ) from error
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""


def _knock(address: str) -> None:
    """Raises ClusterError when nothing listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"--address {address!r} is no HOST:PORT, as in 127.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"Ray cannot be reached at {address}: {error}. Start it there with: ray start --head"
        ) from error


def disconnect() -> None:
    """Stop the Ray that ``connect`` started, or leave the one it joined."""
    ray.shutdown()


def hardware(budget: Budget) -> Hardware:
    """What the cluster has for the budget. Raises ClusterError when it has nothing."""
    resource = budget.resource.upper()
    all_nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [n["Resources"] for n in all_nodes if n["Alive"] and n["Resources"].get(resource, 0) >= 1]
    if not nodes:
        raise ClusterError(f"the cluster has no {resource}, but the budget is {budget}")
    units = sum(int(node[resource]) for node in nodes)
    kinds = sorted({k.removeprefix("accelerator_type:") for n in nodes for k in n if k.startswith("accel")})
    name = ", ".join(kinds) if budget.resource == "gpu" and kinds else f"{resource} x {units}"
    cores = tuple(max(1, int(node.get("CPU", 1))) for node in nodes)
    return Hardware(resource=budget.resource, units=units, cores=cores, name=name)


def resources(machine: Machine) -> dict[str, float]:
    """What one trial or task holds, in Ray's words."""
    if machine.resource == "cpu":
        return {"CPU": machine.fraction}
    return {"GPU": machine.fraction, "CPU": 0}


@contextlib.contextmanager
def side_by_side(kind: type, copies: int, have: Hardware) -> Iterator[list[Any]]:
    """That many actors of ``kind`` on one GPU, or on the cores of the smallest node, which hold all of it."""
    cores = min(have.cores)
    whole = {"CPU": float(cores)} if have.resource == "cpu" else {"GPU": 1.0}
    group = placement_group([whole])
    held = {"num_cpus": 0, "num_gpus": int(10_000 / copies) / 10_000}
    if have.resource == "cpu":
        held = {"num_cpus": cores // copies, "num_gpus": 0}
    placed = PlacementGroupSchedulingStrategy(group)
    remote: Any = ray.remote(kind).options(**held, scheduling_strategy=placed, max_restarts=0)
    actors = [remote.remote() for _ in range(copies)]
    try:
        yield actors
    finally:
        for one in actors:
            ray.kill(one)
        remove_placement_group(group)


def run_tasks(
    function: Callable[..., Result], jobs: Iterable[tuple[str, tuple[Any, ...]]], machine: Machine
) -> Iterator[tuple[str, Result, float]]:
    """Run ``function(*args)`` for every job, one per slot at a time: (key, result, resource-seconds held).

    A job is held from when a slot is free for it to its end, start-up of its process included.
    """
    held = resources(machine)
    remote = ray.remote(function).options(num_cpus=held["CPU"], num_gpus=held.get("GPU", 0), max_retries=0)
    waiting = collections.deque(jobs)
    running: dict[Any, tuple[str, float]] = {}
    while waiting or running:
        while waiting and len(running) < machine.slots:
            key, args = waiting.popleft()
            running[remote.remote(*args)] = (key, time.monotonic())
        (done,), _ = ray.wait(list(running), num_returns=1)
        key, since = running.pop(done)
        seconds = (time.monotonic() - since) * machine.fraction
        yield key, ray.get(done), seconds


def run_trials(schedule: Schedule, pool: Images, out: Path, tick: Callable[[], None]) -> dict[str, Path]:
    """Run the study's trials to the end in one Tune experiment; where each kept net's weights lie.

    ``tick`` is called after every event. Raises StudyError when the study cannot be finished.
    """
    plan = schedule.plan
    runner = _Runner(schedule, tick)
    held = resources(plan.machine)
    trainable = tune.with_resources(
        tune.with_parameters(StudyTrial, plan=asdict(plan), pool=pool),
        tune.PlacementGroupFactory([held]),
    )
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(plan.machine.slots)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Asks(schedule, runner),
            scheduler=_KeepsWorkers(plan.machine.slots),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=TRIALS,
            storage_path=str(out.resolve()),
            stop=_Stops(schedule),
            callbacks=[runner],
            # Only what is asked for is saved: the nets that will be scored. A failed trial has no net.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except tune.TuneError as error:
        cause = str(error.__cause__ or error).strip().splitlines()
        raise StudyError(f"Ray Tune stopped: {cause[-1]} (more in the run's ray.log)") from error
    if runner.error is not None:
        raise runner.error
    return runner.weights


def _name(trial: Any) -> str:
    return str(trial.config["trial"]["id"])


class _Asks(Searcher):
    """Tune asks for the next trial: ours, or none yet, or that the study is over."""

    def __init__(self, schedule: Schedule, runner: "_Runner") -> None:
        super().__init__()
        self._schedule = schedule
        self._runner = runner

    def suggest(self, trial_id: str) -> Any:
        del trial_id  # Ray's own; ours is in the record
        try:
            trial = self._schedule.next()
        except StudyError as error:
            self._runner.error = error
            return Searcher.FINISHED
        if trial is not None:
            return {"trial": asdict(trial)}
        return Searcher.FINISHED if self._schedule.done else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The runner has booked it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing of ours lives in Tune's state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing of ours lives in Tune's state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _KeepsWorkers(FIFOScheduler):
    """First come, first served; and keeps one idle worker per slot.

    Between two phases all slots fall idle for a moment, and Tune (2.60) then ends all idle workers but
    one. The new one is not up before the last one is free again and takes its trial, so that from then
    on trials shorter than a start-up run one at a time. The cache's limit is raised instead; where a
    version of Ray has no such cache, only speed is lost.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        controller = getattr(tune_controller, "_tune_controller", None)
        cache = getattr(controller, "_actor_cache", None)
        if self._slots and cache is not None and hasattr(cache, "increase_max"):
            cache.increase_max(trial.placement_group_factory, self._slots)
            self._slots = 0
        super().on_trial_add(tune_controller, trial)


class _Stops(tune.Stopper):
    """The first of ours to see a result: books the epoch and says whether the trial stops here."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id
        if "epoch" not in result:
            return bool(result.get("done"))
        return not self._schedule.report(Epoch(**result["epoch"]))

    def stop_all(self) -> bool:
        return False  # True would tear running trials down instead of letting them end

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Runner(tune.Callback):
    """Books how trials end, remembers where weights were put, and keeps the live view alive."""

    def __init__(self, schedule: Schedule, tick: Callable[[], None]) -> None:
        self._schedule = schedule
        self._tick = tick
        self.weights: dict[str, Path] = {}
        self.error: StudyError | None = None

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        del iteration, trials, info
        self.weights[_name(trial)] = Path(checkpoint.path) / WEIGHTS

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        self._schedule.end(_name(trial), (trial.last_result or {}).get("failure", ""))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        reason = str(trial.get_error() or "the worker died").strip().splitlines()
        self._schedule.end(_name(trial), f"error: {reason[-1][:300]}")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        del iteration, trials, info
        self._tick()

    def __getstate__(self) -> dict[str, Any]:
        return {}
