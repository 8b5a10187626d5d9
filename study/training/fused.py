"""Batch normalisation, the shortcut's addition and ReLU in one Triton kernel each way, for training in bfloat16.

The 50-layer nets on small images are limited by memory traffic: torch runs normalisation, addition and ReLU one
after the other, and each reads and writes the whole activation. Here the forward pass reads the convolution's output
twice (statistics, then all three operations) and writes once, the backward pass likewise. Tiles are fixed and sums
have two stages without atomics, so that two runs give the same bits. Activations are channels_last; sums, statistics and
parameters are float32. Only training uses it: evaluation, the CPU and other layouts keep torch's operations.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How one kernel divides an activation of (rows, channels): a row is one pixel of one image."""

    rows: int
    channels: int
    warps: int
    programs: int = 0
    """Partial sums per channel at most, where the kernel sums: several programs for each multiprocessor."""


TILES = {
    "forward sums": Tile(rows=64, channels=64, warps=4, programs=512),
    "forward apply": Tile(rows=32, channels=128, warps=4),
    "backward sums": Tile(rows=64, channels=64, warps=4, programs=512),
    "backward apply": Tile(rows=32, channels=128, warps=4),
    "finish": Tile(rows=256, channels=8, warps=4),
}
"""The fastest that ``tests.bench.gpu.kernels`` found on an H200; the rows of "finish" are partial sums."""


