"""Ray: start or join it, ship the code, what it has, and tasks on fractions of its resources."""

import collections
import itertools
import logging
import math
import os
import secrets
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
from ray._private import ray_constants
from ray._private.utils import get_dashboard_dependency_error
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import (
    PlacementGroupSchedulingStrategy,
)

import search_spaces
import study
from study.execution.packing import Hardware
from study.protocol.budget import Budget
from study.protocol.question import Machine
from study.protocol.selection import StudyError
from study.protocol.settings import passed_on
from study.protocol.text import printable

WAIT_SECONDS = 1200
"""So long machines of a cluster that grows may take to come."""
KIND = "accelerator_type:"
"""Ray's resource of a node that says what kind of GPU it has; every use takes a thousandth, as Ray's own do."""
HOST_BYTES = 3 * 2**30
"""Memory of the machine that a process takes which trains on a GPU: torch's libraries, and Ray's share of the images."""
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
        knock(address)
        _match_token_mode(address)
    else:
        _keep_token_private()
    _stay_on_loopback(wanted=not address)
    modules = [str(Path(m.__path__[0])) for m in (study, search_spaces)]
    try:
        context = ray.init(
            address=address or "local",
            runtime_env={"py_modules": modules, "env_vars": passed_on()},  # code only, addressed by content
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
            include_dashboard=None if address else _has_dashboard(),
            dashboard_host="127.0.0.1",
        )
        logging.getLogger("ray").handlers = [handler]  # Ray (2.60) has just taken it away
    except Exception as error:  # Ray raises what it likes, plain Exception included
        said = printable(" ".join(str(error).split())) or type(error).__name__
        if "Version mismatch" in said:
            raise ClusterError(f"{said}. Every machine needs the same Ray and the same Python") from error
        hint = (
            "is it running, and does this machine have its token (RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)?"
            if address
            else f"its messages are in {log}"
        )
        raise ClusterError(
            f"Ray cannot be {'reached at ' + address if address else 'started'}: {said}; {hint}"
        ) from error
    finally:
        signal.signal(signal.SIGHUP, hang_up)
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""


def _has_dashboard() -> bool:
    """Whether this machine's Ray can show one: a wheel may come without its pages, or without what serves them."""
    pages = Path(str(ray.__file__)).parent / "dashboard" / "client" / "build"
    return pages.is_dir() and get_dashboard_dependency_error() is None


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


def knock(address: str) -> None:
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
    nodes = list(nodes_with(resource).values())
    if not nodes:
        raise ClusterError(f"the cluster has no {resource}, but the budget is {budget}")
    units = sum(int(node[resource]) for node in nodes)
    kind = _one_kind(nodes) if budget.resource == "gpu" else ""
    cores = tuple(max(1, int(node.get("CPU", 1))) for node in nodes)
    return Hardware(
        resource=budget.resource,
        units=units,
        cores=cores,
        name=kind or f"{resource} x {units}",
        kind=kind,
        per_gpu=min(_processes_per_gpu(node) for node in nodes) if budget.resource == "gpu" else 0,
    )


def _processes_per_gpu(node: dict[str, float]) -> int:
    """How many training processes each GPU of the node has cores and memory for, at least 2: one starts, one trains."""
    cores, memory = node.get("CPU", 1), node.get("memory", math.inf) / HOST_BYTES
    return max(2, int(min(cores, memory) / node["GPU"]))


def nodes_with(resource: str) -> dict[str, dict[str, float]]:
    """What each running node that has at least one GPU, or CPU core, has of everything; by the node's id."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {n["NodeID"]: n["Resources"] for n in nodes if n["Alive"] and n["Resources"].get(resource, 0) >= 1}


def kind_of(node: dict[str, float]) -> str:
    """Of its GPUs, as Ray calls it; empty where Ray reports none."""
    return min((name.removeprefix(KIND) for name in node if name.startswith(KIND)), default="")


def _one_kind(nodes: list[dict[str, float]]) -> str:
    """Raises ClusterError when there are several."""
    units: collections.Counter[str] = collections.Counter()
    for node in nodes:
        units[kind_of(node)] += int(node["GPU"])
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
    have = sum(n[resource] for n in nodes_with(resource).values() if machine.kind in ("", kind_of(n)))
    if have + 1e-9 < needed:
        raise ClusterError(
            f"the study was planned with {needed:g} {resource}s ({machine.name}), and {have:g} are here: "
            "costs and run times would no longer compare. Go on where there are as many, or start a new study"
        )


def resources(machine: Machine, fraction: float) -> dict[str, float]:
    """What a trial or task that holds ``fraction`` of a GPU or CPU core holds, in Ray's words."""
    held = {"CPU": fraction} if machine.resource == "cpu" else {"GPU": fraction, "CPU": 0}
    return {**held, f"{KIND}{machine.kind}": 0.001} if machine.kind else held


class Crew:
    """Actors of one kind on one GPU, or on the cores of one node, started when they are asked for."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._actors: list[Any] = []

    def first(self, count: int) -> list[Any]:
        """So many of them, always the same."""
        self._actors += [self._start() for _ in range(count - len(self._actors))]
        return self._actors[:count]

    @contextmanager
    def apart(self) -> Iterator[Any]:
        """One more, which is ended afterwards whatever became of it."""
        one = self._start()
        try:
            yield one
        finally:
            ray.kill(one)

    def end(self) -> None:
        for one in self._actors:
            ray.kill(one)


@contextmanager
def side_by_side(kind: type, copies: int, have: Hardware) -> Iterator[Crew]:
    """Up to that many actors of ``kind`` on one GPU, or on the cores of the smallest node, which hold all of it."""
    cores = min(have.cores)
    whole = {"CPU": float(cores)} if have.resource == "cpu" else {"GPU": 1.0}
    group = placement_group([whole])
    held = {"num_cpus": 0, "num_gpus": int(10_000 / (copies + 1)) / 10_000}
    if have.resource == "cpu":
        held = {"num_cpus": cores // copies, "num_gpus": 0}
    placed = PlacementGroupSchedulingStrategy(group)
    remote: Any = ray.remote(kind).options(**held, scheduling_strategy=placed, max_restarts=0)
    crew = Crew(remote.remote)
    try:
        yield crew
    finally:
        crew.end()
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
    # a process stays on the GPU that it has begun with, and its next task may be granted another one
    tasks = 1 if gpus and machine.slots * machine.fraction > 1 else 0
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=held, max_retries=3, max_calls=tasks)(
        function
    )
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
    return printable(lines[-1].strip()) if lines else "no reason given"
