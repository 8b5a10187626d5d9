"""The vocabulary of an arm: one file in this folder = one architecture (README.md: write an arm).

An arm file defines ``build(config, images) -> torch.nn.Module`` and ``ARM = Arm(build, space=...)``;
its name is the file's. An arm never sees data, budget or metric, so no contestant can mark its own
paper. This module imports no torch: reading the list of arms must stay instant.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Scalar = bool | int | float | str
Config = dict[str, Scalar]
"""A point in a Space: parameter name -> JSON scalar."""


class ArmError(ValueError):
    """An arm that cannot take part; the message says which, why, and what would help."""


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The images a network is built for: squares of ``size`` pixels with ``channels``, ``classes`` labels."""

    channels: int
    size: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Shared by all ranges: a default, and when the parameter takes part at all.

    ``when`` maps the names of *earlier* Choice axes to the options under which this axis is active;
    an inactive parameter is absent from the Config.
    """

    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    def active(self, config: Config) -> bool:
        return all(config.get(name) in options for name, options in self.when.items())


@dataclass(frozen=True, kw_only=True)
class Float(Axis):
    """A real range ``[low, high]``, searched on a log scale when ``log``."""

    low: float
    high: float
    default: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.default, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Int(Axis):
    """A whole-number range ``[low, high]``, both ends included, log scale when ``log``."""

    low: int
    high: int
    default: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.default, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Choice(Axis):
    """One of a few options, without order."""

    options: tuple[Scalar, ...]
    default: Scalar

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ArmError(f"a Choice needs distinct options, got {self.options}")
        if self.default not in self.options:
            raise ArmError(f"the default {self.default!r} is not among the options {self.options}")


Space = Mapping[str, Float | Int | Choice]


@dataclass(frozen=True)
class Arm:
    """One architecture: how a network is built from a Config, and the ranges that are searched."""

    build: Callable[[Config, ImageSpec], "nn.Module"]
    space: Space

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name, axis in self.space.items():
            if not isinstance(axis, Axis):
                raise ArmError(f"{name}: {axis!r} is no range; write Float(...), Int(...) or Choice(...)")
            for other, options in axis.when.items():
                source = self.space.get(other)
                if other not in seen or not isinstance(source, Choice):
                    raise ArmError(f"{name}: 'when' names {other!r}, which is no earlier Choice")
                if not set(options) <= set(source.options):
                    raise ArmError(f"{name}: 'when' allows {options}, {other} has {source.options}")
            seen.add(name)

    def default(self) -> Config:
        """The Config in which every active axis has its default."""
        return default(self.space)


def default(space: Space) -> Config:
    """The Config of this space in which every active axis has its default."""
    config: Config = {}
    for name, axis in space.items():
        if axis.active(config):
            config[name] = axis.default
    return config


def names() -> list[str]:
    """All arms: the files of this folder, without those that begin with ``_``."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def load(name: str) -> Arm:
    """Import the arm called ``name`` (torch comes with it).

    Raises ArmError when there is no such file, when it cannot be imported, or defines no ARM.
    """
    if name not in names():
        raise ArmError(
            f"no arm {name!r}. There are: {', '.join(names())}. "
            f"A new file search_spaces/{name}.py would define it."
        )
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except (Exception, SystemExit) as error:  # any fault of the user's file becomes a sentence about it
        said = f"{type(error).__name__}: {error}"
        raise ArmError(f"search_spaces/{name}.py cannot be imported: {said}") from error
    arm = getattr(module, "ARM", None)
    if not isinstance(arm, Arm):
        raise ArmError(f"search_spaces/{name}.py defines no ARM = Arm(build, space=...)")
    return arm


def _check_range(low: float, high: float, default: float, *, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ArmError(f"a range needs finite low < high, got {low} .. {high}")
    if log and low <= 0:
        raise ArmError(f"a log range must begin above 0, got {low}")
    if not low <= default <= high:
        raise ArmError(f"the default {default} lies outside {low} .. {high}")
