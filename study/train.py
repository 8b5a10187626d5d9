"""The training core: one loop that reads top to bottom and knows no Ray, no Optuna and no budget.

All randomness of epoch e comes from (seed, e): a run can be repeated, or continued at any epoch's
end, to the last digit on the same kind of device with the same number of threads.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces import Arm, ImageSpec
from study.augment import augment, normalise
from study.records import Config, Epoch, Trial

MOMENTUM = 0.9
WARMUP = 0.1
"""Part of the run over which the learning rate rises linearly from 0 to its peak."""
EXPLODED = 10.0
"""A mean training loss above this multiple of guessing's loss, ln(classes), counts as diverged."""
EVAL_PIXELS = {"cpu": 500 * 32**2, "cuda": 4000 * 32**2}
"""Pixels per channel that are evaluated at once: fits a CPU's cache, fills a GPU."""
FUSED = ("cpu", "cuda")
"""Kinds of devices whose SGD is one kernel for all weights instead of several for each."""


class DivergedError(ArithmeticError):
    """The training loss is not finite, or many times that of guessing."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Training and validation images on the training device.

    ``images`` is uint8 (n, channels, size, size), ``labels`` int64 (n,), both may be shared memory
    that is only read; ``train`` and ``val`` are int64 indices into them.
    """

    images: Tensor
    labels: Tensor
    train: Tensor
    val: Tensor


def build(
    arm: Arm,
    config: Config,
    images: ImageSpec,
    *,
    seed: int,
    device: torch.device,
    channels_last: bool = True,
) -> nn.Module:
    """The arm's network with weights drawn from ``seed``, on ``device``; ``fit`` and ``predict`` keep its layout.

    channels_last is 1.3 to 1.5 x faster for these nets on a CPU, and what tensor cores want; grouped
    convolutions can be the exception.
    """
    with _seeded(seed, 0, torch.device("cpu")):
        net = arm.build(config, images)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return net.to(device=device, memory_format=layout)  # type: ignore[call-overload,no-any-return]


def fit(net: nn.Module, trial: Trial, data: Split, *, classes: int) -> Iterator[Epoch]:
    """Train ``net`` in place for ``trial.epochs`` passes and yield the measures of each.

    SGD with Nesterov momentum 0.9; linear warm-up over the first tenth, then cosine or linear decay
    to zero at the full length. Weight decay acts on all parameters, as in the published CIFAR
    recipes. Mixed precision (bfloat16) on a GPU. The net after the last epoch counts.

    Raises DivergedError after an epoch whose mean loss is not finite or has exploded.
    """
    config, device = trial.config, data.images.device
    batch = min(int(config["batch_size"]), len(data.train))
    steps = len(data.train) // batch  # the rest differs from epoch to epoch, so no image is left out
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=0.0,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=float(config["weight_decay"]),
        fused=device.type in FUSED,
    )
    layout = _layout(net)
    loss_of = nn.CrossEntropyLoss(label_smoothing=float(config["label_smoothing"]))
    for epoch in range(1, trial.epochs + 1):
        started = time.perf_counter()
        net.train()
        loss_sum = torch.zeros((), device=device)
        hits = torch.zeros((), device=device)
        with _seeded(trial.seed, epoch, device) as generator:
            order = data.train[torch.randperm(len(data.train), generator=generator, device=device)]
            for step in range(steps):
                chosen = order[step * batch : (step + 1) * batch]
                labels = data.labels[chosen]
                images = data.images[chosen].contiguous(memory_format=layout)
                inputs = augment(images, str(config["augment"]), generator)
                progress = ((epoch - 1) * steps + step + 0.5) / (trial.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = float(config["lr"]) * learning_rate(str(config["schedule"]), progress)
                with _mixed_precision(device):
                    logits = net(inputs)
                    loss = loss_of(logits, labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                loss_sum += loss.detach()
                hits += (logits.detach().argmax(1) == labels).sum()
        train_loss = float(loss_sum) / steps  # the one host synchronisation of the epoch
        trained = time.perf_counter()
        if not train_loss <= EXPLODED * math.log(classes):
            raise DivergedError(f"mean training loss {train_loss:.4g} in epoch {epoch}")
        probabilities = predict(net, data.images, data.val)
        labels = data.labels[data.val]
        val_loss = float(functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels))
        val_accuracy = int((probabilities.argmax(1) == labels).sum()) / len(labels)
        if not math.isfinite(val_loss):
            raise DivergedError(f"validation loss {val_loss} in epoch {epoch}")
        yield Epoch(
            trial=trial.id,
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=float(hits) / (steps * batch),
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            train_seconds=trained - started,
            eval_seconds=time.perf_counter() - trained,
        )


def predict(net: nn.Module, images: Tensor, indices: Tensor) -> Tensor:
    """Class probabilities, float32 (len(indices), classes), of the images at ``indices``.

    As many at once as fit: where a GPU's memory ends, half as many.
    """
    net.eval()
    layout, device = _layout(net), images.device
    size = max(1, EVAL_PIXELS.get(device.type, EVAL_PIXELS["cpu"]) // (images.shape[2] * images.shape[3]))
    parts: list[Tensor] = []
    done = 0
    with torch.inference_mode(), _mixed_precision(device):
        while done < len(indices):
            try:
                batch = images[indices[done : done + size]].contiguous(memory_format=layout)
                parts.append(net(normalise(batch)).float().softmax(1))
            except torch.cuda.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
            else:
                done += len(parts[-1])
    return torch.cat(parts)


def _layout(net: nn.Module) -> torch.memory_format:
    """What ``build`` laid the net's kernels out in; those of one channel or one pixel are in both."""
    if any(p.dim() == 4 and not p.is_contiguous() for p in net.parameters()):
        return torch.channels_last
    return torch.contiguous_format


def learning_rate(kind: str, progress: float) -> float:
    """Factor on the peak learning rate at ``progress`` in (0, 1) of the run."""
    if progress < WARMUP:
        return progress / WARMUP
    left = (1 - progress) / (1 - WARMUP)
    return left if kind == "linear" else 0.5 * (1 - math.cos(math.pi * left))


def _mixed_precision(device: torch.device) -> torch.autocast:
    # bfloat16 has no fast units on most CPUs: measured 10 x slower there
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


@contextlib.contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """A generator for (seed, epoch); dropout and initialisation, which only know torch's global one, get it too.

    The caller's global state is put back at the end.
    """
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.random.manual_seed(state)
        yield torch.Generator(device=device).manual_seed(state)
