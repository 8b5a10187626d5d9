"""How the project writes numbers, lists and errors: one way everywhere."""

import argparse
import csv
import io
import os
from collections.abc import Sequence
from itertools import islice
from typing import NoReturn

SEPARATORS = (",", ";", "\t", "|", " ")
LOOKED_AT = 50
"""Lines that show which separator there is."""


def points(fraction: float, *, sign: bool = False) -> str:
    """``0.0123`` -> ``1.23``: accuracy points, with a true minus sign and, if ``sign``, a plus.

    Clipped to +-100: accuracies and their differences end there, t intervals do not.
    """
    value = round(100 * max(-1.0, min(1.0, fraction)), 2) + 0.0  # + 0.0 turns -0.0 into 0.0
    text = f"{abs(value):.2f}"
    return ("−" if value < 0 else "+" if sign and value > 0 else "") + text


def percent(fraction: float, digits: int = 2) -> str:
    """``0.9312`` -> ``93.12 %``."""
    return f"{100 * fraction:.{digits}f} %"


def chance(probability: float) -> str:
    """A probability in percent; never 0 or 100, which a t tail cannot support."""
    if probability < 0.005:
        return "< 1 %"
    if probability > 0.995:
        return "> 99 %"
    return f"{100 * probability:.0f} %"


def level(confidence: float) -> str:
    """``0.95`` -> ``95 %``, ``0.98333`` -> ``98.33 %``."""
    return f"{100 * confidence:.4g} %"


def rough(number: float) -> str:
    """``1234`` -> ``1200``: an estimate, with two significant digits."""
    return f"{float(f'{number:.2g}'):.0f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.2f} h"


def amount(seconds: float, resource: str) -> str:
    """Resource-seconds, written as a budget is: ``1.25 gpu-hours``, ``3.4 cpu-minutes``."""
    hours = seconds / 3600
    if hours >= 2:
        return f"{hours:.0f} {resource}-hours" if hours >= 10 else f"{hours:.3g} {resource}-hours"
    return f"{seconds / 60:.3g} {resource}-minutes"


def listed(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def few(names: Sequence[str], most: int = 10) -> str:
    """The names, or the first ``most`` and the number of the rest."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def separator(text: str) -> str:
    """Of CSV: what cuts its first lines into equally many columns, the most; a comma where nothing does."""
    lines = list(islice((line for line in io.StringIO(text, newline=None) if line.strip()), LOOKED_AT))
    found = {}
    for each in SEPARATORS:
        widths = {len(cells) for cells in csv.reader(lines, delimiter=each, skipinitialspace=True)}
        found[each] = widths.pop() if len(widths) == 1 else 0
    best = max(SEPARATORS[:-1], key=lambda each: found[each])
    if found[best] > 1:
        return best
    in_header = max(SEPARATORS[:-1], key=lambda each: lines[0].count(each) if lines else 0)
    if lines and in_header in lines[0]:
        return in_header  # a line of another width is then named
    return " " if found[" "] > 1 else ","


def counted(number: int, noun: str, several: str = "") -> str:
    """``1 run``, ``2 runs``; ``several`` is the plural where it does not just add an ``s``."""
    return f"{number} {noun if number == 1 else several or noun + 's'}"


def class_columns(classes: Sequence[str]) -> list[str]:
    """Each class's column in a table of predictions: its name, or ``class NAME`` where another column is called so."""
    return [f"class {name}" if name.strip().lower() in _COLUMNS else name for name in classes]


_COLUMNS = frozenset({"image", "label", "arm", "phase", "pair", "run", "prediction"})


def first_line(error: BaseException) -> str:
    """The error's message, cut to one line that a ledger and a terminal can hold."""
    text = str(error).strip()
    return printable(text.splitlines()[0]) if text else ""


def escaped(text: str) -> str:
    """On one line that does nothing to a terminal, whatever it quotes; of a very long one its beginning and its end."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return line if len(line) <= 4000 else f"{line[:2000]} ... {line[-2000:]}"


class Parser(argparse.ArgumentParser):
    """argparse with an error that is one readable line, whatever it quotes, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {escaped(message)}\n({self.prog} --help shows examples)\n")


def printable(line: str) -> str:
    """The line as a record or a terminal can hold it: printable, at most 300 characters, without the user's home directory."""
    home = os.path.expanduser("~")  # noqa: PTH111  # Path.home() raises where there is none
    line = escaped(line)
    return (line.replace(home, "~") if len(home) > 1 else line)[:300]
