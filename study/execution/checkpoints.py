"""The checkpoints of one trial on its worker: in the run's folder, or in a storage that all nodes see."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from study.protocol.errors import StudyError
from study.protocol.records import Trial
from study.protocol.rundir import RunDir
from study.protocol.settings import SETTINGS
from study.protocol.text import first_line
from study.storage import objects
from study.training import checkpoint

SHARE = 0.01
"""Part of the training time that checkpoints may take: where writing is slow, they are fewer."""


class Checkpoints:
    """Writes a trial's checkpoints, and says when the next one is due."""

    def __init__(self, trial: Trial, run: RunDir, storage: objects.Storage | None) -> None:
        self._trial = trial
        self._path = run.checkpoint(trial.id)
        self._storage = storage
        self._saved, self._pause = time.monotonic(), SETTINGS.checkpoint_seconds
        self._net: bytes | None = None
        self._unsaved = ""
        self._seconds = 0.0

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved > self._pause

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The newest whole checkpoint; None if there is none."""
        if self._storage is None:
            return checkpoint.load(self._path, device)
        try:
            content = self._storage.get(objects.unfinished(self._trial))
        except OSError as error:  # the trial begins anew: a failing storage stops no study
            self._unsaved = first_line(error)
            return None
        return None if content is None else checkpoint.unpack(content, device)

    def save(self, state: Mapping[str, Any], *, final: bool = False) -> None:
        """Write ``state``; a ``final`` one replaces all others, or goes to the driver if the nodes share no folder.

        Raises StudyError if the run's folder cannot be written. If a storage fails, ``unsaved`` says so.
        """
        began = time.monotonic()
        try:
            content = checkpoint.pack(state)
            if self._storage is None:
                checkpoint.save(self._path, content)
                if final:
                    checkpoint.keep_only(self._path)
            elif final:
                self._net = content
            else:
                self._storage.put(objects.unfinished(self._trial), content)
        except OSError as error:
            if self._storage is None:
                raise StudyError(f"no checkpoint can be written: {error}") from error
            self._unsaved = first_line(error)
        finally:
            self._saved = time.monotonic()
            took = self._saved - began
            self._seconds += took
            self._pause = max(SETTINGS.checkpoint_seconds, took / SHARE)

    def seconds(self) -> float:
        """Spent on writing since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def handover(self) -> tuple[bytes | None, str]:
        """The final net for the driver, if any, and why the storage failed, if it did; each handed over once."""
        net, unsaved = self._net, self._unsaved
        self._net, self._unsaved = None, ""
        return net, unsaved
