"""The runs of one setting on the test images: what every comparison rests on."""

from dataclasses import dataclass

import numpy as np

from analysis.statistics.intervals import Correct, mean_accuracy


@dataclass(frozen=True, kw_only=True)
class Runs:
    """One arm's runs of one frozen setting on the test images."""

    arm: str
    correct: Correct
    """Shape (k, n): run s is right on image i. A failed run is a row of guesses, never left out."""
    full_run: float | None
    """Resource-seconds of the epochs of one full run of this setting, without start-up; None if unknown."""
    failed: tuple[int, ...] = ()
    """Rows of guesses that stand for a failed run."""

    @property
    def accuracies(self) -> tuple[float, ...]:
        return tuple(float(a) for a in self.correct.mean(axis=1))

    @property
    def guessed(self) -> int:
        return len(self.failed)

    @property
    def trained(self) -> bool:
        """Whether any of the runs left a net."""
        return self.guessed < len(self.correct)

    @property
    def whole(self) -> Correct:
        """Without the failed ones."""
        return np.delete(self.correct, self.failed, axis=0)

    @property
    def mean(self) -> float:
        return float(self.correct.mean())

    def learnt(self, guessing: float) -> bool:
        """Whether the runs that did not fail are shown to be above ``guessing``."""
        if len(self.whole) < 2:
            return self.trained and float(self.whole.mean()) > guessing
        return mean_accuracy(self.whole).low > guessing
