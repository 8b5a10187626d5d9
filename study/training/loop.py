"""The training core: one loop that reads top to bottom and knows no Ray, no Optuna and no budget.

All randomness of epoch e comes from (seed, e): a run can be repeated, or stopped anywhere and continued,
to the last digit on the same kind of device with the same number of threads.
"""

import contextlib
import functools
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from search_spaces import Arm, ImageSpec
from study.data.images import Images, fetched
from study.protocol.records import Config, Epoch, Trial
from study.training.augment import normalise
from study.training.half import HalfWeights
from study.training.step import Step

MOMENTUM = 0.9
WARMUP = 0.1
"""Part of the run over which the learning rate rises linearly from 0 to its peak."""
EXPLODED = 10.0
"""A mean training loss above this multiple of guessing's loss, ln(classes), counts as diverged."""
EVAL_PIXELS = {"cpu": 500 * 32**2, "cuda": 1000 * 32**2}
"""Pixels per channel that are evaluated at once: fits a CPU's cache, fills a GPU and needs less memory than training.

Always this many, since another number may run other kernels, whose last digits differ.
"""
FUSED = ("cpu", "cuda")
"""Kinds of devices whose SGD is one kernel for all weights instead of several for each."""


HALVED = ("cuda",)
"""Kinds of devices that train in bfloat16, so that copies of the weights are worth keeping."""


