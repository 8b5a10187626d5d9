"""Arms that differ in one choice: an axis pinned to a value stays in the arm's space, with that option alone."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from search_spaces import Arm, ArmError, Choice, Float, Int, Scalar
from search_spaces._names import nearest


def pinned(arm: Arm, pins: Iterable[tuple[str, str]], name: str) -> Arm:
    """``arm`` with these axes pinned. Raises ArmError, naming what is allowed, for an axis or a value that it has not, and for an axis that
    would act in a part of the trials only.
    """
    fixed: dict[str, Choice] = {}
    for axis, text in pins:
        if axis not in arm.space:
            raise ArmError(
                f"{name}: it has no axis {axis!r}. The nearest are {', '.join(nearest(axis, arm.space))}; all: "
                f"{', '.join(arm.space)}"
            )
        value = _value(arm.space[axis], text, f"{name}: {axis}")
        fixed[axis] = Choice(options=(value,), default=value, when=arm.space[axis].when)
    for axis, one in fixed.items():
        for other, options in one.when.items():
            if other not in fixed or fixed[other].default not in options:
                raise ArmError(
                    f"{name}: {axis} is used only with {other}={' or '.join(map(str, options))}: pin both, or leave {axis} out"
                )
    space: dict[str, Any] = {**arm.space, **fixed}
    for axis, one in fixed.items():
        space = _without_inactive(space, axis, one.default)
    return dataclasses.replace(arm, space=space)


def spelled(arm: Arm, pins: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The pins of an arm that has them, each value in its one spelling and in the order of the space."""
    return tuple((axis, str(arm.space[axis].default)) for axis in arm.space if axis in dict(pins))


def _value(axis: Float | Int | Choice, text: str, where: str) -> Scalar:
    match axis:
        case Choice():
            for option in axis.options:
                if text == str(option) or (isinstance(option, float) and _number(text) == option):
                    return option
            raise ArmError(f"{where} is one of {', '.join(map(str, axis.options))}")
        case Int():
            number = _number(text)
            if number is not None and number.is_integer() and axis.low <= number <= axis.high:
                return int(number)
            raise ArmError(f"{where} is a whole number from {axis.low} to {axis.high}")
        case Float():
            number = _number(text)
            if number is not None and axis.low <= number <= axis.high:
                return number
            raise ArmError(f"{where} is a number from {axis.low:g} to {axis.high:g}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _without_inactive(space: dict[str, Any], source: str, value: Scalar) -> dict[str, Any]:
    """The axes that can still take part, now that ``source`` has one value."""
    kept: dict[str, Any] = {}
    for name, axis in space.items():
        if any(other not in kept for other in axis.when):
            continue
        if source in axis.when:
            if value not in axis.when[source]:
                continue
            axis = dataclasses.replace(axis, when={**axis.when, source: (value,)})
        kept[name] = axis
    return kept
