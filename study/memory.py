"""Memory: what a machine has free, what a process that trains keeps, which errors say that there is too little."""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

FULL = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "unable to find an engine to execute this computation",  # cuDNN, when no plan's workspace fits
    *(
        f"{name}_STATUS_{what}"
        for name in ("CUBLAS", "CUDNN")
        for what in ("ALLOC_FAILED", "NOT_INITIALIZED")
    ),
)
"""Words of the errors that say so, where there is no type for it: a library whose handle finds no room is not initialised."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of mallopt(3)."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
WALLS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By the controller that such a line of OWN_CGROUP names, version 2 names none: files of the wall and of what is used, and
which part of that is given up when others ask for it."""


def free_memory() -> int:
    """Bytes that could be had now without swapping: of the machine, or of what the walls around this process leave."""
    available: int = psutil.virtual_memory().available
    return max(0, min([available, *(free for _, free in _walls())]))


def all_memory() -> int:
    """Bytes of the machine, or within the walls around this process."""
    total: int = psutil.virtual_memory().total
    return min([total, *(wall for wall, _ in _walls())])


def _walls() -> Iterator[tuple[int, int]]:
    """Size, and what is free, of every container, job or service that the process is in and whose memory is bounded."""
    with suppress(OSError, ValueError):
        for line in OWN_CGROUP.read_text().splitlines():
            _, controller, path = line.split(":", 2)
            if controller not in WALLS:
                continue
            wall, used, reclaimed = WALLS[controller]
            top = CGROUPS / controller
            here = top / path.lstrip("/")
            for group in (here, *here.parents[: len(here.relative_to(top).parts)]):
                with suppress(OSError, ValueError):  # "max" where there is none
                    size = int((group / wall).read_text())
                    spare = dict(x.split() for x in (group / "memory.stat").read_text().splitlines())
                    yield size, size - int((group / used).read_text()) + int(spare.get(reclaimed, 0))


def out_of_memory(error: BaseException) -> bool:
    """Whether the machine's memory, or the device's, was too small. torch has no type of error for the host's."""
    import torch  # not to be waited for by who only asks what is free

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in FULL)
    )


def keep_freed() -> None:
    """Give back what is free now; from here on keep what is freed for the next step, which needs as much again.

    glibc returns each large tensor to the system, which has to clear fresh pages for the next one: a third of the time
    of small_resnet's steps at 224 pixels. Elsewhere (macOS, musl) nothing is done. The price is up to a fifth more
    memory, and two fifths for ResNet-50 with batches of 128: freed blocks do not always fit what comes next.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never by itself
        libc.malloc_trim(0)