@triton.jit  # type: ignore[untyped-decorator]
def _forward_sums(x, partial, rows, channels, tiles, ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sum and sum of squares of each channel over ``tiles`` tiles of rows, relative to the first row."""
    program, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    origin = tl.load(x + c, mask=known, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for tile in range(tiles):
        r = (program * tiles + tile) * ROWS + tl.arange(0, ROWS)
        there = (r < rows)[:, None] & known[None, :]
        place = r.to(tl.int64)[:, None] * channels + c[None, :]
        value = tl.load(x + place, mask=there, other=0.0).to(tl.float32) - origin[None, :]
        value = tl.where(there, value, 0.0)
        total += value
        squares += value * value
    out = partial + program * 2 * channels + c
    tl.store(out, tl.sum(total, 0), mask=known)
    tl.store(out + channels, tl.sum(squares, 0), mask=known)


@triton.jit  # type: ignore[untyped-decorator]
def _forward_finish(  # type: ignore[no-untyped-def]
    x, partial, gamma, beta, running_mean, running_var, batches, statistics,
    rows, channels, programs, momentum, eps,
    PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean, 1/deviation, scale and shift of each channel into ``statistics``; the running averages."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    total = tl.zeros((PARTS, CHANNELS), tl.float32)
    squares = tl.zeros((PARTS, CHANNELS), tl.float32)
    for first in range(0, programs, PARTS):
        p = first + tl.arange(0, PARTS)
        there = (p < programs)[:, None] & known[None, :]
        place = p[:, None] * 2 * channels + c[None, :]
        total += tl.load(partial + place, mask=there, other=0.0)
        squares += tl.load(partial + place + channels, mask=there, other=0.0)
    origin = tl.load(x + c, mask=known, other=0.0).to(tl.float32)
    offset = tl.sum(total, 0) / rows
    variance = tl.maximum(tl.sum(squares, 0) / rows - offset * offset, 0.0)
    mean = origin + offset
    inverse = 1.0 / tl.sqrt(variance + eps)
    scale = tl.load(gamma + c, mask=known, other=0.0) * inverse
    shift = tl.load(beta + c, mask=known, other=0.0) - mean * scale
    tl.store(statistics + c, mean, mask=known)
    tl.store(statistics + channels + c, inverse, mask=known)
    tl.store(statistics + 2 * channels + c, scale, mask=known)
    tl.store(statistics + 3 * channels + c, shift, mask=known)
    old = tl.load(running_mean + c, mask=known, other=0.0)
    tl.store(running_mean + c, old + momentum * (mean - old), mask=known)
    old = tl.load(running_var + c, mask=known, other=0.0)
    unbiased = variance * (rows / (rows - 1.0))
    tl.store(running_var + c, old + momentum * (unbiased - old), mask=known)
    if tl.program_id(0) == 0:
        tl.store(batches, tl.load(batches) + 1)


@triton.jit  # type: ignore[untyped-decorator]
def _forward_apply(  # type: ignore[no-untyped-def]
    x, shortcut, statistics, y, rows, channels,
    ADD: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    there = (r < rows)[:, None] & known[None, :]
    place = r.to(tl.int64)[:, None] * channels + c[None, :]
    scale = tl.load(statistics + 2 * channels + c, mask=known, other=0.0)
    shift = tl.load(statistics + 3 * channels + c, mask=known, other=0.0)
    value = tl.load(x + place, mask=there, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
    if ADD:
        value += tl.load(shortcut + place, mask=there, other=0.0).to(tl.float32)
    if RELU:
        value = tl.where(value > 0, value, 0.0)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_sums(  # type: ignore[no-untyped-def]
    grad, x, y, statistics, passed, partial, rows, channels, tiles,
    ADD: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient and of gradient x normalised input; with a shortcut, its gradient into ``passed``."""
    program, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    mean = tl.load(statistics + c, mask=known, other=0.0)
    inverse = tl.load(statistics + channels + c, mask=known, other=0.0)
    scale = tl.load(statistics + 2 * channels + c, mask=known, other=0.0)
    shift = tl.load(statistics + 3 * channels + c, mask=known, other=0.0)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for tile in range(tiles):
        r = (program * tiles + tile) * ROWS + tl.arange(0, ROWS)
        there = (r < rows)[:, None] & known[None, :]
        place = r.to(tl.int64)[:, None] * channels + c[None, :]
        g = tl.load(grad + place, mask=there, other=0.0).to(tl.float32)
        value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        if RELU:
            if ADD:
                alive = tl.load(y + place, mask=there, other=0.0).to(tl.float32) > 0
            else:
                alive = value * scale[None, :] + shift[None, :] > 0
            g = tl.where(alive, g, 0.0)
        if ADD:
            tl.store(passed + place, g.to(passed.dtype.element_ty), mask=there)
        total += g
        products += g * (value - mean[None, :]) * inverse[None, :]
    out = partial + program * 2 * channels + c
    tl.store(out, tl.sum(total, 0), mask=known)
    tl.store(out + channels, tl.sum(products, 0), mask=known)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_finish(partial, sums, channels, programs, PARTS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    total = tl.zeros((PARTS, CHANNELS), tl.float32)
    products = tl.zeros((PARTS, CHANNELS), tl.float32)
    for first in range(0, programs, PARTS):
        p = first + tl.arange(0, PARTS)
        there = (p < programs)[:, None] & known[None, :]
        place = p[:, None] * 2 * channels + c[None, :]
        total += tl.load(partial + place, mask=there, other=0.0)
        products += tl.load(partial + place + channels, mask=there, other=0.0)
    tl.store(sums + c, tl.sum(total, 0), mask=known)
    tl.store(sums + channels + c, tl.sum(products, 0), mask=known)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_apply(  # type: ignore[no-untyped-def]
    grad, x, statistics, sums, dx, rows, channels,
    MASK: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``grad`` is that of the normalised values; with MASK, the ReLU's zeros are found again first."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    there = (r < rows)[:, None] & known[None, :]
    place = r.to(tl.int64)[:, None] * channels + c[None, :]
    mean = tl.load(statistics + c, mask=known, other=0.0)
    inverse = tl.load(statistics + channels + c, mask=known, other=0.0)
    scale = tl.load(statistics + 2 * channels + c, mask=known, other=0.0)
    shift = tl.load(statistics + 3 * channels + c, mask=known, other=0.0)
    total = tl.load(sums + c, mask=known, other=0.0) / rows
    product = tl.load(sums + channels + c, mask=known, other=0.0) / rows
    g = tl.load(grad + place, mask=there, other=0.0).to(tl.float32)
    value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    if MASK:
        g = tl.where(value * scale[None, :] + shift[None, :] > 0, g, 0.0)
    normal = (value - mean[None, :]) * inverse[None, :]
    out = scale[None, :] * (g - total[None, :] - normal * product[None, :])
    tl.store(dx + place, out.to(dx.dtype.element_ty), mask=there)


class _NormAddRelu(torch.autograd.Function):
    """``relu(batch_norm(x) + shortcut)``; x and shortcut (n, c, h, w) channels_last, statistics of the batch."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        shortcut: Tensor | None,
        norm: nn.BatchNorm2d,
        relu: bool,
    ) -> Tensor:
        statistics, y = (
            torch.empty((4, x.shape[1]), dtype=torch.float32, device=x.device),
            torch.empty_like(x),
        )
        forward_finish(x, forward_sums(x), gamma, beta, norm, statistics)
        forward_apply(x, shortcut, statistics, y, relu=relu)
        add = shortcut is not None
        ctx.save_for_backward(x, statistics, *([y] if add and relu else []))
        ctx.add, ctx.relu = add, relu
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, statistics, *outputs = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        passed = torch.empty_like(x) if ctx.add else None
        partial = backward_sums(grad, x, outputs[0] if outputs else x, statistics, passed, relu=ctx.relu)
        sums = backward_finish(partial)
        dx = torch.empty_like(x)
        mask = ctx.relu and not ctx.add  # else the sums' pass has applied it
        backward_apply(grad if passed is None else passed, x, statistics, sums, dx, mask=mask)
        return dx, sums[1], sums[0], passed, None, None


def forward_sums(x: Tensor) -> Tensor:
    """Partial sums, float32 (programs, 2, channels)."""
    tile, rows, channels = TILES["forward sums"], _rows(x), x.shape[1]
    programs, tiles = _split(rows, tile)
    partial = torch.empty((programs, 2, channels), dtype=torch.float32, device=x.device)
    grid = (programs, triton.cdiv(channels, tile.channels))
    _forward_sums[grid](
        x, partial, rows, channels, tiles, ROWS=tile.rows, CHANNELS=tile.channels, num_warps=tile.warps
    )
    return partial


def forward_finish(
    x: Tensor, partial: Tensor, gamma: Tensor, beta: Tensor, norm: nn.BatchNorm2d, statistics: Tensor
) -> None:
    tile, channels = TILES["finish"], x.shape[1]
    _forward_finish[(triton.cdiv(channels, tile.channels),)](
        x, partial, gamma, beta, norm.running_mean, norm.running_var, norm.num_batches_tracked, statistics,
        _rows(x), channels, len(partial), norm.momentum, norm.eps, PARTS=tile.rows, CHANNELS=tile.channels,
        num_warps=tile.warps,
    )  # fmt: skip


def forward_apply(x: Tensor, shortcut: Tensor | None, statistics: Tensor, y: Tensor, *, relu: bool) -> None:
    tile, rows, channels = TILES["forward apply"], _rows(x), x.shape[1]
    grid = (triton.cdiv(rows, tile.rows), triton.cdiv(channels, tile.channels))
    _forward_apply[grid](
        x, x if shortcut is None else shortcut, statistics, y, rows, channels, ADD=shortcut is not None, RELU=relu,
        ROWS=tile.rows, CHANNELS=tile.channels, num_warps=tile.warps,
    )  # fmt: skip


def backward_sums(
    grad: Tensor, x: Tensor, y: Tensor, statistics: Tensor, passed: Tensor | None, *, relu: bool
) -> Tensor:
    """Partial sums, float32 (programs, 2, channels); with a shortcut, its gradient goes into ``passed``."""
    tile, rows, channels = TILES["backward sums"], _rows(x), x.shape[1]
    programs, tiles = _split(rows, tile)
    partial = torch.empty((programs, 2, channels), dtype=torch.float32, device=x.device)
    grid = (programs, triton.cdiv(channels, tile.channels))
    _backward_sums[grid](
        grad, x, y, statistics, x if passed is None else passed, partial, rows, channels, tiles,
        ADD=passed is not None, RELU=relu, ROWS=tile.rows, CHANNELS=tile.channels, num_warps=tile.warps,
    )  # fmt: skip
    return partial


def backward_finish(partial: Tensor) -> Tensor:
    """The sums, float32 (2, channels): the gradients of shift and scale."""
    tile, (programs, _, channels) = TILES["finish"], partial.shape
    sums = torch.empty((2, channels), dtype=torch.float32, device=partial.device)
    _backward_finish[(triton.cdiv(channels, tile.channels),)](
        partial, sums, channels, programs, PARTS=tile.rows, CHANNELS=tile.channels, num_warps=tile.warps
    )
    return sums


def backward_apply(
    grad: Tensor, x: Tensor, statistics: Tensor, sums: Tensor, dx: Tensor, *, mask: bool
) -> None:
    tile, rows, channels = TILES["backward apply"], _rows(x), x.shape[1]
    grid = (triton.cdiv(rows, tile.rows), triton.cdiv(channels, tile.channels))
    _backward_apply[grid](
        grad, x, statistics, sums, dx, rows, channels, MASK=mask, ROWS=tile.rows, CHANNELS=tile.channels,
        num_warps=tile.warps,
    )  # fmt: skip


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _split(rows: int, tile: Tile) -> tuple[int, int]:
    """Programs, and tiles of each: from the number of rows alone, so that sums are always in the same order."""
    tiles = max(1, triton.cdiv(triton.cdiv(rows, tile.rows), tile.programs))
    return triton.cdiv(rows, tile.rows * tiles), tiles


def norm_add_relu(
    x: Tensor, norm: nn.BatchNorm2d, shortcut: Tensor | None = None, *, relu: bool = True
) -> Tensor:
    """``relu(norm(x) + shortcut)``, as torch computes it but rounded to bfloat16 once instead of three times."""
    if not (norm.training and _usable(x) and (shortcut is None or _usable(shortcut))):
        out: Tensor = norm(x)
        out = out if shortcut is None else out + shortcut
        return torch.relu(out) if relu else out
    result: Tensor = _NormAddRelu.apply(x, norm.weight, norm.bias, shortcut, norm, relu)
    return result


def _usable(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last)


def fuse(net: nn.Module) -> int:
    """Have torchvision's residual blocks in ``net`` train with the fused kernels; how many blocks do.

    Parameters, their names and evaluation stay as they are. Blocks of other kinds, or with another normalisation, are left.
    """
    count = 0
    for block in net.modules():
        if type(block) in _FORWARDS and all(
            type(norm) is nn.BatchNorm2d
            and norm.affine
            and norm.track_running_stats
            and norm.momentum is not None
            for name, norm in block.named_modules()
            if name.startswith("bn") or name == "downsample.1"
        ):
            block.forward = MethodType(_FORWARDS[type(block)], block)
            count += 1
    return count


def _shortcut(block: Any, x: Tensor) -> Tensor:
    if block.downsample is None:
        return x
    if len(block.downsample) == 2 and type(block.downsample[1]) is nn.BatchNorm2d:
        return norm_add_relu(block.downsample[0](x), block.downsample[1], relu=False)
    shortcut: Tensor = block.downsample(x)
    return shortcut


def _bottleneck(block: Any, x: Tensor) -> Tensor:
    out = norm_add_relu(block.conv1(x), block.bn1)
    out = norm_add_relu(block.conv2(out), block.bn2)
    return norm_add_relu(block.conv3(out), block.bn3, _shortcut(block, x))


def _basic(block: Any, x: Tensor) -> Tensor:
    out = norm_add_relu(block.conv1(x), block.bn1)
    return norm_add_relu(block.conv2(out), block.bn2, _shortcut(block, x))


_FORWARDS: dict[type, Any] = {Bottleneck: _bottleneck, BasicBlock: _basic}
