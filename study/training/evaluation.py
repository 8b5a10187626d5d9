"""Images in batches, and what a net makes of them."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from study.data.images import Images, fetched
from study.protocol.metrics import ACCURACY, Metric, log_probabilities
from study.protocol.validation import Kept
from study.training.augment import normalise
from study.training.randomness import repeatable

EVAL_PIXELS = {"cpu": 500 * 32**2, "cuda": 1000 * 32**2}
"""Pixels per channel that are evaluated at once: fits a CPU's cache, fills a GPU and needs less memory than training.

Always this many, since another number may run other kernels, whose last digits differ.
"""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Training and validation images.

    ``images`` is uint8 (n, channels, size, size) on the training device, or on the host if the device has no room; then batches
    are fetched ahead of their use. ``labels`` is int64 (n,), ``train`` and ``val`` are int64 indices; all three are on the
    device. Images and labels may be shared read-only memory.
    """

    images: Tensor | Images
    labels: Tensor
    train: Tensor
    val: Tensor


def predict(net: nn.Module, images: Tensor | Images, indices: Tensor) -> Tensor:
    """Class probabilities, float32 (len(indices), classes), of the images at ``indices``; the net is on their device."""
    net.eval()
    layout = layout_of(net)
    with torch.inference_mode(), mixed_precision(indices.device), repeatable():
        return torch.cat(
            [
                net(normalise(pixels.contiguous(memory_format=layout))).float().softmax(1)
                for pixels in batches(images, indices, eval_batch(images.shape, indices.device))
            ]
        )


def validate(net: nn.Module, data: Split, metric: Metric = ACCURACY) -> tuple[float, float, float | None]:
    """Loss, accuracy and the metric's score on the validation images; None for the score if the metric is accuracy."""
    probabilities = predict(net, data.images, data.val)
    labels = data.labels[data.val]
    loss = float(functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels))
    accuracy = int((probabilities.argmax(1) == labels).sum()) / len(labels)
    if metric is ACCURACY:
        return loss, accuracy, None
    kept = _scored(probabilities, labels, metric)
    return loss, accuracy, float(kept.sampling.mean(kept.scores))


def scored(net: nn.Module, data: Split, metric: Metric = ACCURACY) -> Kept:
    """The score of every validation image, in the order of the split."""
    return _scored(predict(net, data.images, data.val), data.labels[data.val], metric)


def _scored(probabilities: Tensor, labels: Tensor, metric: Metric) -> Kept:
    named = labels.cpu().numpy()
    if metric is ACCURACY:
        return Kept((probabilities.argmax(1) == labels).cpu().numpy())
    scores = metric.scores(log_probabilities(probabilities.cpu().numpy()), named)
    kept = scores if scores.dtype == np.bool_ else scores.astype(np.float32)
    return Kept(kept, named.astype(np.int32) if metric.by_class else None)


def eval_batch(shape: tuple[int, ...], device: torch.device) -> int:
    """How many images of this shape ``(n, channels, size, size)`` are evaluated at once on the device."""
    return max(1, EVAL_PIXELS.get(device.type, EVAL_PIXELS["cpu"]) // (shape[2] * shape[3]))


def batches(images: Tensor | Images, order: Tensor, size: int) -> Iterator[Tensor]:
    """The pixels at ``order``, ``size`` images at a time, on its device; images on the host are fetched ahead of their use."""
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
        with torch.cuda.stream(copies):  # beside the running step; a no-op without a stream
            batch = pages.popleft().to(device, non_blocking=True)
        if copies is not None:
            used = torch.cuda.current_stream(device)
            used.wait_stream(copies)
            batch.record_stream(used)
        yield batch


def layout_of(net: nn.Module) -> torch.memory_format:
    """The layout that ``build`` gave the net's kernels; kernels of one channel or one pixel fit both."""
    if any(p.dim() == 4 and not p.is_contiguous() for p in net.parameters()):
        return torch.channels_last
    return torch.contiguous_format


def mixed_precision(device: torch.device) -> torch.autocast:
    # bfloat16 has no fast units on most CPUs: measured 10 x slower there
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
