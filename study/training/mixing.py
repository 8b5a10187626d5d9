"""Batches mixed with themselves, and random erasing: on the device, without waiting for it.

What is drawn once per step (the share, the box) comes from (seed, epoch) on the host before the epoch and lies in tables.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from study.protocol.records import Config

AREA = (0.02, 1 / 3)
"""Of the image, that is erased, and below its aspect: timm's, after Zhong et al. 2017, arXiv:1708.04896."""
ASPECT = (0.3, 3.3)


class Mixing:
    """Mixup (Zhang et al. 2017, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899) of a batch with itself backwards.

    The share is drawn from Beta(alpha, alpha) for each step; where both are on, each has half of the steps, as in timm.
    """

    def __init__(self, config: Config, *, steps: int, side: int, device: torch.device) -> None:
        self._mixup, self._cutmix = (float(config.get(name, 0.0)) for name in ("mixup", "cutmix"))
        self._steps, self._side = steps, side
        self._blends = torch.ones(steps, device=device)
        """Share of each image that stays under the partner, outside the box."""
        self._shares = torch.ones(steps, device=device)
        """Share of each label that stays."""
        self._boxes = torch.zeros((steps, 4), dtype=torch.int64, device=device)
        """Top, bottom, left and right of the partner's part."""
        self._places = torch.arange(side, device=device)

    @staticmethod
    def asked(config: Config) -> bool:
        return bool(config.get("mixup") or config.get("cutmix"))

    def begin(self, seed: int, epoch: int) -> None:
        """Draw for every step of an epoch."""
        rng = np.random.default_rng([seed, epoch, *b"mixing"])
        blends, boxes = np.ones(self._steps), np.zeros((self._steps, 4), dtype=np.int64)
        shares = np.ones(self._steps)
        for step in range(self._steps):
            cut = bool(self._cutmix) and (not self._mixup or rng.uniform() < 0.5)
            alpha = self._cutmix if cut else self._mixup
            shares[step] = rng.beta(alpha, alpha)
            if cut:
                half = round(self._side * math.sqrt(1 - shares[step])) / 2
                centre = rng.integers(self._side, size=2)
                ends = [np.clip((c - half, c + half), 0, self._side).astype(np.int64) for c in centre]
                boxes[step] = np.concatenate(ends)
                (top, bottom), (left, right) = ends
                shares[step] = 1 - (bottom - top) * (right - left) / self._side**2
            else:
                blends[step] = shares[step]
        self._blends.copy_(torch.from_numpy(blends))
        self._shares.copy_(torch.from_numpy(shares))
        self._boxes.copy_(torch.from_numpy(boxes))

    def mix(self, images_NCHW: Tensor, index: Tensor) -> Tensor:
        """The images of the step at ``index``, int64 (1,), of the epoch."""
        partners = images_NCHW.flip(0)
        top, bottom, left, right = self._boxes.index_select(0, index)[0].unbind()
        rows = (self._places >= top) & (self._places < bottom)
        columns = (self._places >= left) & (self._places < right)
        share = torch.where(rows[:, None] & columns, 0.0, self._blends.index_select(0, index))
        return torch.lerp(partners, images_NCHW, share)

    def weigh(self, of: Callable[[Tensor], Tensor], labels: Tensor, index: Tensor) -> Tensor:
        """``of(labels)`` of the images' own labels and of their partners', in the shares of the step."""
        share = self._shares.index_select(0, index)[0]
        return share * of(labels) + (1 - share) * of(labels.flip(0))


def erase(images_NCHW: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """A rectangle of noise in this part of the images, at random places, as far as the image reaches."""
    n, _, height, width = images_NCHW.shape
    device = images_NCHW.device
    chosen, size, aspect, y, x = torch.rand((5, n), generator=generator, device=device)
    area = height * width * (AREA[0] + size * (AREA[1] - AREA[0]))
    ratio = torch.exp(math.log(ASPECT[0]) + aspect * math.log(ASPECT[1] / ASPECT[0]))
    tall, wide = ((area * r).sqrt().round() for r in (ratio, 1 / ratio))

    def within(side: int, length: Tensor, place: Tensor) -> Tensor:
        length = length.clamp(1, side)
        first = (place * (side - length + 1)).floor()[:, None]
        at = torch.arange(side, device=device)
        return (at >= first) & (at < first + length[:, None])

    hole = within(height, tall, y)[:, :, None] & within(width, wide, x)[:, None, :]
    hole &= (chosen < probability)[:, None, None]
    noise = torch.randn(images_NCHW.shape, generator=generator, device=device)
    return torch.where(hole[:, None], noise, images_NCHW)
