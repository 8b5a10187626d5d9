"""A budget: an amount of GPU or CPU time."""

import math
import re
from dataclasses import dataclass
from typing import Literal, Self

from study.protocol.errors import InputError

SHORTEST = 60.0
"""Resource-seconds below which nothing can be measured: starting workers three times and timing two arms takes about as long."""
LONGEST = 1e6 * 3600
"""Resource-seconds above which the budget must be a mistake."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Resource-seconds of one kind: ``8gpu-hours``, ``20cpu-minutes``."""

    seconds: float
    resource: Literal["gpu", "cpu"]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InputError unless ``text`` is a sensible amount with a known unit."""
        match = re.fullmatch(
            r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*(gpu|cpu)-?(hour|minute)s?\s*", text.lower()
        )
        if match is None:
            raise InputError(
                f"budget {text!r} is not understood: give a positive number and one of gpu-hours, "
                "gpu-minutes, cpu-hours, cpu-minutes, as in 8gpu-hours or 10cpu-minutes"
            )
        amount, resource, unit = match.groups()
        seconds = float(amount) * (3600 if unit == "hour" else 60)
        if not SHORTEST <= seconds <= LONGEST:
            raise InputError(
                f"budget {text!r} is out of range: give at least a minute, which measuring the arms and starting "
                "workers takes, and at most a million hours"
            )
        return cls(seconds=seconds, resource="gpu" if resource == "gpu" else "cpu")

    @classmethod
    def whole_minutes(cls, seconds: float, resource: Literal["gpu", "cpu"]) -> Self:
        """At least ``seconds``, rounded up to minutes."""
        return cls(seconds=60.0 * math.ceil(seconds / 60), resource=resource)

    def __str__(self) -> str:
        hours = self.seconds / 3600
        amount, unit = (
            (hours, "hours") if hours >= 1 and hours == round(hours, 2) else (self.seconds / 60, "minutes")
        )
        return f"{amount:.10g}{self.resource}-{unit}"