class DivergedError(ArithmeticError):
    """The training loss is not finite, or many times that of guessing."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Training and validation images.

    ``images`` is uint8 (n, channels, size, size) on the training device, or on the host what has no room
    there: then batches are fetched ahead of their use. ``labels`` is int64 (n,), ``train`` and ``val`` are int64
    indices; all three are on the device. Images and labels may be shared memory that is only read.
    """

    images: Tensor | Images
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

    The weights are drawn on the device: on a host's few cores that takes as long as the first epoch of a short trial.

    channels_last is 1.3 to 1.5 x faster for these nets on a CPU, and what tensor cores want; grouped
    convolutions can be the exception.
    """
    with _seeded(seed, 0, device), device:
        net = arm.build(config, images)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return net.to(device=device, memory_format=layout)  # type: ignore[call-overload,no-any-return]


def fit(net: nn.Module, trial: Trial, data: Split, *, classes: int, **how: bool) -> Iterator[Epoch]:
    """Train ``net`` in place for ``trial.epochs`` passes and yield the measures of each, as ``Training`` does."""
    return Training(net, trial, data, classes=classes, **how).epochs()


class Training:
    """One run that trains ``net`` in place, and can stop and go on anywhere.

    SGD with Nesterov momentum 0.9; linear warm-up over the first tenth, then cosine or linear decay
    to zero at the full length. Weight decay acts on all parameters, as in the published CIFAR
    recipes. Mixed precision (bfloat16) on a GPU. The net after the last epoch counts.
    """

    def __init__(
        self,
        net: nn.Module,
        trial: Trial,
        data: Split,
        *,
        classes: int,
        graphed: bool = False,
        fused: bool = False,
        halved: bool = True,
    ) -> None:
        """On a GPU: ``graphed`` replays the step as one CUDA graph, which the arm must allow, and ``halved`` keeps
        bfloat16 copies of the weights: no digit changes. ``fused`` normalises, adds and clips in one kernel, which
        rounds less often.
        """
        self.net = net
        self.epoch = 0
        """Passes done so far."""
        self._trial, self._data, self._classes = trial, data, classes
        device = self._device = data.labels.device
        self._batch = min(int(trial.config["batch_size"]), len(data.train))
        # the rest of the images differs from epoch to epoch, so none is left out
        self._steps = len(data.train) // self._batch
        cuda = device.type == "cuda"
        self._half = HalfWeights(net) if halved and device.type in HALVED else None
        if fused and cuda:
            from study.training.fused import fuse  # Triton comes with torch where there is a GPU

            fuse(net)
        self._optimizer = torch.optim.SGD(
            net.parameters() if self._half is None else self._half.parameters,
            lr=0.0,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=float(trial.config["weight_decay"]),
            fused=device.type in FUSED,
        )
        self._generator = torch.Generator(device=device)
        # a graph is captured and replayed on a stream of its own, and what comes before it must be there too
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        with self._on_stream():
            self._step = Step(
                net,
                self._optimizer,
                nn.CrossEntropyLoss(label_smoothing=float(trial.config["label_smoothing"])),
                images=data.images if isinstance(data.images, Tensor) else None,
                shape=data.images.shape[1:],
                labels=data.labels,
                steps=self._steps,
                batch=self._batch,
                policy=str(trial.config["augment"]),
                layout=_layout(net),
                generator=self._generator,
                mixed=functools.partial(_mixed_precision, device),
                half=self._half,
                graphed=graphed,
            )
        self._now = _UnderWay()

    def epochs(self) -> Iterator[Epoch]:
        """The epochs that are left, trained as they are drawn."""
        while self.epoch < self._trial.epochs:
            epoch = self.advance()
            assert epoch is not None
            yield epoch

    def advance(self, seconds: float = math.inf) -> Epoch | None:
        """Train to the end of the epoch and measure it, or stop after about ``seconds``: None.

        Raises DivergedError after an epoch whose mean loss is not finite or has exploded.
        """
        with self._on_stream():
            return self._advance(seconds)

    def _advance(self, seconds: float) -> Epoch | None:
        began, now = time.perf_counter(), self._now
        self.net.train()
        with _seeded(self._trial.seed, self.epoch + 1, self._device, self._generator):
            if now.order is None:
                now.order = self._new_order()
                self._step.begin(now.order, self._rates(), step=now.step)
            if now.step == 0:
                self._step.clear()
            if now.batches is None and self._step.pixels is not None:
                left = now.order[now.step * self._batch :]
                now.batches = _batches(self._data.images, left, self._batch)
            _set_random_states(self._generator, now.random_states)
            while now.step < self._steps:
                if now.batches is not None and self._step.pixels is not None:
                    asked = time.perf_counter()
                    self._step.pixels.copy_(next(now.batches))
                    now.data_seconds += time.perf_counter() - asked
                self._step()
                now.step += 1
                if now.step < self._steps and time.perf_counter() - began > seconds:
                    now.random_states = _random_states(self._generator)
                    now.seconds += time.perf_counter() - began
                    return None
        train_loss = float(self._step.loss_sum) / self._steps  # the one host synchronisation of the epoch
        now.seconds += time.perf_counter() - began
        if not train_loss <= EXPLODED * math.log(self._classes):
            raise DivergedError(f"mean training loss {train_loss:.4g} in epoch {self.epoch + 1}")
        epoch = self._measure(train_loss, float(self._step.hits) / (self._steps * self._batch))
        self.epoch += 1
        self._now = _UnderWay()
        if self.epoch == self._trial.epochs and self._half is not None:
            self._half.restore()
        return epoch

    def correct(self) -> NDArray[np.bool_]:
        """Whether the net, as it is, is right on each validation image, in the order of the split."""
        right = (
            predict(self.net, self._data.images, self._data.val).argmax(1)
            == self._data.labels[self._data.val]
        )
        return right.cpu().numpy()

    def state(self, *, final: bool = False) -> dict[str, Any]:
        """All that ``load`` needs to go on from here, tensors and plain values only; when ``final``, the net alone."""
        now = self._now
        state = {"epoch": self.epoch, "net": (self._half or self.net).state_dict()}
        if final:
            return state
        return {
            **state,
            "step": now.step,
            "seconds": now.seconds,
            "data_seconds": now.data_seconds,
            "loss_sum": self._step.loss_sum,
            "hits": self._step.hits,
            "random_states": now.random_states,
            "optimizer": self._optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken, with equal results to the last digit on the same kind of device."""
        (self._half or self.net).load_state_dict(state["net"])
        self.epoch = state["epoch"]
        if "optimizer" not in state:
            return
        self._optimizer.load_state_dict(state["optimizer"])
        self._step.attach()
        now = self._now = _UnderWay()
        now.step, now.random_states = state["step"], state["random_states"]
        now.seconds, now.data_seconds = state["seconds"], state["data_seconds"]
        self._step.loss_sum.copy_(state["loss_sum"])
        self._step.hits.copy_(state["hits"])

    @property
    def steps_done(self) -> int:
        """Steps trained so far in the epoch that is under way."""
        return self._now.step

    @property
    def seconds(self) -> float:
        """Wall seconds trained so far in the epoch that is under way."""
        return self._now.seconds

    def _new_order(self) -> Tensor:
        """The images of the epoch's steps, int64 (steps * batch,), as its generator draws them."""
        train = self._data.train
        order = torch.randperm(len(train), generator=self._generator, device=self._device)
        return train[order[: self._steps * self._batch]]

    def _rates(self) -> list[float]:
        """The learning rate of every step of the epoch."""
        peak, schedule = float(self._trial.config["lr"]), str(self._trial.config["schedule"])
        first, total = self.epoch * self._steps, self._trial.epochs * self._steps
        return [peak * learning_rate(schedule, (first + step + 0.5) / total) for step in range(self._steps)]

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Work on the run's own stream, after all that was asked for before and before all that is asked for next."""
        if self._stream is None:
            yield
            return
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def _measure(self, train_loss: float, train_accuracy: float) -> Epoch:
        started = time.perf_counter()
        data = self._data
        probabilities = predict(self.net, data.images, data.val)
        labels = data.labels[data.val]
        val_loss = float(functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels))
        val_accuracy = int((probabilities.argmax(1) == labels).sum()) / len(labels)
        if not math.isfinite(val_loss):
            raise DivergedError(f"validation loss {val_loss} in epoch {self.epoch + 1}")
        return Epoch(
            trial=self._trial.id,
            epoch=self.epoch + 1,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            train_seconds=self._now.seconds,
            data_seconds=self._now.data_seconds,
            eval_seconds=time.perf_counter() - started,
        )


