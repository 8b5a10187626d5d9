"""How numbers are said everywhere: points with one or two decimals, minutes, shares."""


def points(fraction: float, *, sign: bool = False) -> str:
    """``0.0123`` -> ``1.23``: accuracy points, with a true minus and, if wanted, a plus.

    Cut at 100 either way: a t interval knows no such end, accuracies and their differences do.
    """
    value = round(100 * max(-1.0, min(1.0, fraction)), 2) + 0.0  # + 0.0 turns -0.0 into 0.0
    text = f"{abs(value):.2f}"
    return ("−" if value < 0 else "+" if sign and value > 0 else "") + text


def percent(fraction: float, digits: int = 2) -> str:
    """``0.9312`` -> ``93.12 %``."""
    return f"{100 * fraction:.{digits}f} %"


def chance(probability: float) -> str:
    """A probability in percent; never a claimed 0 or 100 that a t tail cannot carry."""
    if probability < 0.005:
        return "< 1 %"
    if probability > 0.995:
        return "> 99 %"
    return f"{100 * probability:.0f} %"


def level(confidence: float) -> str:
    """``0.95`` -> ``95 %``, ``0.98333`` -> ``98.33 %``."""
    return f"{100 * confidence:.4g} %"


def rough(number: float) -> str:
    """``1234`` -> ``1200``: an estimate, with no more figures than it can have."""
    return f"{float(f'{number:.2g}'):.0f}"


def duration(seconds: float) -> str:
    """Resource-seconds in the unit that reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.2f} h"


def amount(seconds: float, resource: str) -> str:
    """Resource-seconds as a budget is said: ``1.25 gpu-hours``, ``3.4 cpu-minutes``."""
    hours = seconds / 3600
    if hours >= 2:
        return f"{hours:.0f} {resource}-hours" if hours >= 10 else f"{hours:.3g} {resource}-hours"
    return f"{seconds / 60:.3g} {resource}-minutes"


def listed(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(number: int, noun: str, several: str = "") -> str:
    """``1 run``, ``2 runs``; ``several``: the plural that is no ``s`` more."""
    return f"{number} {noun if number == 1 else several or noun + 's'}"
