"""What the training loop can do with a recipe, checked when the recipe is loaded and not in its first trial."""

from search_spaces import ArmError, Choice, Recipe, Scalar, Space

OPTIONS: dict[str, tuple[str, ...]] = {"optimizer": ("sgd", "adamw"), "schedule": ("cosine", "linear")}
RATES = {"sgd": ("lr", "weight_decay"), "adamw": ("adamw_lr", "adamw_weight_decay")}
"""The axes that each optimizer reads."""
NEEDED = ("label_smoothing", "augment", "batch_size")
KNOWN = {
    *OPTIONS, *NEEDED, *(axis for own in RATES.values() for axis in own),
    "averaging", "clip", "cutmix", "drop_path", "erase", "frozen", "head_factor", "layer_decay", "mixup",
}  # fmt: skip
"""Every axis that the training loop reads."""


def check(name: str, recipe: Recipe) -> None:
    """Raises ArmError for an axis, an option or a part of the run that the training loop does not know, or lacks."""
    if wrong := _wrong(recipe):
        raise ArmError(f"search_spaces/recipes/{name}.py: {wrong}")


def _options(axes: Space, name: str) -> tuple[Scalar, ...]:
    axis = axes.get(name)
    return axis.options if isinstance(axis, Choice) else ()


def _wrong(recipe: Recipe) -> str:
    axes = {**recipe.space, **recipe.offers}
    if strange := [axis for axis in axes if axis not in KNOWN]:
        return f"the training loop reads no axis {strange[0]!r}; it reads {', '.join(sorted(KNOWN))}"
    for axis, allowed in OPTIONS.items():
        if unknown := [option for option in _options(axes, axis) if option not in allowed]:
            return f"{axis} has no option {unknown[0]!r}; there are {' and '.join(allowed)}"
    optimizers = _options(axes, "optimizer") or ("sgd",)
    needed = (*NEEDED, *(axis for kind in optimizers for axis in RATES[str(kind)]))
    if lacking := [axis for axis in needed if axis not in recipe.space]:
        return f"it has no axis {lacking[0]!r}, which {' and '.join(map(str, optimizers))} training reads"
    if strange := [axis for known in recipe.known for axis in known.config if axis not in axes]:
        return f"a known setting has {strange[0]!r}, which is none of its axes"
    if not 0 <= recipe.warmup < 1:
        return f"warmup is {recipe.warmup:g}; it is a part of the run, from 0 to below 1"
    return ""
