"""A recipe that the training loop could not follow is refused when it is loaded."""

from dataclasses import replace

import pytest

import search_spaces
from search_spaces import ArmError, Choice, Float, Int, Known, Recipe, _recipes

Changed = dict[str, Float | Int | Choice | None]
"""Axes put in; None takes one out."""


def test_the_recipes_use_every_axis_that_is_known() -> None:
    used = [search_spaces.load_recipe(name) for name in search_spaces.recipe_names()]
    assert {axis for recipe in used for axis in {**recipe.space, **recipe.offers}} == _recipes.KNOWN


def changed(recipe: Recipe, axes: Changed) -> Recipe:
    return replace(recipe, space={k: v for k, v in {**recipe.space, **axes}.items() if v is not None})


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"mixupp": Float(low=0.0, high=1.0, default=0.0)}, "mixupp"),
        ({"optimizer": Choice(options=("adam", "sgd"), default="sgd")}, "no option 'adam'"),
        ({"weight_decay": None}, "weight_decay"),
        ({"optimizer": Choice(options=("adamw",), default="adamw")}, "adamw_lr"),
    ],
)
def test_axes_that_training_does_not_know_or_lacks_are_named(axes: Changed, says: str) -> None:
    with pytest.raises(ArmError, match=says) as refused:
        _recipes.check("mine", changed(search_spaces.load_recipe("sgd"), axes))
    assert "recipes/mine.py" in str(refused.value)


def test_known_settings_and_the_warm_up_are_checked() -> None:
    sgd = search_spaces.load_recipe("sgd")
    with pytest.raises(ArmError, match="lrr"):
        _recipes.check("mine", replace(sgd, known=(Known(config={"lrr": 0.1}, source="nobody"),)))
    with pytest.raises(ArmError, match="warmup is 2"):
        _recipes.check("mine", replace(sgd, warmup=2.0))
