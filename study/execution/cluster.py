"""Ray: start it or join it, ship the code, and find out what it has."""

import collections
import logging
import math
import signal
import socket
from pathlib import Path
from typing import Any

from study.execution import ray_patches  # first: it sets what Ray reads when it is imported

# isort: split
import ray
from ray.util.placement_group import placement_group, remove_placement_group

import search_spaces
import study
from study.execution import host
from study.execution.packing import Hardware
from study.memory import cores
from study.protocol.budget import Budget
from study.protocol.errors import StudyError
from study.protocol.question import Machine
from study.protocol.settings import passed_on
from study.protocol.text import printable

WAIT_SECONDS = 1200
"""Time for the machines of a growing cluster to come."""
KIND = "accelerator_type:"
"""Ray's resource of a node that names its kind of GPU; every use takes a thousandth, as Ray's own do."""
HOST_BYTES = 3 * 2**30
"""Host memory of a process that trains on a GPU: torch's libraries, and Ray's share of the images."""


def connect(address: str | None, log: Path) -> str:
    """Start Ray on this machine, or join the cluster at ``address``. Returns the dashboard's URL, or "".

    All of Ray's own messages go to ``log``. Raises StudyError if Ray does not come up.
    """
    # inherited by Ray's processes: closing the terminal does not end them
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handler = ray_patches.log_to(log)
    if address:
        knock(address)
        ray_patches.match_token_mode(address)
    else:
        ray_patches.keep_token_private()
    ray_patches.stay_on_loopback(wanted=not address)
    ray_patches.leave_process_group()
    modules = [str(Path(m.__path__[0])) for m in (study, search_spaces)]
    try:
        context = ray.init(
            address=address or "local",
            num_cpus=None if address else cores(),  # Ray 2.60 sees no affinity, and the quota of no job
            _plasma_directory=None if address else host.store(),
            # code only, addressed by content
            runtime_env={"py_modules": modules, "env_vars": passed_on() | host.UNPINNED},
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
            include_dashboard=None if address else ray_patches.has_dashboard(),
            dashboard_host="127.0.0.1",
        )
        ray_patches.log_again(handler)
    except Exception as error:  # Ray raises anything, plain Exception included
        said = printable(" ".join(str(error).split())) or type(error).__name__
        if "Version mismatch" in said:
            raise StudyError(f"{said}. Every machine needs the same Ray and the same Python") from error
        hint = "; is it running, and does this machine have its token (RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)?"
        if not address:  # the run's own log goes with a run that has not begun
            hint = f"; its logs are in {logs}" if (logs := ray_patches.own_logs()) else ""
        raise StudyError(
            f"Ray cannot be {'reached at ' + address if address else 'started'}: {said}{hint}"
        ) from error
    finally:
        signal.signal(signal.SIGHUP, hang_up)
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""


def knock(address: str) -> None:
    """Raises StudyError if nothing listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise StudyError(f"--address {address!r} is no HOST:PORT, as in 127.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise StudyError(
            f"Ray cannot be reached at {address}: {error}. Start it there with: ray start --head"
        ) from error


def disconnect() -> None:
    """Stop the Ray that ``connect`` started, or leave the one it joined."""
    ray.shutdown()


def hardware(budget: Budget) -> Hardware:
    """What the cluster has for the budget. Raises StudyError if it has nothing, or GPUs of several kinds."""
    resource = budget.resource.upper()
    nodes = list(nodes_with(resource).values())
    if not nodes:
        raise StudyError(f"the cluster has no {resource}, but the budget is {budget}")
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
    """Training processes per GPU that the node has cores and memory for, at least 2: one starts while one trains."""
    cores, memory = node.get("CPU", 1), node.get("memory", math.inf) / HOST_BYTES
    return max(2, int(min(cores, memory) / node["GPU"]))


def nodes_with(resource: str) -> dict[str, dict[str, float]]:
    """Node id -> all resources, for each running node with at least one GPU, or CPU core."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {n["NodeID"]: n["Resources"] for n in nodes if n["Alive"] and n["Resources"].get(resource, 0) >= 1}


def kind_of(node: dict[str, float]) -> str:
    """The node's kind of GPU, as Ray calls it; empty where Ray reports none."""
    return min((name.removeprefix(KIND) for name in node if name.startswith(KIND)), default="")


def _one_kind(nodes: list[dict[str, float]]) -> str:
    """Raises StudyError if there are several."""
    units: collections.Counter[str] = collections.Counter()
    for node in nodes:
        units[kind_of(node)] += int(node["GPU"])
    if len(units) > 1:
        there = ", ".join(
            f"{count} {kind or 'of a kind unknown to Ray'}" for kind, count in sorted(units.items())
        )
        raise StudyError(
            f"the cluster has GPUs of several kinds ({there}), and run times on two kinds do not compare: "
            "the arms' budgets would buy different amounts. Take out the nodes of all kinds but one, or start "
            "them with --num-gpus=0"
        )
    return next(iter(units))


def wait_for(units: int, resource: str) -> None:
    """Wait until the cluster has this many GPUs or CPU cores; one that grows starts machines for it.

    Call it before planning, since a study is planned with what is there. The request ends here, or with this process: nothing
    keeps machines running for it. Raises StudyError if they do not come.
    """
    wish = placement_group([{resource.upper(): 1.0}] * units)
    try:
        if not wish.wait(timeout_seconds=WAIT_SECONDS):
            have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            raise StudyError(
                f"--wait-for {units}: after {WAIT_SECONDS / 60:.0f} minutes the cluster has "
                f"{have.get(resource.upper(), 0):g} {resource.upper()}s (`ray status` on its head says why)"
            )
    finally:
        remove_placement_group(wish)


def check(machine: Machine) -> None:
    """Raises StudyError if the cluster has less than the study was planned with."""
    needed, resource = machine.slots * machine.fraction, machine.resource.upper()
    have = sum(n[resource] for n in nodes_with(resource).values() if machine.kind in ("", kind_of(n)))
    if have + 1e-9 < needed:
        raise StudyError(
            f"the study was planned with {needed:g} {resource}s ({machine.name}), and {have:g} are here: "
            "costs and run times would no longer compare. Go on where there are as many, or start a new study"
        )


def resources(machine: Machine, fraction: float) -> dict[str, float]:
    """Ray's resources of a trial or task that holds ``fraction`` of a GPU, or CPU cores."""
    held = {"CPU": fraction} if machine.resource == "cpu" else {"GPU": fraction, "CPU": 0}
    return {**held, f"{KIND}{machine.kind}": 0.001} if machine.kind else held


def last_line(error: object) -> str:
    """The message of an error that Ray wraps in a traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return printable(lines[-1].strip()) if lines else "no reason given"
