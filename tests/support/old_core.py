"""The training core as it was before the static step (commit d04a70d), kept to show that no digit changed.


All randomness of epoch e comes from (seed, e): a run can be repeated, or stopped anywhere and continued,
to the last digit on the same kind of device with the same number of threads.
"""

import contextlib
import math
import time
import weakref
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
from study.memory import out_of_memory
from study.protocol.records import Config, Epoch, Trial
from study.training.augment import augment, normalise

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

    channels_last is 1.3 to 1.5 x faster for these nets on a CPU, and what tensor cores want; grouped
    convolutions can be the exception.
    """
    with _seeded(seed, 0, torch.device("cpu")):
        net = arm.build(config, images)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return net.to(device=device, memory_format=layout)  # type: ignore[call-overload,no-any-return]


def fit(net: nn.Module, trial: Trial, data: Split, *, classes: int) -> Iterator[Epoch]:
    """Train ``net`` in place for ``trial.epochs`` passes and yield the measures of each, as ``Training`` does."""
    return Training(net, trial, data, classes=classes).epochs()


class Training:
    """One run that trains ``net`` in place, and can stop and go on anywhere.

    SGD with Nesterov momentum 0.9; linear warm-up over the first tenth, then cosine or linear decay
    to zero at the full length. Weight decay acts on all parameters, as in the published CIFAR
    recipes. Mixed precision (bfloat16) on a GPU. The net after the last epoch counts.
    """

    def __init__(self, net: nn.Module, trial: Trial, data: Split, *, classes: int) -> None:
        self.net = net
        self.epoch = 0
        """Passes done so far."""
        self._trial, self._data, self._classes = trial, data, classes
        self._device = data.labels.device
        self._batch = min(int(trial.config["batch_size"]), len(data.train))
        # the rest of the images differs from epoch to epoch, so none is left out
        self._steps = len(data.train) // self._batch
        self._optimizer = torch.optim.SGD(
            net.parameters(),
            lr=0.0,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=float(trial.config["weight_decay"]),
            fused=self._device.type in FUSED,
        )
        self._layout = _layout(net)
        self._loss_of = nn.CrossEntropyLoss(label_smoothing=float(trial.config["label_smoothing"]))
        self._now = _UnderWay(self._device)

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
        began, now = time.perf_counter(), self._now
        self.net.train()
        with _seeded(self._trial.seed, self.epoch + 1, self._device) as generator:
            if now.order is None:
                now.order = self._new_order(generator)
            if now.batches is None:
                left = now.order[now.step * self._batch : self._steps * self._batch]
                now.batches = _batches(self._data.images, left, self._batch)
            _set_random_states(generator, now.random_states)
            while now.step < self._steps:
                self._train_step(now, now.order, now.batches, generator)
                if now.step < self._steps and time.perf_counter() - began > seconds:
                    now.random_states = _random_states(generator)
                    now.seconds += time.perf_counter() - began
                    return None
        train_loss = float(now.loss_sum) / self._steps  # the one host synchronisation of the epoch
        now.seconds += time.perf_counter() - began
        if not train_loss <= EXPLODED * math.log(self._classes):
            raise DivergedError(f"mean training loss {train_loss:.4g} in epoch {self.epoch + 1}")
        epoch = self._measure(train_loss, float(now.hits) / (self._steps * self._batch))
        self.epoch += 1
        self._now = _UnderWay(self._device)
        return epoch

    def state(self, *, final: bool = False) -> dict[str, Any]:
        """All that ``load`` needs to go on from here, tensors and plain values only; when ``final``, the net alone."""
        now = self._now
        state = {"epoch": self.epoch, "net": self.net.state_dict()}
        if final:
            return state
        return {
            **state,
            "step": now.step,
            "seconds": now.seconds,
            "data_seconds": now.data_seconds,
            "loss_sum": now.loss_sum,
            "hits": now.hits,
            "random_states": now.random_states,
            "optimizer": self._optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken, with equal results to the last digit on the same kind of device."""
        self.net.load_state_dict(state["net"])
        self.epoch = state["epoch"]
        if "optimizer" not in state:
            return
        self._optimizer.load_state_dict(state["optimizer"])
        now = self._now = _UnderWay(self._device)
        now.step, now.random_states = state["step"], state["random_states"]
        now.seconds, now.data_seconds = state["seconds"], state["data_seconds"]
        now.loss_sum, now.hits = (state[name].to(self._device) for name in ("loss_sum", "hits"))
        if now.step:
            with _seeded(self._trial.seed, self.epoch + 1, self._device) as generator:
                now.order = self._new_order(generator)

    @property
    def seconds(self) -> float:
        """Wall seconds trained so far in the epoch that is under way."""
        return self._now.seconds

    def _new_order(self, generator: torch.Generator) -> Tensor:
        train = self._data.train
        return train[torch.randperm(len(train), generator=generator, device=self._device)]

    def _train_step(
        self, now: "_UnderWay", order: Tensor, batches: Iterator[Tensor], generator: torch.Generator
    ) -> None:
        config, data = self._trial.config, self._data
        chosen = order[now.step * self._batch : (now.step + 1) * self._batch]
        labels = data.labels[chosen]
        asked = time.perf_counter()
        images = next(batches).contiguous(memory_format=self._layout)
        now.data_seconds += time.perf_counter() - asked
        inputs = augment(images, str(config["augment"]), generator)
        progress = (self.epoch * self._steps + now.step + 0.5) / (self._trial.epochs * self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = float(config["lr"]) * learning_rate(str(config["schedule"]), progress)
        with _mixed_precision(self._device):
            logits = self.net(inputs)
            loss = self._loss_of(logits, labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        now.loss_sum += loss.detach()
        now.hits += (logits.detach().argmax(1) == labels).sum()
        now.step += 1

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
    """Class probabilities, float32 (len(indices), classes), of the images at ``indices``, on whose device the net is.

    As many at once as fit: where the memory ends, half as many, for this net from then on.
    """
    net.eval()
    layout, device = _layout(net), indices.device
    most = EVAL_PIXELS.get(device.type, EVAL_PIXELS["cpu"]) // (images.shape[2] * images.shape[3])
    size = _FITS.get(net, max(1, most))
    parts: list[Tensor] = []
    with torch.inference_mode(), _mixed_precision(device), _repeatable():
        for pixels in _batches(images, indices, size):
            done = 0
            while done < len(pixels):
                try:
                    batch = pixels[done : done + size].contiguous(memory_format=layout)
                    parts.append(net(normalise(batch)).float().softmax(1))
                    done += len(parts[-1])
                    continue
                except Exception as error:
                    if size == 1 or not out_of_memory(error):
                        raise
                # not before: until here the error holds what the net had computed
                _FITS[net] = size = size // 2
                torch.cuda.empty_cache()
    return torch.cat(parts)


_FITS: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""How many images at once a net could be evaluated with, where that had to be found out."""


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
    """The epoch that is being trained: how far it is, and what it has measured so far."""

    def __init__(self, device: torch.device) -> None:
        self.step = 0
        self.seconds = self.data_seconds = 0.0
        self.loss_sum = torch.zeros((), device=device)
        self.hits = torch.zeros((), device=device)
        self.order: Tensor | None = None
        self.batches: Iterator[Tensor] | None = None
        """The images of the steps that are left."""
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
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """A generator for (seed, epoch); dropout and initialisation, which only know torch's global one, get it too.

    The caller's global state is put back at the end.
    """
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _repeatable():
        torch.random.manual_seed(state)
        yield torch.Generator(device=device).manual_seed(state)
