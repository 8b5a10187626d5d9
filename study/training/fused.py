"""Batch normalisation, the shortcut's addition and ReLU in one Triton kernel each way, for training in bfloat16.

The 50-layer nets on small images are limited by memory traffic: torch runs normalisation, addition and ReLU one
after the other, and each reads and writes the whole activation. Here the forward pass reads the convolution's output
twice (statistics, then all three operations) and writes once, the backward pass likewise. Activations are channels_last;
sums, statistics and parameters are float32. Only training uses it: evaluation, the CPU and other layouts keep torch's
operations.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import triton
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from study.training import kernels


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How one kernel divides an activation of (rows, channels): a row is one pixel of one image."""

    rows: int
    channels: int
    warps: int
    programs: int = 0
    """Partial sums per channel, at most, if the kernel sums: several programs for each multiprocessor."""


TILES = {
    "forward sums": Tile(rows=64, channels=64, warps=4, programs=512),
    "forward apply": Tile(rows=32, channels=128, warps=4),
    "backward sums": Tile(rows=64, channels=64, warps=4, programs=512),
    "backward apply": Tile(rows=32, channels=128, warps=4),
    "finish": Tile(rows=256, channels=8, warps=4),
}
"""The fastest that ``tests.bench.gpu.kernels`` found on an H200; the rows of "finish" are partial sums."""


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
        statistics = torch.empty((4, x.shape[1]), dtype=torch.float32, device=x.device)
        y = torch.empty_like(x)
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
    kernels.forward_sums[grid](
        x, partial, rows, channels, tiles, ROWS=tile.rows, CHANNELS=tile.channels, num_warps=tile.warps
    )
    return partial


def forward_finish(
    x: Tensor, partial: Tensor, gamma: Tensor, beta: Tensor, norm: nn.BatchNorm2d, statistics: Tensor
) -> None:
    tile, channels = TILES["finish"], x.shape[1]
    kernels.forward_finish[(triton.cdiv(channels, tile.channels),)](
        x, partial, gamma, beta, norm.running_mean, norm.running_var, norm.num_batches_tracked, statistics,
        _rows(x), channels, len(partial), norm.momentum, norm.eps, PARTS=tile.rows, CHANNELS=tile.channels,
        num_warps=tile.warps,
    )  # fmt: skip


def forward_apply(x: Tensor, shortcut: Tensor | None, statistics: Tensor, y: Tensor, *, relu: bool) -> None:
    tile, rows, channels = TILES["forward apply"], _rows(x), x.shape[1]
    grid = (triton.cdiv(rows, tile.rows), triton.cdiv(channels, tile.channels))
    kernels.forward_apply[grid](
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
    kernels.backward_sums[grid](
        grad, x, y, statistics, x if passed is None else passed, partial, rows, channels, tiles,
        ADD=passed is not None, RELU=relu, ROWS=tile.rows, CHANNELS=tile.channels, num_warps=tile.warps,
    )  # fmt: skip
    return partial


def backward_finish(partial: Tensor) -> Tensor:
    """The sums, float32 (2, channels): the gradients of shift and scale."""
    tile, (programs, _, channels) = TILES["finish"], partial.shape
    sums = torch.empty((2, channels), dtype=torch.float32, device=partial.device)
    kernels.backward_finish[(triton.cdiv(channels, tile.channels),)](
        partial, sums, channels, programs, PARTS=tile.rows, CHANNELS=tile.channels, num_warps=tile.warps
    )
    return sums


def backward_apply(
    grad: Tensor, x: Tensor, statistics: Tensor, sums: Tensor, dx: Tensor, *, mask: bool
) -> None:
    tile, rows, channels = TILES["backward apply"], _rows(x), x.shape[1]
    grid = (triton.cdiv(rows, tile.rows), triton.cdiv(channels, tile.channels))
    kernels.backward_apply[grid](
        grad, x, statistics, sums, dx, rows, channels, MASK=mask, ROWS=tile.rows, CHANNELS=tile.channels,
        num_warps=tile.warps,
    )  # fmt: skip


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _split(rows: int, tile: Tile) -> tuple[int, int]:
    """Programs, and tiles per program: from the number of rows alone, so that the order of sums never changes."""
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
    """Have torchvision's residual blocks in ``net`` train with the fused kernels. Returns how many do.

    Parameters, their names and evaluation stay the same. Blocks of other kinds, or with another normalisation, are skipped.
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
