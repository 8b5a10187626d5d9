"""Arms that differ in one choice: an axis pinned to a value stays in the arm's space, with that option alone."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from search_spaces import Arm, ArmError, Choice, Float, Int, Scalar
from search_spaces._names import nearest


def pinned(arm: Arm, pins: Iterable[tuple[str, str]], name: str) -> Arm:
    """``arm`` with these axes pinned. Raises ArmError, naming what is allowed, for an axis or a value that it has not."""
    space: dict[str, Any] = dict(arm.space)
    for axis, text in pins:
        if axis not in arm.space:
            raise ArmError(
                f"{name}: it has no axis {axis!r}. The nearest are {', '.join(nearest(axis, arm.space))}; all: "
                f"{', '.join(arm.space)}"
            )
        if axis not in space:
            raise ArmError(f"{name}: {axis} takes no part beside the other pins")
        value = _value(arm.space[axis], text, f"{name}: {axis}")
        space[axis] = Choice(options=(value,), default=value, when=space[axis].when)
        space = _without_inactive(space, axis, value)
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
