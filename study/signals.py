"""Signals that ask the study to stop. The first one is met in order; a second Ctrl-C stops at once.

SIGTERM comes from a spot machine or a batch system before it takes the machine away, SIGHUP from a terminal that closes.
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


class StopSignal:
    """Remembers the signal that came. Call ``listen`` again after anything that takes the handlers, as Ray does."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._in_order = False

    def listen(self) -> None:
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # respects nohup
                signal.signal(number, self._take)

    def requested(self) -> bool:
        return self.signal is not None

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Inside, a first signal only makes ``requested`` true; elsewhere it raises KeyboardInterrupt."""
        self._in_order = True
        try:
            yield
        finally:
            self._in_order = False

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or signal.SIGINT)

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        first, self.signal = self.signal is None, self.signal or number
        if not self._in_order or (not first and number == signal.SIGINT):
            raise KeyboardInterrupt


class _Outliving:
    """A stream whose terminal may close: later output goes nowhere, and the study goes on."""

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


def outlive_terminal() -> None:
    """Let standard output and error survive their terminal, and print any file's name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Outliving(sys.stdout), _Outliving(sys.stderr)
