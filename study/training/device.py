"""The device of this process: its threads, its part of the GPU, and giving memory back."""

import torch

from study.memory import keep_freed
from study.protocol.errors import StudyError
from study.protocol.question import Machine


def device_of(machine: Machine, fraction: float | None = None) -> torch.device:
    """This process's device, set up as the plan says: CPU threads, and a limit on GPU memory for ``fraction`` of it.

    Raises StudyError.
    """
    torch.set_num_threads(machine.threads)
    if machine.resource == "cpu":
        keep_freed()
        return torch.device("cpu")
    device = torch.device("cuda", torch.cuda.current_device())
    if machine.gpu and describe(device) != machine.gpu:
        raise StudyError(f"this node has {describe(device)}, and the study was measured on {machine.gpu}")
    torch.cuda.empty_cache()  # cuDNN picks other kernels if the last trial's blocks leave it no room
    # Ray's fractions are bookkeeping: only this limit separates the trials
    context = machine.context_bytes / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(max(0.0, min(1.0, fraction or machine.fraction) - context))
    return device


def describe(device: torch.device) -> str:
    """A GPU by name, multiprocessors and memory: ``NVIDIA H100 80GB HBM3, 132 multiprocessors, 79.6 GiB``."""
    found = torch.cuda.get_device_properties(device)
    return (
        f"{found.name}, {found.multi_processor_count} multiprocessors, {found.total_memory / 2**30:.1f} GiB"
    )


def give_back(device: torch.device) -> None:
    """Release freed memory to the others that share the device: this process may stay idle for long."""
    if device.type == "cuda":
        torch.cuda.synchronize()  # raises if this process has lost the device, and must not go on
        torch.cuda.empty_cache()
    else:
        keep_freed()
