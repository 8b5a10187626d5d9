"""Intervals and limits that no user sets. Tests shorten them, so that a study of seconds meets what a study of hours meets.

The environment variable ``STUDY_SETTINGS`` overrides them, as JSON: ``{"beat_seconds": 0.5}``. The driver passes it to Ray's
workers. It is for tests only.
"""

import json
import os
from dataclasses import dataclass
from typing import Self

VARIABLE = "STUDY_SETTINGS"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """In wall seconds unless stated otherwise."""

    report_seconds: float = 5.0
    """Training between two reports of a trial, within an epoch."""
    checkpoint_seconds: float = 30.0
    """Training between two checkpoints of a trial, at the least."""
    silence_floor: float = 120.0
    """Silence allowed even for the fastest trial, for example while its first step is compiled."""
    beat_seconds: float = 10.0
    """Between two records of what running trials hold."""
    nodes_seconds: float = 30.0
    """Between two checks for new nodes."""
    disk_seconds: float = 5.0
    """Between two checks of the free disk space."""
    disk_floor: int = 200 * 2**20
    """Free bytes below which the study stops while it can still do so in order."""
    sync_seconds: float = 30.0
    """Between two uploads of a run kept at a URI."""
    confirm_ceiling: int = 20
    """Confirmation runs of one find, at most."""
    memory_share: float = 0.5
    """Part of the available memory that decoded images may take: Ray's object store holds a copy."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises ValueError unless ``text`` is a JSON object of numbers with these names."""
        try:
            return cls(**(json.loads(text) if text else {}))
        except TypeError as error:
            raise ValueError(f"{VARIABLE}: {error}") from error


def passed_on() -> dict[str, str]:
    """The environment variables that give a worker the driver's settings."""
    return {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}


SETTINGS = Settings.read(os.environ.get(VARIABLE, ""))
