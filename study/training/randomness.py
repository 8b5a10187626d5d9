"""All randomness of an epoch comes from (seed, epoch), and can be kept and restored anywhere in between."""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor


def repeatable() -> contextlib.AbstractContextManager[None]:
    """The same kernels each time, in training and evaluation."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


def random_states(generator: torch.Generator) -> dict[str, Tensor]:
    states = {"own": generator.get_state(), "cpu": torch.random.get_rng_state()}
    if generator.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(generator: torch.Generator, states: Mapping[str, Tensor]) -> None:
    if states:
        generator.set_state(states["own"].cpu())
        torch.random.set_rng_state(states["cpu"].cpu())
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu())


@contextlib.contextmanager
def seeded(
    seed: int, epoch: int, device: torch.device, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Seed ``generator`` for (seed, epoch), and torch's global one, the only one that dropout and initialisation use.

    The caller's global state is restored at the end.
    """
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), repeatable():
        torch.random.manual_seed(state)
        if generator is not None:
            generator.manual_seed(state)
        yield
