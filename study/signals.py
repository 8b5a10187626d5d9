"""Signals that ask the study to stop: at first a wish that is met in order, the second Ctrl-C an order.

SIGTERM is what a spot machine or a batch system sends before it takes the machine, SIGHUP what a closed
terminal sends.
"""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Leaving:
    """Remembers the signal that came. ``listen`` again after anything that took the handlers, as Ray does."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._gently = False

    def listen(self) -> None:
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup is respected
                signal.signal(number, self._take)

    def asked(self) -> bool:
        return self.signal is not None

    @contextmanager
    def gently(self) -> Iterator[None]:
        """In this block a first signal only makes ``asked`` true; elsewhere it raises KeyboardInterrupt."""
        self._gently = True
        try:
            yield
        finally:
            self._gently = False

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or signal.SIGINT)

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        first, self.signal = self.signal is None, self.signal or number
        if not self._gently or (not first and number == signal.SIGINT):
            raise KeyboardInterrupt


class Sturdy:
    """A terminal that may be closed: what is written after that goes nowhere, and the study goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._close()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._close()

    def _close(self) -> None:
        """Point the stream at nothing, so that Python's own last flush does not fail either."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def sturdy_output() -> None:
    """Make standard output and error outlive their terminal, and write any name of a file."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = Sturdy(sys.stdout), Sturdy(sys.stderr)
