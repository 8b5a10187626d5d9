"""Intervals and limits that no user sets. Tests shorten them, so that a study of seconds meets what one of hours does.

``STUDY_SETTINGS`` holds the ones that differ, as JSON: ``{"beat_seconds": 0.5}``. Ray's workers get it
from the driver. The variable is for tests only.
"""

import json
import os
from dataclasses import dataclass
from typing import Self

VARIABLE = "STUDY_SETTINGS"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Wall seconds, unless said otherwise."""

    report_seconds: float = 5.0
    """Training between two reports of a trial, within an epoch."""
    checkpoint_seconds: float = 30.0
    """Training between two checkpoints of a trial, at least."""
    silence_floor: float = 120.0
    """How long even the fastest trial may be silent, for example while its first step is compiled."""
    beat_seconds: float = 10.0
    """Between two records of what running trials have held."""
    nodes_seconds: float = 30.0
    """Between two checks for nodes that have joined."""
    disk_seconds: float = 5.0
    """Between two checks of the free disk space."""
    disk_floor: int = 200 * 2**20
    """Free bytes below which the study stops while it still can in order."""
    sync_seconds: float = 30.0
    """Between two uploads of a run that is kept at a URI."""
    confirm_ceiling: int = 20
    """Confirmation runs of one find, at most."""
    memory_share: float = 0.5
    """Part of the available memory that decoded images may take: Ray's object store holds a copy of them."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises ValueError when ``text`` is no JSON object of numbers with these names."""
        try:
            return cls(**(json.loads(text) if text else {}))
        except TypeError as error:
            raise ValueError(f"{VARIABLE}: {error}") from error


def passed_on() -> dict[str, str]:
    """The environment variables that a worker needs to have the driver's settings."""
    return {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}


SETTINGS = Settings.read(os.environ.get(VARIABLE, ""))