def predict(net: nn.Module, images: Tensor | Images, indices: Tensor) -> Tensor:
    """Class probabilities, float32 (len(indices), classes), of the images at ``indices``, on whose device the net is."""
    net.eval()
    layout = _layout(net)
    with torch.inference_mode(), _mixed_precision(indices.device), _repeatable():
        return torch.cat(
            [
                net(normalise(pixels.contiguous(memory_format=layout))).float().softmax(1)
                for pixels in _batches(images, indices, eval_batch(images.shape, indices.device))
            ]
        )


def eval_batch(shape: tuple[int, ...], device: torch.device) -> int:
    """How many images of this shape ``(n, channels, size, size)`` are evaluated at once on the device."""
    return max(1, EVAL_PIXELS.get(device.type, EVAL_PIXELS["cpu"]) // (shape[2] * shape[3]))


def _batches(images: Tensor | Images, order: Tensor, size: int) -> Iterator[Tensor]:
    """The pixels at ``order``, ``size`` images at a time, on its device; what is on the host comes ahead of its use."""
    if isinstance(images, Tensor):
        yield from (images[some] for some in torch.split(order, size))
        return
    device, cuda = order.device, order.device.type == "cuda"
    copies = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]

    pages: deque[Tensor] = deque()

    def page(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        pages.append(torch.empty(shape, dtype=torch.uint8, pin_memory=cuda))
        view: NDArray[np.uint8] = pages[-1].numpy()
        return view

    rows = (some.numpy() for some in torch.split(order.cpu(), size))
    for _ in fetched(images, rows, threads=torch.get_num_threads(), new=page):
        with torch.cuda.stream(copies):  # beside the step that still runs; no stream: nothing
            batch = pages.popleft().to(device, non_blocking=True)
        if copies is not None:
            used = torch.cuda.current_stream(device)
            used.wait_stream(copies)
            batch.record_stream(used)
        yield batch


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


def _repeatable() -> contextlib.AbstractContextManager[None]:
    """The same kernels each time, in training and evaluation."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


class _UnderWay:
    """The epoch that is being trained: how far it is."""

    def __init__(self) -> None:
        self.step = 0
        self.seconds = self.data_seconds = 0.0
        self.order: Tensor | None = None
        self.batches: Iterator[Tensor] | None = None
        """The images of the steps that are left, where they are streamed."""
        self.random_states: dict[str, Tensor] = {}
        """Of every generator, between two stretches; empty at the beginning, where all comes from (seed, epoch)."""


def _random_states(generator: torch.Generator) -> dict[str, Tensor]:
    states = {"own": generator.get_state(), "cpu": torch.random.get_rng_state()}
    if generator.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(generator: torch.Generator, states: Mapping[str, Tensor]) -> None:
    if states:
        generator.set_state(states["own"].cpu())
        torch.random.set_rng_state(states["cpu"].cpu())
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu())


@contextlib.contextmanager
def _seeded(
    seed: int, epoch: int, device: torch.device, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Seed ``generator`` for (seed, epoch), and torch's global one, the only one that dropout and initialisation know.

    The caller's global state is put back at the end.
    """
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _repeatable():
        torch.random.manual_seed(state)
        if generator is not None:
            generator.manual_seed(state)
        yield
