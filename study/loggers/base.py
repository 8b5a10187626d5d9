"""What a logger is: a tool that shows a study, fed with the ledger's records and nothing else.

One file in this folder = one tool; it defines ``TOOL``, and ``--log`` and ``python -m study log --to`` take its file's
name. Training knows nothing of loggers, and a tool that fails or is slow takes nothing from the study.
"""

import importlib.util
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from study.protocol import plugins
from study.protocol.errors import InputError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Record
from study.protocol.text import first_line

NO_TOOLS = ("base", "feed")
"""Files of this folder that are no tools."""
log = logging.getLogger("ray.study")  # goes where Ray's own messages go


class Logger(Protocol):
    """A tool that is open on one run."""

    def take(self, record: Record, history: History) -> None:
        """Called with every record in order; ``history`` includes it."""

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Tool:
    """What a logger's file declares."""

    start: Callable[[Plan, Path], Logger]
    """Opens the tool on the run in a folder. It writes there, or where the tool's own settings say."""
    needs: str
    """The package that writes for it."""
    shown_by: str = ""
    """The command that shows what was written; ``{home}`` stands for the run's folder."""
    always: bool = False
    """Whether it runs with every study; it is then no choice of ``--log``."""


def tools() -> dict[str, Tool]:
    """All of them, by their file's name."""
    return {
        name: module.TOOL for name, module in plugins.modules("study.loggers").items() if name not in NO_TOOLS
    }


def choices() -> list[str]:
    """The tools that ``--log`` may name."""
    return [name for name, tool in tools().items() if not tool.always]


def check(names: Iterable[str]) -> None:
    """Raises InputError, with the package to install, when a tool is unknown or its package is missing."""
    known = tools()
    for name in names:
        if name not in choices():
            raise InputError(f"--log {name!r}: there are {', '.join(choices())}")
        if importlib.util.find_spec(known[name].needs) is None:
            raise InputError(f"--log {name} needs a package: pip install {known[name].needs}")


class Loggers:
    """Several loggers as one. One that raises is dropped with a note in the log; the others go on."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._open = list(loggers)

    def take(self, record: Record, history: History) -> None:
        self._each(lambda logger: logger.take(record, history))

    def close(self) -> None:
        self._each(lambda logger: logger.close())

    def _each(self, call: Callable[[Logger], None]) -> None:
        for logger in list(self._open):
            try:
                call(logger)
            except Exception:
                log.exception("%s is closed: it failed", type(logger).__name__)
                self._open.remove(logger)


def failed(name: str, error: Exception) -> str:
    """One line on a tool's error."""
    return f"{name} failed: {type(error).__name__}: {first_line(error) or 'no reason given'}"


def measures(epoch: Epoch) -> dict[str, float]:
    """The numbers of an epoch that every tool shows."""
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "train_seconds", "cost")
    return {name: getattr(epoch, name) for name in names} | (
        {} if epoch.score is None else {"val_score": epoch.score}
    )
