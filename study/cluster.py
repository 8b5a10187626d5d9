"""Ray: start or join it, ship the code, run tasks and trials on fractions of its resources.

Ray Tune is the executor; it decides nothing. Its searcher asks the Schedule what to start, its
stopper whether a trial goes on, and its callback tells when a trial began and ended. Nothing of
Tune's own state is ever restored: the ledger is the truth.
"""

import collections
import itertools
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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

import ray
import ray.exceptions
from ray import tune
from ray._private import ray_constants
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.execution import tune_controller
from ray.tune.result import SHOULD_CHECKPOINT
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

import search_spaces
import study
from study import checkpoint
from study.confirm import SCORED_PHASES, StudyError
from study.data import Images
from study.ledger import LedgerError
from study.mirror import Mirror
from study.packing import Hardware
from study.plan import Budget, Machine
from study.records import Epoch, asdict, setting
from study.schedule import LossKind, Schedule
from study.worker import StudyTrial, first_line, told

TUNES_OWN = ".tune"
"""Where Tune keeps its state while it runs; what we keep of a trial lies in the ledger and its checkpoint."""
WAIT_SECONDS = 1200
"""So long machines of a cluster that grows may take to come."""
LEAVE_SECONDS = 15.0
"""So long running trials may take to write their checkpoints when the study stops."""
VAIN = 12
"""So many workers in a row that never began, over some minutes, and the study stops."""
KIND = "accelerator_type:"
"""Ray's resource of a node that says what kind of GPU it has; every use takes a thousandth, as Ray's own do."""
NODES_SECONDS = 30.0
"""Between two looks at which nodes have joined."""
SIGN_SECONDS = 1.0
"""Between two looks at who is silent: with a thousand trials a look takes as long as a result."""
DISK_SECONDS = 5.0
DISK_FLOOR = 200 * 2**20
"""Free bytes under which the study stops while it still can in order."""
Result = TypeVar("Result")


class ClusterError(StudyError):
    """Ray cannot be started or joined, or has not what the budget asks for."""


