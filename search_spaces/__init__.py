"""The vocabulary of arms and recipes: one file here = one architecture, one in ``recipes/`` = one way to train it (README.md).

An arm file defines ``build(config, images) -> torch.nn.Module`` and ``ARM = Arm(build, space=...)`` with the axes that are the
architecture's own; its name is the file's. A recipe file defines ``RECIPE = Recipe(...)``, with the axes of training, the same for
all arms of a study. An arm never sees data, budget or metric, so no contestant can mark its own paper. This module and the recipes
import no torch: reading the lists must stay instant.
"""

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

Scalar = bool | int | float | str
Config = dict[str, Scalar]
"""A point in a Space: parameter name -> JSON scalar."""


RECIPE, FINE_TUNING = "sgd", "finetune"
"""The recipe of a study that names none, and of one whose arms all begin from trained weights."""


class ArmError(ValueError):
    """An arm or a recipe that cannot take part; the message says which, why, and what would help."""


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
    """One architecture: how a network is built from a Config, and the ranges that are searched.

    In an arm's file ``space`` has its own axes only; ``load`` puts those of the study's recipe before them.
    """

    build: Callable[[Config, ImageSpec], "nn.Module"]
    space: Space = field(default_factory=dict)
    takes: tuple[str, ...] = ()
    """Axes that a recipe offers and that only some architectures have, and ``build`` reads where they are there."""
    weights: bool = False
    """Whether ``build`` begins from trained weights."""
    warmup: float = 0.1
    """The recipe's, set by ``load``."""
    published: "Published | None" = None
    """The weights that its family has under its name."""
    begin: "Callable[[Config, ImageSpec, Mapping[str, Tensor]], nn.Module] | None" = None
    """As ``build``, from these weights; without it, every tensor is used whose name and shape fit."""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name, axis in self.space.items():
            if not isinstance(axis, Axis):
                raise ArmError(f"{name}: {axis!r} is not a range; write Float(...), Int(...) or Choice(...)")
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


@dataclass(frozen=True, kw_only=True)
class Known:
    """A setting of a recipe that others found good; parameters that it does not name stay at the default."""

    config: Config
    source: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every arm of a study is trained, so that no architecture gets the kinder search."""

    about: str
    """What it is, and what it does not cover: a sentence or two for the report, without the last full stop."""
    space: Space
    """The axes that the training loop reads (README.md lists them)."""
    known: tuple[Known, ...]
    """First proposals of every search of every arm, after the default: few, from published recipes (METHOD.md 3)."""
    warmup: float
    """Part of the run over which learning rates rise to their peak."""
    offers: Space = field(default_factory=dict)
    """Further axes, for the arms that take them."""

    def compose(self, name: str, arm: Arm) -> Arm:
        """The arm with this recipe's axes before its own. Raises ArmError if it has one of them."""
        if both := sorted((self.space.keys() | self.offers.keys()) & arm.space.keys()):
            raise ArmError(
                f"arm {name} has an axis {both[0]!r}, which is the recipe's: an arm gives only its own axes"
            )
        taken = {axis: what for axis, what in self.offers.items() if axis in arm.takes}
        return replace(arm, space={**self.space, **taken, **arm.space}, warmup=self.warmup)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that a family has under a model's name."""

    repository: str
    """On the Hugging Face hub; empty where they are not there."""
    file: str
    images: str
    """What they were trained on."""
    size: int
    """Pixels of a side that they were trained with."""
    mean: tuple[float, ...]
    """Of their images' pixels, as fractions of 255, channel by channel."""
    std: tuple[float, ...]


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


def recipe_names() -> list[str]:
    """All recipes: the files of ``recipes/``."""
    return sorted(p.stem for p in (Path(__file__).parent / "recipes").glob("*.py") if p.stem != "__init__")


def usual_recipe(arms: Iterable[Arm]) -> str:
    """The recipe of a study of these arms that names none."""
    return FINE_TUNING if all(arm.weights for arm in arms) else RECIPE


def family_names() -> list[str]:
    """All families: the files of ``families/``; ``FAMILY/NAME`` is one of its arms."""
    return sorted(p.stem for p in (Path(__file__).parent / "families").glob("*.py") if p.stem != "__init__")


def load(
    name: str, recipe: str = RECIPE, weights: "Mapping[str, Tensor] | None" = None, *, new_head: bool = False
) -> Arm:
    """Import the arm that is written ``name`` (torch comes with it), to be trained by ``recipe``.

    An arm that begins from weights needs them only for training: without, its nets wait for a checkpoint's; with a ``new_head``,
    all of them but the head's. Raises ArmError when there is no such arm, when it cannot be imported, or has no such pins.
    """
    from search_spaces import _names, _pins

    spelling = _names.parse(name)
    arm = _arm(spelling.name, spelling.family)
    if spelling.weights or (arm.weights and arm.published):
        from search_spaces import _weights

        arm = _weights.begun(arm, weights, new_head=new_head)
    return _pins.pinned(load_recipe(recipe).compose(name, arm), spelling.pins, name)


def load_recipe(name: str) -> Recipe:
    """Raises ArmError as ``load`` does."""
    if name not in recipe_names():
        raise ArmError(
            f"no recipe {name!r}. There are: {', '.join(recipe_names())}. "
            f"A new file search_spaces/recipes/{name}.py would define it."
        )
    recipe = getattr(_imported(f"recipes.{name}"), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise ArmError(f"search_spaces/recipes/{name}.py defines no RECIPE = Recipe(...)")
    from search_spaces import _recipes

    _recipes.check(name, recipe)
    return recipe


def _arm(name: str, family: str) -> Arm:
    check_name(name, family)
    arm = _imported(f"families.{family}").arm(name) if family else getattr(_imported(name), "ARM", None)
    if not isinstance(arm, Arm):
        place = f"families/{family}" if family else name
        raise ArmError(
            f"search_spaces/{place}.py defines no {'arm(name)' if family else 'ARM'} that is an Arm(build, space=...)"
        )
    return arm


def spellings() -> list[str]:
    """What an arm can be written as."""
    families = [f"{family}/NAME" for family in family_names()]
    more = (
        "timm/NAME.TAG from those weights",
        "ARM@FILE.safetensors from a file's",
        "ARM:axis=value+axis=value with these fixed",
    )
    return [*names(), *families, *more]


def check(text: str) -> None:
    """Raises ArmError if this is no arm, as far as a family's own names, known once it is imported, allow."""
    from search_spaces._names import parse

    check_name((arm := parse(text)).name, arm.family)


def check_name(name: str, family: str) -> None:
    """Raises ArmError if there is no such file."""
    if family and family not in family_names():
        raise ArmError(f"no family {family!r} of arms. There are: {', '.join(family_names())}")
    if not family and name not in names():
        from search_spaces._names import nearest

        raise ArmError(
            f"no arm {name!r}. The nearest are {', '.join(nearest(name, names()))}. A new file search_spaces/{name}.py "
            f"would define it; {' and '.join(f'{family}/NAME' for family in family_names())} are the models of these libraries"
        )


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except (Exception, SystemExit) as error:  # any fault of the user's file becomes a sentence about it
        said = f"{type(error).__name__}: {error}"
        path = name.replace(".", "/")
        raise ArmError(f"search_spaces/{path}.py cannot be imported: {said}") from error


def _check_range(low: float, high: float, default: float, *, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ArmError(f"a range needs finite low < high, got {low} .. {high}")
    if log and low <= 0:
        raise ArmError(f"a log range must begin above 0, got {low}")
    if not low <= default <= high:
        raise ArmError(f"the default {default} lies outside {low} .. {high}")
