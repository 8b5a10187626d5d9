"""One training step that needs nothing from the host, so that a GPU can replay it as a single CUDA graph.

At a batch of 32 a ResNet-50 step is about 900 kernels: launching them one by one takes the host several times as long as the
GPU needs to run them. A graph launches all of them at once. To allow that, the step reads everything from fixed places on the
device: the epoch's order of images and its learning rates, indexed by a counter that the step advances, and one generator
whose state the graph carries on. The same code runs step by step on a CPU, and on a GPU without capture, with equal numbers.
"""

import functools
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from study.training.augment import augment
from study.training.method import Method
from study.training.mixing import erase

EAGER_STEPS = 3
"""Real steps before the capture: the libraries pick and set up their kernels, the optimizer its state."""
AHEAD = 2
"""Replays that the host may queue before it waits, so that its clock follows the device."""


class Step:
    """One step of the optimizer on a batch of fixed size; calling it trains the next batch of the epoch.

    ``order`` int64 (steps, batch), ``rates`` (steps, groups), ``index`` int64 (1,), ``loss_sum`` and ``hits`` are the epoch's state,
    on the device. Streamed images go into ``pixels`` uint8 (batch, channels, size, size) before each call; it is None if all
    images are on the device.
    """

    def __init__(
        self,
        method: Method,
        loss_of: Callable[[Tensor, Tensor], Tensor],
        *,
        images: Tensor | None,
        shape: Sequence[int],
        labels: Tensor,
        steps: int,
        batch: int,
        layout: torch.memory_format,
        generator: torch.Generator,
        mixed: Callable[[], torch.autocast],
        graphed: bool = False,
    ) -> None:
        device = labels.device
        self._net, self._optimizer, self._loss_of = method.net, method.optimizer, loss_of
        self._half, self._mixing, self._average = method.half, method.mixing, method.average
        self._parameters = list(method.net.parameters())  # found once: walking the net in every step is slow
        self._images, self._labels, self._policy = images, labels, str(method.config["augment"])
        self._erased, self._clip = (float(method.config.get(name, 0.0)) for name in ("erase", "clip"))
        self._layout, self._generator, self._mixed = layout, generator, mixed
        self.order = torch.zeros((steps, batch), dtype=torch.int64, device=device)
        # the type that optimizers compute with: double on a CPU, float on a GPU
        real = torch.float32 if device.type == "cuda" else torch.float64
        self.rates = torch.zeros((steps, len(self._optimizer.param_groups)), dtype=real, device=device)
        self._rates = self.rates[0].clone()
        self.index = torch.zeros(1, dtype=torch.int64, device=device)
        self.loss_sum = torch.zeros((), device=device)
        self.hits = torch.zeros((), device=device)
        self.pixels = (
            torch.zeros((batch, *shape), dtype=torch.uint8, device=device) if images is None else None
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        self._graphed = graphed and device.type == "cuda"
        self._done = 0
        self._queued: deque[torch.cuda.Event] = deque()
        self.attach()

    def attach(self) -> None:
        """Have the optimizer read its learning rates from the step's tensor; needed again after loading its state."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        self._trained = [p for group in self._optimizer.param_groups for p in group["params"]]

    def begin(self, order: Tensor, rates: Sequence[Sequence[float]], *, step: int = 0) -> None:
        """Set up an epoch with this ``order`` (steps * batch,), to continue at ``step``."""
        self.order.copy_(order.view_as(self.order))
        self.rates.copy_(torch.tensor(rates, dtype=self.rates.dtype))
        self.index.fill_(step)

    def clear(self) -> None:
        """Forget the epoch's sums."""
        self.loss_sum.zero_()
        self.hits.zero_()

    def __call__(self) -> None:
        """Train one batch. The device may be up to ``AHEAD`` steps behind when this returns."""
        if not self._graphed or self._done < EAGER_STEPS:
            self._done += 1
            self.run()
            return
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        if len(self._queued) >= AHEAD:
            done = self._queued.popleft()
            done.synchronize()
        else:
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._graph.replay()
        done.record()
        self._queued.append(done)

    def run(self) -> None:
        """The step itself: only device work, the same each time."""
        chosen = self.order.index_select(0, self.index)[0]
        labels = self._labels[chosen]
        pixels = self.pixels if self._images is None else self._images[chosen]
        assert pixels is not None
        inputs = self._inputs(pixels)
        self._rates.copy_(self.rates.index_select(0, self.index)[0])
        with self._mixed():
            logits = self._net(inputs)
            loss = self._by_label(functools.partial(self._loss_of, logits), labels)
        self._forget_gradients()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._half is not None:
            self._half.gather()
        if self._clip:
            nn.utils.clip_grad_norm_(self._trained, self._clip)
        self._optimizer.step()
        if self._half is not None:
            self._half.spread()
        if self._average is not None:
            self._average.update()
        named = logits.detach().argmax(1)
        self.loss_sum += loss.detach()
        self.hits += self._by_label(lambda labels: (named == labels).sum(), labels)
        self.index += 1

    def _inputs(self, pixels: Tensor) -> Tensor:
        inputs = augment(pixels.contiguous(memory_format=self._layout), self._policy, self._generator)
        if self._erased:
            inputs = erase(inputs, self._erased, self._generator)
        if self._mixing is not None:
            inputs = self._mixing.mix(inputs, self.index)
        return inputs.contiguous(memory_format=self._layout)

    def _by_label(self, of: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
        """``of(labels)``; of a mixed batch, weighed with that of the partners' labels."""
        return of(labels) if self._mixing is None else self._mixing.weigh(of, labels, self.index)

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _capture(self) -> None:
        """Record the step. A failure leaves this process useless: measuring tries it first, in a process of its own."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        self._forget_gradients()
        # thread_local: another thread that decodes images may allocate pinned memory meanwhile
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            self.run()
        self._graph = graph
