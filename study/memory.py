"""Cores, memory and threads: how many a process may use, how much a machine has free, how much a training process keeps, and which errors mean that there is too little."""

import ctypes
import math
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

FULL = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "unable to find an engine to execute this computation",  # cuDNN, when no plan's workspace fits
    *(f"{name}_STATUS_{x}" for name in ("CUBLAS", "CUDNN") for x in ("ALLOC_FAILED", "NOT_INITIALIZED")),
)
"""Texts of errors that mean it but have no type of their own: a library whose handle finds no room is not initialised."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of mallopt(3)."""
QUOTAS = {"": ("cpu.max",), "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us")}
"""cgroup version, as in ``groups`` -> the files that hold microseconds of computing and the microseconds they are for."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
WALLS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Controller in a line of OWN_CGROUP (empty in version 2) -> the files with the limit and the use, and the field of memory.stat
that counts reclaimable pages."""


def free_memory() -> int:
    """Bytes available now without swapping, on the machine or within the limits on this process."""
    available: int = psutil.virtual_memory().available
    return max(0, min([available, *(free for _, free in _walls())]))


def all_memory() -> int:
    """Bytes of the machine, or within the limits on this process."""
    total: int = psutil.virtual_memory().total
    return min([total, *(wall for wall, _ in _walls())])


def cores() -> int:
    """Cores that this process may use, by its affinity and the CPU quotas around it, rounded down; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_quotas()]))


def _quotas() -> Iterator[int]:
    for known, group in groups("cpu"):
        with suppress(OSError, ValueError):  # "max" where there is none
            texts = [(group / name).read_text() for name in QUOTAS[known]]
            quota, period = map(int, " ".join(texts).split())
            if quota > 0:
                yield quota // period


def groups(controller: str) -> Iterator[tuple[str, Path]]:
    """Every cgroup around this process that ``controller`` may limit, the innermost first; and the controller, empty in version 2."""
    with suppress(OSError, ValueError):
        for line in OWN_CGROUP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            known = controller if controllers else ""
            top = CGROUPS / known
            here = top / path.lstrip("/")
            for group in (here, *here.parents[: len(here.relative_to(top).parts)]):
                yield known, group


def _walls() -> Iterator[tuple[int, int]]:
    """Size and free bytes of every container, job or service around this process that has a memory limit."""
    for known, group in groups("memory"):
        wall, used, reclaimed = WALLS[known]
        with suppress(OSError, ValueError):  # "max" where there is no limit
            size = int((group / wall).read_text())
            spare = dict(x.split() for x in (group / "memory.stat").read_text().splitlines())
            yield size, size - int((group / used).read_text()) + int(spare.get(reclaimed, 0))


def free_threads() -> float:
    """Threads that may still be started under the limits on this user and on the groups around this process."""
    left = [math.inf]
    for _, group in groups("pids"):
        with suppress(OSError, ValueError):  # "max" where there is no limit
            left.append(int((group / "pids.max").read_text()) - int((group / "pids.current").read_text()))
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit != resource.RLIM_INFINITY and os.getuid() and sys.platform == "linux":  # macOS counts processes
        found = psutil.process_iter(["uids", "num_threads"])
        mine = [p.info["num_threads"] for p in found if p.info["uids"] and p.info["uids"].real == os.getuid()]
        left.append(limit - sum(filter(None, mine)))
    return max(0, min(left))


def out_of_memory(error: BaseException) -> bool:
    """Whether the machine's or the device's memory was too small. torch has no error type for the host's."""
    import torch  # free_memory alone must not wait for it

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in FULL)
    )


def keep_freed() -> None:
    """Return free memory to the system now, and from here on keep freed memory for the next step, which needs as much again.

    glibc returns each large tensor to the system, which then clears fresh pages for the next one: a third of the time
    of small_resnet's steps at 224 pixels. Without glibc (macOS, musl) this does nothing. It costs up to a fifth more
    memory, and two fifths for ResNet-50 with batches of 128: freed blocks do not always fit the next tensor.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never trim unasked
        libc.malloc_trim(0)