def connect(address: str | None, log: Path) -> str:
    """Start Ray on this machine, or join the cluster at ``address``; the dashboard's URL, or "".

    All of Ray's own messages go to ``log``. Raises ClusterError when Ray does not come up.
    """
    hang_up = signal.signal(
        signal.SIGHUP, signal.SIG_IGN
    )  # inherited: a closed terminal does not take Ray with it
    handler = _QuietHandler(log)
    for name in ("ray", "ray.tune", "ray.data", "ray._private", "ray.util"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    if address:
        _knock(address)
        _match_token_mode(address)
    else:
        _keep_token_private()
    _stay_on_loopback(wanted=not address)
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
    finally:
        signal.signal(signal.SIGHUP, hang_up)
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""


class _QuietHandler(logging.FileHandler):
    """A disk that is full is told by the study, once; not by every message that cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # logging's own name
        """Nothing: see above."""


def _stay_on_loopback(*, wanted: bool) -> None:
    """Have every port of a local Ray on 127.0.0.1, dashboard, metrics and gRPC alike.

    Left alone, Ray (2.60) takes the machine's outer address on Linux, replaces a loopback ``_node_ip_address`` by it,
    and then listens on all interfaces. On macOS and Windows it keeps to loopback unless this switch is on.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = str(
        int(not wanted)
    )  # for the processes it starts
    ray_constants.ENABLE_RAY_CLUSTER = not wanted  # in this one, where it has been read


def _match_token_mode(address: str) -> None:
    """Present a token only to a cluster that asks for one: its calls to us carry one or none, as ours must.

    In the wrong mode the cluster takes this driver for dead, and ends every worker that it asks for. Which
    one it is, only a process without a token can find out.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    asks = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).cluster_id"
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [sys.executable, "-c", asks, address], env=environment, capture_output=True, timeout=30, check=False
        )  # fmt: skip
        os.environ["RAY_AUTH_MODE"] = "token" if done.returncode else "disabled"
        Config.initialize("")


def _keep_token_private() -> None:
    """Have a token for Ray that only this user can read: Ray (2.60) itself would make one that all users can."""
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # Ray says what it lacks
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            path.chmod(0o600)
        else:
            with os.fdopen(file, "w") as stream:
                stream.write(secrets.token_hex(32))


def _knock(address: str) -> None:
    """Raises ClusterError when nothing listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise ClusterError(f"--address {address!r} is no HOST:PORT, as in 127.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ClusterError(
            f"Ray cannot be reached at {address}: {error}. Start it there with: ray start --head"
        ) from error


def disconnect() -> None:
    """Stop the Ray that ``connect`` started, or leave the one it joined."""
    ray.shutdown()


def hardware(budget: Budget) -> Hardware:
    """What the cluster has for the budget. Raises ClusterError when it has nothing, or GPUs of several kinds."""
    resource = budget.resource.upper()
    nodes = list(_nodes(resource).values())
    if not nodes:
        raise ClusterError(f"the cluster has no {resource}, but the budget is {budget}")
    units = sum(int(node[resource]) for node in nodes)
    kind = _one_kind(nodes) if budget.resource == "gpu" else ""
    cores = tuple(max(1, int(node.get("CPU", 1))) for node in nodes)
    return Hardware(
        resource=budget.resource, units=units, cores=cores, name=kind or f"{resource} x {units}", kind=kind
    )


def _nodes(resource: str) -> dict[str, dict[str, float]]:
    """What each running node that has at least one GPU, or CPU core, has of everything; by the node's id."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {n["NodeID"]: n["Resources"] for n in nodes if n["Alive"] and n["Resources"].get(resource, 0) >= 1}


def _kind(node: dict[str, float]) -> str:
    """Of its GPUs, as Ray calls it; empty where Ray reports none."""
    return min((name.removeprefix(KIND) for name in node if name.startswith(KIND)), default="")


def _one_kind(nodes: list[dict[str, float]]) -> str:
    """Raises ClusterError when there are several."""
    units: collections.Counter[str] = collections.Counter()
    for node in nodes:
        units[_kind(node)] += int(node["GPU"])
    if len(units) > 1:
        there = ", ".join(
            f"{count} {kind or 'of a kind unknown to Ray'}" for kind, count in sorted(units.items())
        )
        raise ClusterError(
            f"the cluster has GPUs of several kinds ({there}), and run times on two kinds do not compare: "
            "the arms' budgets would buy different amounts. Take out the nodes of all kinds but one, or start "
            "them with --num-gpus=0"
        )
    return next(iter(units))


def wait_for(units: int, resource: str) -> None:
    """Wait until the cluster has so many GPUs or CPU cores; one that grows starts machines for it.

    Before the plan is made, since a study is planned with what is there. Raises ClusterError when they do not
    come. The wish ends here, or with this process: nothing keeps machines running for it.
    """
    wish = placement_group([{resource.upper(): 1.0}] * units)
    try:
        if not wish.wait(timeout_seconds=WAIT_SECONDS):
            have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            raise ClusterError(
                f"--wait-for {units}: after {WAIT_SECONDS / 60:.0f} minutes the cluster has "
                f"{have.get(resource.upper(), 0):g} {resource.upper()}s (`ray status` on its head says why)"
            )
    finally:
        remove_placement_group(wish)


def check(machine: Machine) -> None:
    """Raises ClusterError when the cluster has less than a study that goes on was planned with."""
    needed, resource = machine.slots * machine.fraction, machine.resource.upper()
    have = sum(n[resource] for n in _nodes(resource).values() if machine.kind in ("", _kind(n)))
    if have + 1e-9 < needed:
        raise ClusterError(
            f"the study was planned with {needed:g} {resource}s ({machine.name}), and {have:g} are here: "
            "costs and run times would no longer compare. Go on where there are as many, or start a new study"
        )


def resources(machine: Machine, fraction: float) -> dict[str, float]:
    """What a trial or task that holds ``fraction`` of a GPU or CPU core holds, in Ray's words."""
    held = {"CPU": fraction} if machine.resource == "cpu" else {"GPU": fraction, "CPU": 0}
    return {**held, f"{KIND}{machine.kind}": 0.001} if machine.kind else held


@contextmanager
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

    A job is held from when a slot is free for it to its end, start-up of its process included. Raises StudyError
    when one fails, or loses its worker three times.
    """
    held = resources(machine, machine.fraction)
    cpus, gpus = held.pop("CPU"), held.pop("GPU", 0)
    remote = ray.remote(function).options(num_cpus=cpus, num_gpus=gpus, resources=held, max_retries=3)
    waiting = iter(jobs)  # one that brings a net along is made when a slot is free for it
    running: dict[Any, tuple[str, float]] = {}
    while True:
        for key, args in itertools.islice(waiting, machine.slots - len(running)):
            running[remote.remote(*args)] = (key, time.monotonic())
        if not running:
            return
        (done,), _ = ray.wait(list(running), num_returns=1)
        key, since = running.pop(done)
        seconds = (time.monotonic() - since) * machine.fraction
        try:
            result = ray.get(done)
        except ray.exceptions.RayError as error:
            raise StudyError(f"the task {function.__name__}({key}) failed: {last_line(error)}") from error
        yield key, result, seconds


def last_line(error: object) -> str:
    """What was wrong, of an error that Ray brings with its whole traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return told(lines[-1].strip()) if lines else "no reason given"


def run_trials(
    schedule: Schedule,
    pool: Images,
    out: Path,
    tick: Callable[[], None],
    leaving: Callable[[], bool],
    say: Callable[[str], None],
    mirror: Mirror | None = None,
) -> None:
    """Run the study's trials to the end in one Tune experiment.

    ``tick`` is called after every event, ``say`` with a sentence for the user. When ``leaving`` turns true, every
    running trial writes a checkpoint and stops, and the call returns. With a ``mirror`` the workers see its URI
    instead of the folder ``out``. Raises StudyError or LedgerError when the study cannot be finished.
    """
    plan = schedule.plan
    (out / checkpoint.FOLDER).mkdir(exist_ok=True)
    runner = _Runner(schedule, out, tick, leaving, say, mirror)
    home = mirror.uri if mirror else str(out.resolve())
    if schedule.done:
        return
    trainable = tune.with_resources(
        tune.with_parameters(StudyTrial, plan=asdict(plan), pool=pool, home=home),
        lambda config: tune.PlacementGroupFactory([resources(plan.machine, config["fraction"])]),
    )
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(plan.machine.slots)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Asks(schedule, runner),
            scheduler=_KeepsWorkers(plan.machine.slots, runner),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_title,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=TUNES_OWN,
            storage_path=str(out.resolve()),
            stop=_Stops(runner),
            callbacks=[runner],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),  # the schedule decides on another try
            verbose=0,
        ),
    )
    vars(tune_controller)["RayActorManager"] = _SurvivesMemoryKills
    try:
        tuner.fit()
    except tune.TuneError as error:
        if not runner.leaving():
            cause = str(error.__cause__ or error).strip().splitlines()
            raise StudyError(f"Ray Tune stopped: {cause[-1]} (more in ray.log)") from error
    finally:
        with suppress(LedgerError):  # which has been told before
            schedule.leave()
        shutil.rmtree(out / TUNES_OWN, ignore_errors=True)
    if runner.error is not None:
        raise runner.error


