"""The training core: one loop that reads top to bottom and knows no Ray, no Optuna and no budget.

All randomness of epoch e comes from (seed, e): a run can be repeated, or stopped anywhere and continued, to the last digit on
the same kind of device with the same number of threads.
"""

import contextlib
import functools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Arm, ImageSpec
from study.protocol.metrics import ACCURACY, Metric
from study.protocol.records import Config, Epoch, Trial
from study.protocol.validation import Kept
from study.training import evaluation
from study.training.evaluation import Split, batches, layout_of, scored, validate
from study.training.losses import class_weights
from study.training.method import Method
from study.training.randomness import random_states, seeded, set_random_states
from study.training.step import Step

EXPLODED = 10.0
"""A mean training loss above this multiple of guessing's loss, ln(classes), counts as diverged."""
HALVED = ("cuda",)
"""Kinds of devices that train in bfloat16, so that copies of the weights are worth keeping."""


class DivergedError(ArithmeticError):
    """The training loss is not finite, or many times that of guessing."""


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

    The weights are drawn on the device: on a host's few cores this takes as long as the first epoch of a short trial.
    channels_last is 1.3 to 1.5 x faster for these nets on a CPU, and suits tensor cores; grouped convolutions can be an
    exception.
    """
    with seeded(seed, 0, device), device:
        net = arm.build(config, images)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return net.to(device=device, memory_format=layout)  # type: ignore[call-overload,no-any-return]


def fit(net: nn.Module, trial: Trial, data: Split, *, classes: int, **how: Any) -> Iterator[Epoch]:
    """Train ``net`` in place for ``trial.epochs`` passes and yield the measurements of each, as ``Training`` does."""
    return Training(net, trial, data, classes=classes, **how).epochs()


class Training:
    """One run that trains ``net`` in place, and can stop and resume anywhere.

    The trial's setting says how (``Method``): learning rates rise linearly and then decay to zero at the full length, weights may
    be averaged. Mixed precision (bfloat16) on a GPU. The net after the last epoch counts.
    """

    def __init__(
        self,
        net: nn.Module,
        trial: Trial,
        data: Split,
        *,
        classes: int,
        warmup: float = 0.1,
        metric: Metric = ACCURACY,
        graphed: bool = False,
        fused: bool = False,
        halved: bool = True,
    ) -> None:
        """On a GPU, ``graphed`` replays the step as one CUDA graph, if the arm allows it, and ``halved`` keeps bfloat16
        copies of the weights: neither changes a digit. ``fused`` normalises, adds and clips in one kernel, which rounds
        less often.
        """
        self.net = net
        self.epoch = 0
        """Passes done so far."""
        self._trial, self._data, self._classes, self._metric = trial, data, classes, metric
        device = self._device = data.labels.device
        self._batch = min(int(trial.config["batch_size"]), len(data.train))
        # a remainder is dropped: other images in every epoch, so that none is left out
        self._steps = len(data.train) // self._batch
        cuda = device.type == "cuda"
        self._method = Method(
            net, trial, steps=self._steps, side=data.images.shape[-1], device=device, warmup=warmup,
            halved=halved and device.type in HALVED,
        )  # fmt: skip
        if fused and cuda:
            from study.training.fused import fuse  # Triton comes with torch where there is a GPU

            fuse(net)
        self._generator = torch.Generator(device=device)
        # a graph is captured and replayed on its own stream, where the work before it must run too
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        with self._on_stream():
            self._step = Step(
                self._method,
                nn.CrossEntropyLoss(
                    weight=class_weights(trial.config, data, classes),
                    label_smoothing=float(trial.config["label_smoothing"]),
                ),
                images=data.images if isinstance(data.images, Tensor) else None,
                shape=data.images.shape[1:],
                labels=data.labels,
                steps=self._steps,
                batch=self._batch,
                layout=layout_of(net),
                generator=self._generator,
                mixed=functools.partial(evaluation.mixed_precision, device),
                graphed=graphed,
            )
        self._now = _UnderWay()

    def epochs(self) -> Iterator[Epoch]:
        """The remaining epochs, trained as they are drawn."""
        while self.epoch < self._trial.epochs:
            epoch = self.advance()
            assert epoch is not None
            yield epoch

    def advance(self, seconds: float = math.inf) -> Epoch | None:
        """Train to the end of the epoch and measure it, or stop after about ``seconds`` and return None.

        Raises DivergedError after an epoch whose mean loss is not finite or has exploded.
        """
        with self._on_stream():
            return self._advance(seconds)

    def _advance(self, seconds: float) -> Epoch | None:
        began, now = time.perf_counter(), self._now
        self._method.train()
        with seeded(self._trial.seed, self.epoch + 1, self._device, self._generator):
            if now.order is None:
                now.order = self._new_order()
                self._step.begin(now.order, self._method.begin(self.epoch), step=now.step)
            if now.step == 0:
                self._step.clear()
            if now.batches is None and self._step.pixels is not None:
                left = now.order[now.step * self._batch :]
                now.batches = batches(self._data.images, left, self._batch)
            set_random_states(self._generator, now.random_states)
            while now.step < self._steps:
                if now.batches is not None and self._step.pixels is not None:
                    asked = time.perf_counter()
                    self._step.pixels.copy_(next(now.batches))
                    now.data_seconds += time.perf_counter() - asked
                self._step()
                now.step += 1
                if now.step < self._steps and time.perf_counter() - began > seconds:
                    now.random_states = random_states(self._generator)
                    now.seconds += time.perf_counter() - began
                    return None
        train_loss = float(self._step.loss_sum) / self._steps  # the one host synchronisation of the epoch
        now.seconds += time.perf_counter() - began
        if not train_loss <= EXPLODED * math.log(self._classes):
            raise DivergedError(f"mean training loss {train_loss:.4g} in epoch {self.epoch + 1}")
        epoch = self._measure(train_loss, float(self._step.hits) / (self._steps * self._batch))
        self.epoch += 1
        self._now = _UnderWay()
        if self.epoch == self._trial.epochs:
            self._method.finish()
        return epoch

    def kept(self) -> Kept:
        """How the present net does on each validation image, in the order of the split."""
        return scored(self.net, self._data, self._metric)

    def state(self, *, final: bool = False) -> dict[str, Any]:
        """What ``load`` needs to resume here, tensors and plain values only; if ``final``, the net alone."""
        now = self._now
        state = {"epoch": self.epoch, "net": self._method.weights()}
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
            **self._method.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Resume where ``state`` was taken, with equal results to the last digit on the same kind of device."""
        self._method.load(state["net"], state if "optimizer" in state else None)
        self.epoch = state["epoch"]
        if "optimizer" not in state:
            return
        self._step.attach()
        now = self._now = _UnderWay()
        now.step, now.random_states = state["step"], state["random_states"]
        now.seconds, now.data_seconds = state["seconds"], state["data_seconds"]
        self._step.loss_sum.copy_(state["loss_sum"])
        self._step.hits.copy_(state["hits"])

    @property
    def steps_done(self) -> int:
        """Steps trained so far in the current epoch."""
        return self._now.step

    @property
    def seconds(self) -> float:
        """Wall seconds trained so far in the current epoch."""
        return self._now.seconds

    def _new_order(self) -> Tensor:
        """The images of the epoch's steps, int64 (steps * batch,), drawn by its generator."""
        train = self._data.train
        order = torch.randperm(len(train), generator=self._generator, device=self._device)
        return train[order[: self._steps * self._batch]]

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Work on the run's own stream, after all work queued before and before all work queued later."""
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
        with self._method.shown():
            val_loss, val_accuracy, score = validate(self.net, self._data, self._metric)
        if not math.isfinite(val_loss):
            raise DivergedError(f"validation loss {val_loss} in epoch {self.epoch + 1}")
        return Epoch(
            trial=self._trial.id,
            epoch=self.epoch + 1,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            score=score,
            train_seconds=self._now.seconds,
            data_seconds=self._now.data_seconds,
            eval_seconds=time.perf_counter() - started,
        )


class _UnderWay:
    """The current epoch: how far it is."""

    def __init__(self) -> None:
        self.step = 0
        self.seconds = self.data_seconds = 0.0
        self.order: Tensor | None = None
        self.batches: Iterator[Tensor] | None = None
        """The images of the remaining steps, if they are streamed."""
        self.random_states: dict[str, Tensor] = {}
        """Of every generator, between two stretches; empty at the beginning, when all comes from (seed, epoch)."""
