"""The memory of a process that trains: what it keeps, and which errors say that there is too little."""

import ctypes

import torch

FULL = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "CUDA error: out of memory",
    *(
        f"{name}_STATUS_{what}"
        for name in ("CUBLAS", "CUDNN")
        for what in ("ALLOC_FAILED", "NOT_INITIALIZED")
    ),
)
"""Words of the errors that say so, where there is no type for it: a library whose handle finds no room is not initialised."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of mallopt(3)."""


def out_of_memory(error: BaseException) -> bool:
    """Whether the machine's memory, or the device's, was too small. torch has no type of error for the host's."""
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
