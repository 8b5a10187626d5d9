"""What this project needs of Ray beyond its public interface: one place, each with its reason and the Ray it was needed for.

Import this module before Ray: Ray reads the settings below when it is imported. All were checked with Ray 2.60; where another
version has no such part, only what the patch was for is lost.
"""

import logging
import os
import queue
import secrets
import subprocess
import sys
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

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
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services
from ray._private.utils import get_dashboard_dependency_error
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.event_manager import RayEventManager
from ray.tune.execution import tune_controller

# -- starting and joining Ray


class _OwnGroup(services.ConsolePopen):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"process_group": 0, **options})


def leave_process_group() -> None:
    """Start Ray's processes in groups of their own: what signals the study's whole group, as ``timeout`` does, asks the study to stop.

    Ray 2.60 keeps them in the study's, where SIGTERM would end them before its trials' last checkpoints.
    """
    vars(services)["ConsolePopen"] = _OwnGroup


def stay_on_loopback(*, wanted: bool) -> None:
    """Keep every port of a local Ray on 127.0.0.1: dashboard, metrics and gRPC alike.

    Left alone, Ray 2.60 takes the machine's outer address on Linux, replaces a loopback ``_node_ip_address`` by it, and listens
    on all interfaces. On macOS and Windows it stays on loopback unless this switch is on.
    """
    # for the processes it starts, and in this one, where it has been read already
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = str(int(not wanted))
    ray_constants.ENABLE_RAY_CLUSTER = not wanted


def match_token_mode(address: str) -> None:
    """Present a token only to a cluster that asks for one (Ray since 2.59).

    The cluster's calls to this driver carry a token or none, as ours must. In the wrong mode it takes this driver for dead and
    ends every worker that it asks for. Only a process without a token can find out the mode.
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


def keep_token_private() -> None:
    """Make a token for Ray that only this user can read: Ray 2.60 would make one that every user can."""
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


def has_dashboard() -> bool:
    """Whether this machine's Ray can show its dashboard: a wheel may lack the pages, or what serves them (Ray 2.60)."""
    pages = Path(str(ray.__file__)).parent / "dashboard" / "client" / "build"
    return pages.is_dir() and get_dashboard_dependency_error() is None


class _QuietHandler(logging.FileHandler):
    """The study reports a full disk once, not every message that cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # logging's own name
        """Nothing: see above."""


def log_to(path: Path) -> logging.Handler:
    """Send all of Ray's own messages to ``path``."""
    handler = _QuietHandler(path)
    for name in ("ray", "ray.tune", "ray.data", "ray._private", "ray.util"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    return handler


def own_logs() -> str:
    """Where the Ray that this process started, or tried to, keeps its logs; empty if it did not come so far."""
    temporary: str = get_default_ray_temp_dir()  # type: ignore[no-untyped-call]
    found = Path(temporary).glob(f"session_*_{os.getpid()}/logs")
    return str(max(found, default=""))


def log_again(handler: logging.Handler) -> None:
    """Restore the handler of ``log_to`` that ``ray.init`` takes away (Ray 2.60)."""
    logging.getLogger("ray").handlers = [handler]


# -- Tune


class _Events(RayEventManager):
    """Ray's futures and what to do with each; those that are done queue up in ``done``."""

    def __init__(self, done: "queue.SimpleQueue[tuple[_Events, Any, Future[Any]]]") -> None:
        super().__init__()
        self._done = done

    def track_future(self, future: Any, on_result: Any = None, on_error: Any = None) -> None:
        super().track_future(future, on_result, on_error)
        future.future().add_done_callback(lambda found: self._done.put((self, future, found)))

    def settle(self, future: Any, found: "Future[Any]") -> bool:
        """Whether anyone still waited for it."""
        on_result, on_error = waited = self._tracked_futures.pop(future, (None, None))
        if (error := found.exception()) is None:
            if on_result is not None:
                on_result(found.result())
        elif on_error is not None:
            assert isinstance(error, Exception)
            on_error(error)
        return any(waited)


class _Actors(RayActorManager):
    """Takes each event as it comes, and a worker that Ray's memory monitor ended for a lost one."""

    def __init__(self, resource_manager: Any) -> None:
        super().__init__(resource_manager)
        self._done: queue.SimpleQueue[tuple[_Events, Any, Future[Any]]] = queue.SimpleQueue()
        self._actor_state_events = _Events(self._done)
        self._actor_task_events = _Events(self._done)

    def next(self, timeout: float | None = None) -> bool:
        killed = self._try_kill_actor()
        self._try_start_actors()
        if killed:
            return True
        try:
            events, future, found = self._done.get(timeout=timeout)
        except queue.Empty:
            return False
        settled = events.settle(future, found)
        self._try_start_actors()
        return settled

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            exception = ray.exceptions.RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


def take_events_as_they_come() -> None:
    """Have Tune take each event as it comes, and go on when Ray's memory monitor ends a worker.

    For each event Tune 2.60 shuffles and asks for the futures of all trials, which with a thousand of them takes 2 ms of 3; and at an
    ``OutOfMemoryError`` it stops.
    """
    vars(tune_controller)["RayActorManager"] = _Actors


def silence_missing_results() -> None:
    """At its end Tune 2.60 looks for result files, which the ledger replaces, and warns once per trial."""
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)


class IdleWorkers:
    """How many idle workers Tune keeps for another trial.

    Between two phases all slots fall idle for a moment, and Tune 2.60 then ends all idle workers but one. The new one is not up
    before the last one is free again and takes its trial, so that from then on trials shorter than a start-up run one at a
    time. This raises the limit of Tune's actor cache.
    """

    def __init__(self) -> None:
        self._kept = 0

    def keep(self, wrapped: Any, resources: Any, wanted: int) -> None:
        """Keep up to ``wanted`` idle workers that hold ``resources``; ``wrapped`` is what Tune hands to its scheduler."""
        cache = getattr(_controller(wrapped), "_actor_cache", None)
        if cache is not None and hasattr(cache, "increase_max") and wanted != self._kept:
            cache.increase_max(resources, wanted - self._kept)
            self._kept = wanted


def has_machine(wrapped: Any, trial: Any) -> bool:
    """Whether Ray has granted the trial what it holds; True if this version of Tune does not say (2.60 does)."""
    if trial.temporary_state.ray_actor is not None:
        return True
    controller = _controller(wrapped)
    granted = getattr(getattr(controller, "_actor_manager", None), "is_actor_started", None)
    actors = getattr(controller, "_trial_to_actor", None)
    if granted is None or actors is None:
        return True
    return trial in actors and bool(granted(actors[trial]))


def _controller(wrapped: Any) -> Any:
    """Tune's controller, behind the face that it shows to schedulers."""
    return getattr(wrapped, "_tune_controller", None)


# -- workers


def name_process(trial: str) -> None:
    """Name the trial where processes are listed: Ray's dashboard, ps, nvidia-smi. Ray 2.60 renames the process at each call."""
    with suppress(AttributeError):
        raylet: Any = ray._raylet
        raylet.setproctitle(f"ray::StudyTrial {trial}")
