"""What this machine lets a study use: a home, and a folder for Ray's files. Without Ray and torch, which it prepares."""

import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from study.memory import cores, free_memory, free_threads
from study.protocol.errors import InputError

UNPINNED = {"OMP_PROC_BIND": "false"}
"""For the driver and the workers: with OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY every process takes the same core."""
TEMPORARY = ("RAY_TMPDIR", "TMPDIR")
PATH_BYTES = 107
"""Of a socket, on Linux; macOS has 103."""
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead"
"""The longest of Ray 2.60, in its temporary folder."""
LONGEST = PATH_BYTES - len(SOCKET)

ROOM = 100 * 2**20
"""Bytes for the logs of Ray's processes and the code that it ships; a study leaves about 2 MB."""
FILES, THREADS, THREADS_PER_CORE, MEMORY = 256, 350, 50, 1.25 * 2**30
"""What Ray 2.60 and a process that trains a small net do not start without; studies on one and two cores had up to 415 and 442 threads."""
SHARED_MEMORY = "/dev/shm"
ELSEWHERE = ("/tmp", *(f"{top}/study-{os.getuid()}" for top in ("/tmp", "/var/tmp")))
"""Where Ray's files may go if not where the environment says."""


@contextmanager
def prepared(say: Callable[[str], None], *, starts_ray: bool = False) -> Iterator[None]:
    """Give this process and its children a home that can be written, for the duration, and no core of their own.

    Call it before torch and Ray are imported. Raises InputError if there is no folder for temporary files, or no Ray can start
    here and one is to.
    """
    if starts_ray:
        _check_limits()
    os.environ.update(UNPINNED)
    # Ray's processes, wherever they run, are to find the same folder
    os.environ.update({name: os.path.abspath(os.environ[name]) for name in TEMPORARY if os.environ.get(name)})  # noqa: PTH100
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise InputError(f"{error.strerror}. Set TMPDIR to a folder that you can write") from error
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  # Path.home() raises where there is none
    if (home.is_absolute() and _takes(home)) or os.access(home / ".ray" / "auth_token", os.R_OK):
        yield
        return
    with tempfile.TemporaryDirectory() as instead:
        os.environ["HOME"] = instead
        say(
            f"note: there is no home directory that can be written ({home}): {instead} takes its place until the end. "
            "Set HOME to keep what is fetched"
        )
        yield


def _takes(folder: Path) -> bool:
    """Whether a file can be written there: a disk or a quota may be full, which no permission shows."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def _check_limits() -> None:
    """Raises InputError where Ray's processes cannot start or reach each other: Ray would take minutes, or end without a word."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise InputError(
            f"Ray's processes speak to each other at 127.0.0.1, which cannot be reached here: {error.strerror or error}. Bring "
            "the loopback device up (ip link set lo up)"
        ) from error
    files, threads, needed = (
        resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        free_threads(),
        THREADS + THREADS_PER_CORE * cores(),
    )
    if 0 <= files < FILES:
        raise InputError(
            f"a process may open {files} files here, and Ray needs {FILES}: raise the limit (ulimit -n)"
        )
    if threads < needed:
        raise InputError(
            f"{threads:.0f} more threads may be started here, and Ray and the trials take about {needed}: raise the limit of this "
            "user (ulimit -u), job or container (pids.max, docker run --pids-limit)"
        )
    if (free := free_memory()) < MEMORY:
        raise InputError(
            f"{free / 2**30:.2f} GiB of memory are free on this machine or under the limit of this job or container, and Ray with "
            f"one process that trains takes {MEMORY / 2**30:.2f} at the least: ask for more"
        )


def place_for_ray(say: Callable[[str], None]) -> None:
    """Set RAY_TMPDIR to a folder that Ray can use. Raises InputError if there is none."""
    asked = _for_ray()
    refused: dict[str, str] = {}
    for place in (asked, *ELSEWHERE):
        if not (why := refused.get(place) or _unfit(place)):
            os.environ["RAY_TMPDIR"] = place
            if refused:
                os.environ["TMPDIR"] = place  # the dashboard's processes have sockets there
                say(f"note: Ray's files go to {place}/ray: {refused[asked]}")
            return
        refused[place] = why
    raise InputError(
        f"Ray finds no folder for its files: {'; '.join(refused.values())}. Set TMPDIR to a folder that "
        f"you can write, with {ROOM / 2**20:.0f} MiB free and a path of at most {LONGEST} bytes"
    )


def store() -> str | None:
    """The folder for Ray's object store where shared memory cannot be written; None leaves the choice to Ray."""
    return None if os.access(SHARED_MEMORY, os.W_OK | os.X_OK) else f"{_for_ray()}/ray"


def _for_ray() -> str:
    """Where Ray 2.60 would put its files."""
    usual = "TMPDIR" if sys.platform == "linux" else ""
    return os.environ.get("RAY_TMPDIR") or os.environ.get(usual) or "/tmp"


def _unfit(place: str) -> str:
    """Why Ray cannot use the folder, which is made if need be; empty if it can."""
    folder = Path(place) / "ray"
    if len(os.fsencode(place)) > LONGEST:
        return f"{place} is too long a path for Ray's sockets"
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{place} cannot be written: {error.strerror}"
    if free < ROOM:
        return f"{place} has {free / 2**20:.0f} MiB free, and Ray may need {ROOM / 2**20:.0f}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is another user's, or cannot be written"
