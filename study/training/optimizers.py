"""The optimizer, and the learning rate of each of its groups over a run."""

import math
from collections.abc import Sequence

import torch

from study.protocol.records import Config, Trial
from study.training.half import HalfWeights
from study.training.parameters import Group

MOMENTUM = 0.9
FUSED = ("cpu", "cuda")
"""Kinds of devices whose optimizers are one kernel for all weights instead of several for each."""


def adaptive(config: Config) -> bool:
    """Whether the setting's optimizer is AdamW; else it is SGD."""
    return config.get("optimizer", "sgd") == "adamw"


def rate_name(config: Config) -> str:
    return "adamw_lr" if adaptive(config) else "lr"


def optimizer(
    groups: Sequence[Group], config: Config, *, device: torch.device, half: HalfWeights | None
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, whose decay is decoupled. The rates are set at every step."""
    decay = float(config["adamw_weight_decay" if adaptive(config) else "weight_decay"])
    fused = device.type in FUSED
    parts = [
        {
            "params": group.parameters if half is None else [half.trained(p) for p in group.parameters],
            "weight_decay": decay if group.decays else 0.0,
        }
        for group in groups
    ]
    if adaptive(config):
        return torch.optim.AdamW(parts, lr=0.0, fused=fused, capturable=device.type == "cuda")
    return torch.optim.SGD(parts, lr=0.0, momentum=MOMENTUM, nesterov=True, fused=fused)


def learning_rates(
    trial: Trial, epoch: int, steps: int, groups: Sequence[Group], warmup: float
) -> list[list[float]]:
    """The groups' learning rates at every step of epoch number ``epoch``, from 0, which has ``steps``."""
    peak, schedule = float(trial.config[rate_name(trial.config)]), str(trial.config.get("schedule", "cosine"))
    first, total = epoch * steps, trial.epochs * steps
    factors = [learning_rate(schedule, (first + step + 0.5) / total, warmup) for step in range(steps)]
    return [[peak * group.scale * factor for group in groups] for factor in factors]


def learning_rate(kind: str, progress: float, warmup: float) -> float:
    """Factor on the peak learning rate at ``progress`` in (0, 1) of the run: a linear rise, then linear or cosine decay to zero."""
    if progress < warmup:
        return progress / warmup
    left = (1 - progress) / (1 - warmup)
    return left if kind == "linear" else 0.5 * (1 - math.cos(math.pi * left))
