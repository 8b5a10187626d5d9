"""The Triton kernels of ``fused``: an activation is (rows, channels), where a row is one pixel of one image.

Tiles are fixed and sums have two stages without atomics, so that two runs give the same bits.
"""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def forward_sums(x, partial, rows, channels, tiles, ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
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
def forward_finish(  # type: ignore[no-untyped-def]
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
def forward_apply(  # type: ignore[no-untyped-def]
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
def backward_sums(  # type: ignore[no-untyped-def]
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
def backward_finish(partial, sums, channels, programs, PARTS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
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
def backward_apply(  # type: ignore[no-untyped-def]
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
