"""The word after a flag becomes a value, or an InputError that says what would do."""

import math
from collections.abc import Callable
from typing import get_args

import search_spaces
from study.data.reading import Fit
from study.protocol.errors import InputError
from study.protocol.metrics import NAMES
from study.storage.objects import Storage, is_uri


def whole(name: str, low: int, high: int, says: str) -> Callable[[str], int]:
    def read(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise InputError(f"--{name} {word} is out of range: {says}")
        return number

    return read


def above_zero(name: str, most: float, says: str) -> Callable[[str], float]:

    def read(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not 0 < number <= most:
            raise InputError(f"--{name} {word} is out of range: {says}")
        return number

    return read


def names(word: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in word.split(",") if name.strip())


def arms(word: str) -> tuple[str, ...]:
    asked, known = names(word), search_spaces.names()
    try:
        for arm in asked:
            search_spaces.check(arm)
    except search_spaces.ArmError as error:
        raise InputError(str(error)) from error
    if not asked:
        raise InputError(f"--arms {word!r} names no arm: as in --arms {known[0]},{known[1]}")
    if twice := [arm for arm in dict.fromkeys(asked) if asked.count(arm) > 1]:
        raise InputError(f"--arms {word!r} names {twice[0]} more than once: name each arm once")
    return asked


def recipe(word: str) -> str:
    if word not in search_spaces.recipe_names():
        raise InputError(
            f"no recipe {word!r}. There are: {', '.join(search_spaces.recipe_names())}. A new file "
            f"search_spaces/recipes/{word}.py would define it"
        )
    return word


def metric(word: str) -> str:
    if word not in NAMES:
        raise InputError(f"--metric {word}: there are {', '.join(NAMES)}")
    return word


def margin(word: str) -> float:
    """How large it may be, the metric says."""
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise InputError(f"--rope {word} is out of range: give a number above 0, as in 0.5")
    return number


def looks(word: str) -> int:
    if word not in ("1", "2"):
        raise InputError(f"--looks {word}: a study looks at its test images once or, announced, twice")
    return int(word)


def fit(word: str) -> str:
    if word not in get_args(Fit):
        raise InputError(
            f"--fit {word}: an image that is not square is made so by {', '.join(get_args(Fit))}"
        )
    return word


def share(word: str) -> float:
    """Checked with the budget, which says what it is a share of."""
    try:
        return float(word)
    except ValueError:
        raise InputError(
            f"--fraction {word}: give a part of a GPU, as in 0.25, or CPU cores, as in 2"
        ) from None


def place(word: str) -> str:
    if not word:
        raise InputError("--out is empty: give a folder or a URI, or leave it out")
    try:
        _ = Storage(word) if is_uri(word) else None
    except InputError as error:
        raise InputError(f"--out: {error}") from error
    return word


def run(word: str) -> str:
    _ = Storage(word) if is_uri(word) else None
    return word
