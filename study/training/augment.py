"""Batched augmentation on the device: one policy for the batch, its own random parameters for each image.

Each policy is a handful of tensor operations that never wait for the device (no ``.item()``, no boolean indexing), and all
randomness comes from the given generator. Geometry works on pixel values 0..255, so that the outside of an image is black;
``augment`` normalises at the end.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

MAX_DEGREES = 10.0
"""The seed post's RandomRotation(10)."""

Policy = Callable[[Tensor, Generator], Tensor]
"""Pixels ``(n, c, s, s)`` in, uint8; normalised floats of the same shape out."""


def augment(images_NCHW: Tensor, policy: str, generator: Generator) -> Tensor:
    """Augmented and normalised images, float32 in [-1, 1], shape and memory format as given.

    ``images_NCHW`` is uint8 ``(n, c, s, s)`` with c of 1 or 3, on the device of ``generator``. The same generator state gives
    the same bytes on the same device. Raises ValueError for a policy that is not in POLICIES.
    """
    if policy not in POLICIES:
        raise ValueError(f"no augmentation {policy!r}; there are: {', '.join(POLICIES)}")
    channels_last = not images_NCHW.is_contiguous() and images_NCHW.is_contiguous(
        memory_format=torch.channels_last
    )
    return POLICIES[policy](images_NCHW, generator).contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def normalise(images_NCHW: Tensor) -> Tensor:
    """Pixels 0..255 -> float32 in [-1, 1], as the seed post does (mean 0.5, deviation 0.5)."""
    return images_NCHW.div(127.5).sub_(1)


def flip(images_NCHW: Tensor, generator: Generator) -> Tensor:
    """Half of the images, on average, mirrored left to right."""
    mirrored = _signs(images_NCHW, generator) < 0
    return torch.where(mirrored[:, None, None, None], images_NCHW.flip(-1), images_NCHW)


def crop(images_NCHW: Tensor, generator: Generator) -> Tensor:
    """A random crop of the original size, after adding a black border of an eighth of the side."""
    n, _, _, side = images_NCHW.shape
    border = side // 8
    rows, columns = torch.randint(2 * border + 1, (2, n), generator=generator, device=images_NCHW.device)
    return shift(images_NCHW, rows, columns)