def _name(trial: Any) -> str:
    config = trial.config
    return f"{config['trial']['id']}.{config['try']}" if config["try"] else str(config["trial"]["id"])


@ray.remote(num_cpus=0, max_retries=0)
def _end_process(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _title(trial: Any) -> str:
    """What Ray shows of a trial: arm, phase, number and config."""
    return f"{_name(trial)} {setting(trial.config['trial']['config'])}"


def _what_ended(trial: Any) -> tuple[LossKind, str]:
    """Why a trial's worker is gone, from what Ray wrote down about it."""
    try:
        said = Path(trial.error_file or "").read_text(errors="replace")
    except OSError as error:
        said = f"Ray left no reason: {error.strerror}"
    if full := re.search(r"running low on memory.*? was (.+? used / .+? limit)", said, re.DOTALL):
        return "out of memory", f"Ray ended its worker at {full[1]} of the machine's memory"
    detail = re.search(r"Worker exit detail: (.+?)\. Some common causes|(its node has died)", said)
    return "worker died", told(detail[1] or detail[2]) if detail else last_line(said)


class _SurvivesMemoryKills(RayActorManager):
    """Takes a worker that Ray's memory watch ended for a lost one; Tune (2.60) stops at its class of error."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            exception = ray.exceptions.RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


class _Asks(Searcher):
    """Tune asks for the next trial: ours, or none yet, or that there are no more."""

    def __init__(self, schedule: Schedule, runner: "_Runner") -> None:
        super().__init__()
        self._schedule = schedule
        self._runner = runner
        self._tries: collections.Counter[str] = collections.Counter()

    def suggest(self, trial_id: str) -> Any:
        del trial_id  # Ray's own; ours is in the record
        if self._runner.leaving():
            return Searcher.FINISHED
        if time.monotonic() < self._runner.not_before:
            return None
        try:
            start = self._schedule.next()
        except (StudyError, LedgerError) as error:
            self._runner.leave_for(error)
            return Searcher.FINISHED
        if start is None:
            return Searcher.FINISHED if self._schedule.done else None
        trial = start.trial
        self._tries[trial.id] += 1
        self._runner.begins(trial.id)
        return {
            "trial": asdict(trial),
            "epochs": start.epochs,
            "again": start.again,
            "fraction": start.fraction,
            "try": self._tries[trial.id] - 1,
        }

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

    def __init__(self, slots: int, runner: "_Runner") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots
        self._runner = runner

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        controller = getattr(tune_controller, "_tune_controller", None)
        cache = getattr(controller, "_actor_cache", None)
        if self._slots and cache is not None and hasattr(cache, "increase_max"):
            cache.increase_max(trial.placement_group_factory, self._slots)
            self._slots = 0
        self._runner.added(trial, lambda: _has_machine(controller, trial))
        super().on_trial_add(tune_controller, trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _has_machine(controller: Any, trial: Any) -> bool:
    """Whether Ray has granted the trial what it holds; also where a version of Ray does not say."""
    if trial.temporary_state.ray_actor is not None:
        return True
    granted = getattr(getattr(controller, "_actor_manager", None), "is_actor_started", None)
    actors = getattr(controller, "_trial_to_actor", None)
    if granted is None or actors is None:
        return True
    return trial in actors and bool(granted(actors[trial]))


class _Stops(tune.Stopper):
    """The first of ours to see a result: whether the trial stops here."""

    def __init__(self, runner: "_Runner") -> None:
        self._runner = runner

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id
        return self._runner.take(result)

    def stop_all(self) -> bool:
        return False  # True would tear running trials down instead of letting them end

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Runner(tune.Callback):
    """Books what the workers tell and how trials end, and watches over what they do not tell."""

    def __init__(
        self,
        schedule: Schedule,
        home: Path,
        tick: Callable[[], None],
        leaving: Callable[[], bool],
        say: Callable[[str], None],
        mirror: Mirror | None,
    ) -> None:
        self._schedule = schedule
        self._mirror = mirror
        self._told_unsaved = False
        self._home = home
        self._tick = tick
        self._leaving = leaving
        self._say = say
        self._left_at = self._disk_seen = self._nodes_seen = self._signs_seen = 0.0
        self._strangers: set[str] = set()
        """Nodes with another kind of GPU than the study's, which have been told of."""
        self._waiting: dict[str, Callable[[], bool]] = {}
        """Trials without a machine, and whether each has one now."""
        self._heard: dict[str, float] = {}
        self._trials: dict[str, Any] = {}
        self._spoke: set[str] = set()
        """Trials whose worker has spoken in the present try."""
        self._of_actor: dict[Any, tuple[str, int]] = {}
        """Node and process of every actor that has spoken."""
        self._vain = 0
        self.not_before = 0.0
        """No trial is started earlier: workers could not be had."""
        self._ended: set[str] = set()
        """Trials that ended by themselves or by decision, not because the study leaves."""
        self._silenced: set[str] = set()
        self.error: StudyError | LedgerError | None = None

    def leaving(self) -> bool:
        """Whether the study stops here: asked to, or because it must."""
        return self.error is not None or self._leaving()

    def leave_for(self, error: StudyError | LedgerError) -> None:
        """Stop in order, and raise ``error`` then; the first one counts."""
        self.error = self.error or error

    def added(self, ray_trial: Any, has_machine: Callable[[], bool]) -> None:
        """Watch over it from the beginning: a worker can also freeze before it says a word.

        It pays from when Ray grants it a machine, not from when it was asked for: a node may have been lost.
        """
        trial_id = ray_trial.config["trial"]["id"]
        self._trials[trial_id] = ray_trial
        if not has_machine():
            self._waiting[trial_id] = has_machine
            self._schedule.waits(trial_id)

    def begins(self, trial_id: str) -> None:
        self._spoke.discard(trial_id)
        self.heard_of(trial_id)

    def heard_of(self, trial_id: str) -> None:
        self._heard[trial_id] = time.monotonic()

    def take(self, result: dict[str, Any]) -> bool:
        """Book a worker's result; True when its trial stops here."""
        trial_id = result.get("trial")
        if trial_id is None:
            return bool(result.get("done"))
        self.heard_of(trial_id)
        if "process" in result:
            self._spoke.add(trial_id)
            self._of_actor[self._trials[trial_id].temporary_state.ray_actor] = result["process"]
            self._vain = 0
        goes_on = True
        try:
            if "net" in result:  # before the ledger says that it is there; and Tune would keep it
                checkpoint.save(checkpoint.path_of(self._home, trial_id), result.pop("net"))
            if "resumed" in result:
                self._schedule.resumed(trial_id, **result["resumed"])
            if "epoch" in result:
                goes_on = self._schedule.report(Epoch(**result["epoch"]))
        except LedgerError as error:
            self.leave_for(error)
            return True  # it stays open: no end is written of what the ledger does not have
        except OSError as error:
            self.leave_for(StudyError(f"a trained net cannot be kept: {error}"))
            return True
        self._tell_unsaved(result.get("unsaved"))
        if "blocked" in result:
            self.leave_for(StudyError(result["blocked"]))
        if result.get("done") or not goes_on:
            self._ended.add(trial_id)
        return trial_id in self._ended or self.leaving()

    def _tell_unsaved(self, reason: str | None) -> None:
        if reason and self._mirror and not self._told_unsaved:
            self._told_unsaved = True
            self._mirror.say(
                f"note: a worker cannot use {self._mirror.uri} ({reason}). The study goes on; a trial that is "
                "interrupted meanwhile begins anew. Every node needs credentials of its own"
            )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        self.heard_of(trial.config["trial"]["id"])
        self._start_paying()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        del iteration, trials, info
        if self.leaving() and trial.config["trial"]["id"] not in self._ended:
            result[SHOULD_CHECKPOINT] = True

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        trial_id, result = trial.config["trial"]["id"], trial.last_result or {}
        self._trials.pop(trial_id, None)
        self._waiting.pop(trial_id, None)
        if trial_id not in self._ended or isinstance(self.error, LedgerError):
            return
        self._ended.remove(trial_id)
        try:
            if "memory" in result:
                self._lost(trial_id, "out of memory", result["failure"])
            else:
                self._schedule.end(trial_id, result.get("failure", ""))
                self._tidy(trial_id)
        except LedgerError as error:
            self.leave_for(error)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The worker is gone; what an arm raises comes as a result instead."""
        del iteration, trials, info
        trial_id = trial.config["trial"]["id"]
        self._trials.pop(trial_id, None)
        self._waiting.pop(trial_id, None)
        if self.leaving():
            return  # it goes on from its last checkpoint when the study does
        kind, reason = _what_ended(trial)
        try:
            if trial_id not in self._spoke:
                self._silenced.discard(trial_id)
                self._never_began(trial_id, reason)
            elif trial_id in self._silenced:
                self._silenced.remove(trial_id)
                self._lost(trial_id, "hang", "no sign of life, and its worker was ended")
            else:
                self._lost(trial_id, kind, reason)
        except LedgerError as failure:
            self.leave_for(failure)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        del iteration, trials, info
        self._start_paying()
        now = time.monotonic()
        if self.leaving():
            self._left_at = self._left_at or now
            if now - self._left_at > LEAVE_SECONDS:
                raise tune.TuneError("a trial did not stop in time; it goes on from its last checkpoint")
        else:
            self._watch_trials(now)
            self._watch_disk(now)
            self._watch_nodes(now)
        self._tick()

    def _start_paying(self) -> None:
        """Seen at every step, ten times a second at least."""
        for trial_id in [t for t, has_machine in self._waiting.items() if has_machine()]:
            del self._waiting[trial_id]
            self._schedule.granted(trial_id)

    def _watch_trials(self, now: float) -> None:
        """Write a sign of life now and then, and end workers that give none."""
        try:
            self._schedule.beat()
        except LedgerError as error:
            self.leave_for(error)
        if now < self._signs_seen + SIGN_SECONDS:
            return
        self._signs_seen = now
        for trial_id, ray_trial in self._trials.items():
            actor = ray_trial.temporary_state.ray_actor
            if actor is not None and now - self._heard[trial_id] > self._schedule.patience(trial_id):
                self._silenced.add(trial_id)
                self.heard_of(trial_id)
                ray.kill(actor)
                if actor in self._of_actor:  # one that is frozen does not follow Ray's request
                    node, pid = self._of_actor[actor]
                    where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
                    _end_process.options(scheduling_strategy=where).remote(pid)

    def _watch_disk(self, now: float) -> None:
        """Stop in order while there is still room to do it."""
        if now < self._disk_seen + DISK_SECONDS:
            return
        self._disk_seen = now
        try:
            free = shutil.disk_usage(self._home).free
        except OSError as error:
            self.leave_for(StudyError(f"the run directory {self._home} is gone: {error.strerror}"))
            return
        if free < DISK_FLOOR:
            self.leave_for(
                StudyError(
                    f"the disk of {self._home} is nearly full: {free / 2**20:.0f} MiB are free, and "
                    f"{DISK_FLOOR / 2**20:.0f} are needed to go on. Make room, then resume"
                )
            )

    def _watch_nodes(self, now: float) -> None:
        """Say which nodes are left alone, for their kind of GPU; what trials hold keeps them off."""
        machine = self._schedule.plan.machine
        if not machine.kind or now < self._nodes_seen + NODES_SECONDS:
            return
        self._nodes_seen = now
        for node_id, node in _nodes(machine.resource.upper()).items():
            if _kind(node) != machine.kind and node_id not in self._strangers:
                self._strangers.add(node_id)
                self._say(
                    f"a node with {_kind(node) or 'GPUs of an unknown kind'} has joined, and is left alone: "
                    f"this study runs on {machine.kind}, and run times on two kinds do not compare"
                )

    def _never_began(self, trial_id: str, reason: str) -> None:
        """No worker could be had, as while a node that is gone is still counted on: wait, and try again."""
        self._vain += 1
        self.not_before = time.monotonic() + min(30.0, 0.5 * 2**self._vain)
        self._schedule.put_back(trial_id, f"no worker: {reason}")
        if self._vain >= VAIN:
            self.leave_for(StudyError(f"Ray could not start a worker {VAIN} times in a row: {reason}"))

    def _lost(self, trial_id: str, kind: LossKind, reason: str) -> None:
        if self._schedule.lost(trial_id, kind, reason) is not None:
            self._tidy(trial_id)

    def _tidy(self, trial_id: str) -> None:
        """Only the nets that may meet the test set are kept."""
        history = self._schedule.ledger
        if history.trials[trial_id].phase not in SCORED_PHASES or not history.finished(trial_id):
            with suppress(OSError):
                checkpoint.remove(checkpoint.path_of(self._home, trial_id))

    def __getstate__(self) -> dict[str, Any]:
        return {}
