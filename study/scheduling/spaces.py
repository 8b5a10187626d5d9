"""What a study searches: an arm's space as this study can use it, and settings drawn from it."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from search_spaces import Choice, Config, Float, Int, Known, Space, default
from study.protocol.metrics import ACCURACY, Metric

WIDER = 3
"""Factor by which a widened axis reaches further."""

SCALING = {"lr": 1.0, "adamw_lr": 0.5}
"""Power of the batch size that a learning rate follows: SGD's in proportion (Goyal et al. 2017, arXiv:1706.02677), AdamW's as the
root (Malladi et al. 2022, arXiv:2205.10287)."""


PHOTOGRAPHS = 64
"""Pixels per side from which on an image shows an object in surroundings, and a part of it still does."""
RESIZED_CROPS = ("flip+resizedcrop.35", "flip+resizedcrop.08")
"""Augmentations for photographs: parts of at least 35 % (fastai's choice for training at small sizes) and 8 % (ImageNet's) of the
area, scaled to full size."""
CLASS_WEIGHTS = Choice(options=("none", "balanced"), default="none")
"""Whether the loss counts every class alike, whatever its number of images: for the recipe, so for every arm."""


def searched(
    space: Space,
    batch_sizes: tuple[int, ...],
    wide: Iterable[str],
    metric: Metric = ACCURACY,
    *,
    photographs: bool = False,
) -> Space:
    """The space that a study searches for an arm: restricted to ``batch_sizes``, with the axes named in ``wide`` widened,
    for ``photographs`` with ``RESIZED_CROPS``, and where the metric counts classes alike with ``CLASS_WEIGHTS``."""
    axis = space.get("augment")
    if photographs and isinstance(axis, Choice):
        options = (*axis.options, *(name for name in RESIZED_CROPS if name not in axis.options))
        space = {**space, "augment": dataclasses.replace(axis, options=options)}
    if metric.by_class:
        space = {**space, "class_weights": CLASS_WEIGHTS}
    return widen(restrict(space, batch_sizes), wide)


def of_photographs(spaces: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bool:
    """Whether a plan's spaces, as ``describe`` made them, offer ``RESIZED_CROPS``."""
    return any(RESIZED_CROPS[0] in space.get("augment", {}).get("options", ()) for space in spaces.values())


def restrict(space: Space, batch_sizes: tuple[int, ...]) -> Space:
    """The space with only the batch sizes that memory and data allow, the same for every arm.

    If the default is not among them, the largest one becomes the default. A pinned one stays.
    """
    axis = space["batch_size"]
    if not isinstance(axis, Choice) or len(axis.options) == 1:
        return space
    options = tuple(option for option in axis.options if option in batch_sizes)
    default = axis.default if axis.default in options else max(options, key=lambda o: float(o))
    return {**space, "batch_size": Choice(options=options, default=default, when=axis.when)}


def widen(space: Space, names: Iterable[str]) -> Space:
    """The space with the named numeric axes reaching three times as far at either end (not below 0).

    Cooper et al. 2021: an answer should survive a sceptic's search space.
    """
    wide = dict(space)
    for name in names:
        match wide.get(name):
            case Float() as axis:
                low = axis.low / WIDER if axis.log else max(0.0, axis.low - (axis.high - axis.low))
                high = axis.high * WIDER if axis.log or axis.low == 0 else 2 * axis.high - axis.low
                wide[name] = dataclasses.replace(axis, low=low, high=high)
            case Int() as axis:
                low_int = max(1, round(axis.low / WIDER)) if axis.low > 0 else axis.low
                wide[name] = dataclasses.replace(axis, low=low_int, high=axis.high * WIDER)
            case _:
                pass
    return wide


def known(space: Space, settings: Iterable[Known]) -> list[Config]:
    """A recipe's known settings, fitted to this space, without its default.

    A batch size that memory or data rule out becomes the largest allowed, and the learning rate follows (``SCALING``); values
    beyond an axis become its end; axes of the arm's own keep their default.
    """
    usual, found = default(space), list[Config]()
    for one in settings:
        config: Config = {}
        for name, axis in space.items():
            if axis.active(config):
                config[name] = one.config.get(name, axis.default)
                if isinstance(axis, Choice) and name != "batch_size" and config[name] not in axis.options:
                    config[name] = axis.default
        sizes = space.get("batch_size")
        if isinstance(sizes, Choice) and config["batch_size"] not in sizes.options:
            size = max(int(option) for option in sizes.options)
            for name in (n for n in SCALING.keys() & config.keys() if isinstance(space[n], Float)):
                config[name] = float(config[name]) * (size / float(config["batch_size"])) ** SCALING[name]
            config["batch_size"] = size
        for name, axis in space.items():
            if isinstance(axis, Float) and name in config:
                config[name] = min(axis.high, max(axis.low, float(config[name])))
        if config != usual and config not in found:
            found.append(config)
    return found


def random_config(space: Space, *, seed: int) -> Config:
    """An i.i.d. setting: every axis uniform on its scale, drawn from ``seed`` and the axis's name alone.

    With the same seed, arms that share an axis draw the same value for it, whatever other axes they have.
    """
    config: Config = {}
    for name, axis in space.items():
        if not axis.active(config):
            continue
        rng = np.random.default_rng([seed, *name.encode()])
        match axis:
            case Float():
                config[name] = float(_between(axis.low, axis.high, float(rng.uniform()), log=axis.log))
            case Int():
                drawn = math.floor(_between(axis.low, axis.high + 1, float(rng.uniform()), log=axis.log))
                config[name] = min(axis.high, drawn)
            case Choice():
                config[name] = axis.options[int(rng.integers(len(axis.options)))]
    return config


def _between(low: float, high: float, share: float, *, log: bool) -> float:
    return low * (high / low) ** share if log else low + (high - low) * share


def describe(space: Space) -> dict[str, dict[str, Any]]:
    """The space as plain JSON values, for the plan."""
    return {name: {k: v for k, v in vars(axis).items() if k != "when"} for name, axis in space.items()}
