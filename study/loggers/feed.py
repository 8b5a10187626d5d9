"""Feeds loggers: from a thread while a study runs, or from its ledger later. The same records give the same result."""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from study.loggers.base import Logger, Loggers, check, failed, tools
from study.protocol import consistency, ledger, looks
from study.protocol.errors import InputError, LedgerError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Record
from study.protocol.rundir import RunDir

FOLLOW_SECONDS = 1.0
CLOSE_SECONDS = 60.0
"""Longest wait for slow tools at the end of a study."""


class Feed:
    """Passes records to loggers in a thread of its own, beginning with those that the ledger at ``path`` has."""

    def __init__(self, path: Path, loggers: Iterable[Logger]) -> None:
        self._loggers = Loggers(list(loggers))
        self._records: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        for record in ledger.records(path):
            self._records.put(record)
        self._thread = threading.Thread(target=self._run, name="loggers", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Never waits and never raises."""
        self._records.put(record)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait ``seconds`` for slow tools; ``python -m study log`` writes what they have missed by then."""
        self._records.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        history = History()
        while (record := self._records.get()) is not None:
            history.add(record)
            self._loggers.take(record, history)
        self._loggers.close()


def start(names: Iterable[str], plan: Plan, run: RunDir, say: Callable[[str], None]) -> Feed:
    """Feed the tools ``names`` and those that always run; ``say`` takes a sentence on each that cannot start."""
    wanted, opened = set(names), []
    for name, tool in tools().items():
        if not (tool.always or name in wanted):
            continue
        try:
            opened.append(tool.start(plan, run.path))
        except Exception as error:  # noqa: BLE001  # a tool that is down takes nothing from the study
            say(f"note: --log {name} is left out: {failed(name, error)}")
    return Feed(run.ledger, opened)


def write(home: Path, name: str, *, follow: bool = False, refresh: Callable[[], None] = lambda: None) -> str:
    """Write the run in ``home`` for one tool, with ``follow`` until the study ends. Returns how to open the result.

    ``refresh`` brings the ledger up to date where the study runs on another machine. Raises InputError when there is
    no study or no such tool, when another process is writing it, or the tool fails.
    """
    check([name])
    tool = tools()[name]
    plan, _ = consistency.load(RunDir(home))
    try:
        _write(tool.start(plan, home), home, follow, refresh)
    except (InputError, LedgerError):
        raise
    except Exception as error:  # tools raise what they like
        raise InputError(failed(name, error)) from error
    return tool.shown_by.format(home=home)


def _write(logger: Logger, home: Path, follow: bool, refresh: Callable[[], None]) -> None:
    history, done = History(), 0
    try:
        while True:
            for record in itertools.islice(ledger.records(RunDir(home).ledger), done, None):
                history.add(record)
                logger.take(record, history)
                done += 1
            if not follow or looks.finished(history):
                break
            time.sleep(FOLLOW_SECONDS)
            refresh()
    except BaseException:
        with suppress(Exception):  # the first error counts, not that closing fails too
            logger.close()
        raise
    logger.close()
