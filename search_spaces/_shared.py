"""Shared by the arms: a bottleneck net built from torchvision's blocks, and the width that matches its cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from search_spaces import ImageSpec

PLANES_50 = (64, 128, 256, 512)
BLOCKS_50 = (3, 4, 6, 3)
"""Stages of the 50-layer nets (He et al. 2015)."""


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The first convolution, ``kernel`` x ``kernel`` with ``stride``, and a halving max-pool if ``pool``."""

    kernel: int
    stride: int
    pool: bool


def large_stem(images: ImageSpec) -> Stem:
    """For the 50-layer nets: full resolution up to 64 pixels, ImageNet's stem above."""
    if images.size <= 64:
        return Stem(kernel=3, stride=1, pool=False)
    return Stem(kernel=7, stride=2, pool=True)


def small_stem(images: ImageSpec) -> Stem:
    """For the nets that train on a CPU: resolution kept up to 16 pixels, halved up to 64, else quartered."""
    return Stem(kernel=3, stride=1 if images.size <= 16 else 2, pool=images.size > 64)


class BottleneckNet(nn.Module):
    """Stem, stages of torchvision's ``Bottleneck``, average pool, linear layer; logits ``(n, classes)``.

    Each stage but the first halves the resolution; a stage of p planes has 4 p output channels. The stem
    is as wide as the first stage. With ImageNet's stem and the 50-layer stages this is torchvision's
    ResNet, down to parameter names and the draw of the initial weights.
    """

    def __init__(
        self,
        images: ImageSpec,
        *,
        stem: Stem,
        planes: Sequence[int],
        blocks: Sequence[int],
        cardinality: int = 1,
        base_width: float = 64.0,
    ) -> None:
        super().__init__()
        inputs = planes[0]
        self.conv1 = nn.Conv2d(
            images.channels, inputs, stem.kernel, stride=stem.stride, padding=stem.kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem.pool else nn.Identity()
        self.stages: list[str] = []
        for stage, (width, depth) in enumerate(zip(planes, blocks, strict=True), start=1):
            layers: list[nn.Module] = []
            for block in range(depth):
                stride = 2 if stage > 1 and block == 0 else 1
                outputs = width * Bottleneck.expansion
                shortcut = None
                if stride != 1 or inputs != outputs:
                    shortcut = nn.Sequential(
                        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
                    )
                layers.append(Bottleneck(inputs, width, stride, shortcut, cardinality, base_width))
                inputs = outputs
            self.stages.append(f"layer{stage}")
            self.add_module(self.stages[-1], nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, images.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def body_macs(
    planes: Sequence[int],
    blocks: Sequence[int],
    *,
    cardinality: int = 1,
    base_width: float = 64.0,
    side: int = 32,
) -> int:
    """Multiply-accumulates of the stages' convolutions for one image that leaves the stem at ``side`` pixels."""
    total, inputs = 0, planes[0]
    for stage, (width, depth) in enumerate(zip(planes, blocks, strict=True)):
        inner = inner_width(width, cardinality, base_width)
        outputs = 4 * width
        for block in range(depth):
            small = (side + 1) // 2 if stage > 0 and block == 0 else side
            total += side**2 * inputs * inner
            total += small**2 * inner * (9 * inner // cardinality + outputs)
            if block == 0:
                total += small**2 * inputs * outputs
            inputs, side = outputs, small
    return total


def inner_width(planes: int, cardinality: int, base_width: float) -> int:
    """Channels of a block's 3x3 convolution by torchvision's rule, which rounds the group's width down."""
    return int(planes * (base_width / 64.0)) * cardinality


@cache
def matched_base_width(cardinality: int, planes: tuple[int, ...], blocks: tuple[int, ...]) -> float:
    """The base width, in sixteenths, whose body costs as much as cardinality 1 with base width 64.

    As close as whole channels allow; the arms state the deviation (``mac_deviation``). Of equal widths the smallest.
    """
    grid = [k / 16 for k in range(1, 64 * 16 + 1) if inner_width(planes[0], cardinality, k / 16) > 0]
    return min(grid, key=lambda width: abs(mac_deviation(cardinality, width, planes, blocks)))


def mac_deviation(
    cardinality: int, base_width: float, planes: tuple[int, ...], blocks: tuple[int, ...]
) -> float:
    """Body MACs relative to cardinality 1 with base width 64, less one: 0.03 is 3 % more."""
    macs = body_macs(planes, blocks, cardinality=cardinality, base_width=base_width)
    return macs / body_macs(planes, blocks) - 1