def shift(images_NCHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The crop at ``rows``, ``columns`` (int64, shape (n,)) of the image with its border."""
    n, _, _, side = images_NCHW.shape
    border = side // 8
    padded = functional.pad(images_NCHW, (border, border, border, border))
    windows = padded.unfold(2, side, 1).unfold(3, side, 1)  # (n, c, row, column, s, s), a view
    each = torch.arange(n, device=images_NCHW.device)
    return windows[each, :, rows, columns]


def cutout(normalised_NCHW: Tensor, generator: Generator) -> Tensor:
    """A grey square (0, the middle of the range) with half the side of the image, in place.

    Its centre is any pixel, so that part of it may fall outside (DeVries & Taylor 2017: 16 of CIFAR-10's 32 pixels).
    """
    n, _, _, side = normalised_NCHW.shape
    device = normalised_NCHW.device
    centres = torch.randint(side, (2, n, 1), generator=generator, device=device)
    offset = torch.arange(side, device=device) - centres + side // 4
    inside = (offset >= 0) & (offset < side // 2)
    hole = inside[0, :, :, None] & inside[1, :, None, :]
    return normalised_NCHW.masked_fill_(hole[:, None], 0.0)


def warp(pixels_NCHW: Tensor, maps_N23: Tensor, mode: str = "bilinear", outside: str = "zeros") -> Tensor:
    """Float pixels resampled, "bilinear" or "nearest", by an affine map per image from output to input positions.

    Positions run from -1 to 1 between the outer edges; the outside is black, or, with "border", like the nearest edge.
    """
    with torch.autocast(pixels_NCHW.device.type, enabled=False):  # bfloat16 is too coarse for positions
        grid = functional.affine_grid(maps_N23, list(pixels_NCHW.shape), align_corners=False)
        return functional.grid_sample(pixels_NCHW, grid, mode, outside, align_corners=False)


def turn(images_NCHW: Tensor, generator: Generator, *, border: int = 0) -> Tensor:
    """Mirrored or not, turned within 10 degrees either way, shifted up to ``border`` pixels: one resampling.

    Returns float32 pixels. Takes the nearest pixel, as torchvision's RandomRotation and so the seed post do: mixing pixels would
    train on smoother images than validation sees. The shift is drawn only if there is a border.
    """
    mirror = _signs(images_NCHW, generator)
    angle = (_uniform(images_NCHW, generator) * 2 - 1) * math.radians(MAX_DEGREES)
    cos, sin = angle.cos(), angle.sin()
    right = down = torch.zeros_like(angle)
    if border:
        size = (2, len(images_NCHW))
        pixels = torch.randint(-border, border + 1, size, generator=generator, device=images_NCHW.device)
        right, down = pixels * (2 / images_NCHW.shape[-1])
    maps = torch.stack((mirror * cos, mirror * -sin, mirror * right, sin, cos, down), dim=1)
    return warp(images_NCHW.float(), maps.view(-1, 2, 3), "nearest")


def resized_crop(images_NCHW: Tensor, generator: Generator, *, least: float) -> Tensor:
    """Mirrored or not, and a part of the image, from ``least`` of its area to all of it, scaled to full size: one resampling.

    As torchvision's RandomResizedCrop (Szegedy et al. 2014, arXiv:1409.4842): area uniform, width to height between 3:4 and 4:3
    uniform on a log scale, place uniform. A part that is too long is cut to the side; torchvision draws again. Returns float32
    pixels.
    """
    area = least + (1 - least) * _uniform(images_NCHW, generator)
    ratio = torch.exp((_uniform(images_NCHW, generator) * 2 - 1) * math.log(4 / 3))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    right = (1 - width) * (_uniform(images_NCHW, generator) * 2 - 1)
    down = (1 - height) * (_uniform(images_NCHW, generator) * 2 - 1)
    mirror, none = _signs(images_NCHW, generator), torch.zeros_like(area)
    maps = torch.stack((mirror * width, none, right, none, height, down), dim=1)
    return warp(images_NCHW.float(), maps.view(-1, 2, 3), outside="border")


def _flip_crop(images_NCHW: Tensor, generator: Generator) -> Tensor:
    return normalise(crop(flip(images_NCHW, generator), generator))


TRIVIAL = (
    *("identity", "shear x", "shear y", "translate x", "translate y", "rotate", "brightness", "contrast"),
    *("posterize", "solarize", "autocontrast", "colour"),
)


def _trivial(images_NCHW: Tensor, generator: Generator) -> Tensor:
    """Flip, crop, then one operation of TRIVIAL per image, all equally likely, at a uniformly random strength.

    After TrivialAugment (Müller & Hutter 2021) in its wide ranges: shear up to 0.99, translation up to
    half the side, rotation up to 135 degrees, factors from 0.01 to 1.99, 2 to 8 bits, any threshold.
    Unlike it, strengths are continuous, and sharpness and equalize are left out, since they need neighbourhoods and histograms.
    Colour takes part if there are three channels.
    """
    n, channels, _, side = images_NCHW.shape
    device = images_NCHW.device
    count = len(TRIVIAL) if channels == 3 else TRIVIAL.index("colour")
    operation = torch.randint(count, (n,), generator=generator, device=device)
    strength = _uniform(images_NCHW, generator)
    signed = strength * _signs(images_NCHW, generator)

    def only(name: str, value: Tensor, otherwise: float = 0.0) -> Tensor:
        return torch.where(operation == TRIVIAL.index(name), value, otherwise)

    # Output position -> input position: the operation's map first, then the crop's, then the flip's.
    mirror = _signs(images_NCHW, generator)
    border = side // 8
    move = torch.randint(-border, border + 1, (2, n), generator=generator, device=device) * (2 / side)
    angle = only("rotate", signed * math.radians(135))
    cos, sin = angle.cos(), angle.sin()
    shear_x, shear_y = only("shear x", signed * 0.99), only("shear y", signed * 0.99)
    to_x = (cos, shear_x - sin, move[0] + only("translate x", signed))
    to_y = (shear_y + sin, cos, move[1] + only("translate y", signed))
    maps = torch.stack((*(mirror * part for part in to_x), *to_y), dim=1)
    pixels = warp(images_NCHW.float(), maps.view(-1, 2, 3))

    # Brightness, contrast, colour and autocontrast are all scale * pixel + offset + share * grey.
    grey = _grey(pixels)
    low, high = pixels.amin((2, 3)), pixels.amax((2, 3))
    stretch = 255 / (high - low).clamp(min=1)
    change = signed * 0.99
    factor = 1 + only("brightness", change) + only("contrast", change) + only("colour", change)
    automatic = (operation == TRIVIAL.index("autocontrast"))[:, None] & (high > low)
    scale = torch.where(automatic, stretch, factor[:, None])
    offset = torch.where(automatic, -low * stretch, only("contrast", -change * grey.mean((1, 2, 3)))[:, None])
    share = only("colour", -change)[:, None, None, None]
    pixels = pixels.mul_(scale[:, :, None, None]).add_(offset[:, :, None, None])
    pixels = pixels.addcmul_(share, grey).clamp_(0, 255)

    threshold = only("solarize", 255 * (1 - strength), 256.0)[:, None, None, None]
    pixels = torch.where(pixels >= threshold, 255 - pixels, pixels)
    step = torch.exp2((strength * 7).floor())[:, None, None, None]  # 8 bits keep steps of 1, 2 bits of 64
    coarse = (pixels.add(0.01).div_(step)).floor_().mul_(step)  # 0.01: resampling is not quite exact
    posterize = (operation == TRIVIAL.index("posterize"))[:, None, None, None]
    return normalise(torch.where(posterize, coarse, pixels))


def _grey(pixels_NCHW: Tensor) -> Tensor:
    """Luma with PIL's weights, shape ``(n, 1, s, s)``; a single channel is its own."""
    if pixels_NCHW.shape[1] != 3:
        return pixels_NCHW[:, :1].clone()
    return 0.299 * pixels_NCHW[:, 0:1] + 0.587 * pixels_NCHW[:, 1:2] + 0.114 * pixels_NCHW[:, 2:3]


def _uniform(images: Tensor, generator: Generator) -> Tensor:
    """One number from [0, 1) for each image."""
    return torch.rand(len(images), generator=generator, device=images.device)


def _signs(images: Tensor, generator: Generator) -> Tensor:
    """-1.0 or 1.0 for each image, equally likely."""
    coins = torch.randint(2, (len(images),), generator=generator, device=images.device)
    return coins.mul_(2).sub_(1).float()


POLICIES: dict[str, Policy] = {
    "none": lambda images, _: normalise(images),
    "flip": lambda images, generator: normalise(flip(images, generator)),
    "flip+crop": _flip_crop,
    "flip+rotate": lambda images, generator: normalise(turn(images, generator)),
    "flip+crop+cutout": lambda images, generator: cutout(_flip_crop(images, generator), generator),
    "trivial": _trivial,
    "flip+resizedcrop.35": lambda images, generator: normalise(resized_crop(images, generator, least=0.35)),
    "flip+resizedcrop.08": lambda images, generator: normalise(resized_crop(images, generator, least=0.08)),
}
"""Every policy by its name on the recipe's ``augment`` axis; the last two are for photographs (``scheduling.spaces``)."""
