"""The optimizer, and its learning rate over a run: as in the published CIFAR recipes."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from study.protocol.records import Trial

MOMENTUM = 0.9
WARMUP = 0.1
"""Part of the run over which the learning rate rises linearly from 0 to its peak."""
FUSED = ("cpu", "cuda")
"""Kinds of devices whose SGD is one kernel for all weights instead of several for each."""


def sgd(parameters: Iterable[nn.Parameter], *, weight_decay: float, device: torch.device) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay acts on all parameters. Its learning rate is set at every step."""
    fused = device.type in FUSED
    return torch.optim.SGD(
        parameters, lr=0.0, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay, fused=fused
    )


def learning_rates(trial: Trial, epoch: int, steps: int) -> list[float]:
    """The learning rate of every step of epoch number ``epoch``, from 0, which has ``steps``."""
    peak, schedule = float(trial.config["lr"]), str(trial.config["schedule"])
    first, total = epoch * steps, trial.epochs * steps
    return [peak * learning_rate(schedule, (first + step + 0.5) / total) for step in range(steps)]


def learning_rate(kind: str, progress: float) -> float:
    """Factor on the peak learning rate at ``progress`` in (0, 1) of the run."""
    if progress < WARMUP:
        return progress / WARMUP
    left = (1 - progress) / (1 - WARMUP)
    return left if kind == "linear" else 0.5 * (1 - math.cos(math.pi * left))
