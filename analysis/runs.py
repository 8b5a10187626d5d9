"""The runs of one setting on the test images: what every comparison rests on."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.statistics.intervals import Correct, Estimate, Table, crossed, mean_score
from study.protocol.metrics import ACCURACY, Metric
from study.protocol.sampling import ALIKE, Sampling


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How a study judges nets on its test images: the metric, and how the images count under it."""

    metric: Metric = ACCURACY
    sampling: Sampling = ALIKE

    @property
    def how(self) -> dict[str, Any]:
        """For the estimators on tables of scores."""
        return {"sampling": self.sampling, "step": 1.0 if self.metric.shares else 0.0}


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
    judge: Judge = Judge()  # frozen
    own: Table | None = None
    """The scores of the same shape; None where being right is the score."""

    @property
    def scores(self) -> Table:
        return self.correct if self.own is None else self.own

    @property
    def means(self) -> tuple[float, ...]:
        """Each run's score."""
        return tuple(map(float, self.judge.sampling.mean(self.scores)))

    @property
    def guessed(self) -> int:
        return len(self.failed)

    @property
    def trained(self) -> bool:
        """Whether any of the runs left a net."""
        return self.guessed < len(self.correct)

    @property
    def whole(self) -> Table:
        """The scores without the failed ones."""
        return np.delete(self.scores, self.failed, axis=0)

    @property
    def mean(self) -> float:
        alike = self.judge.sampling.classes is None
        return float(self.scores.mean()) if alike else float(np.mean(self.means))

    def interval(self, *, whole: bool = False) -> Estimate:
        """Of the mean, for new runs and new images; ``whole``: without the failed ones. Raises Refused below two runs."""
        metric = self.judge.metric
        table = self.whole if whole else self.scores
        return mean_score(table, **self.judge.how, ends=(metric.worst, metric.best))

    def learnt(self, guessing: float) -> bool:
        """Whether the runs that did not fail are shown to be above ``guessing``."""
        if len(self.whole) < 2:
            return self.trained and float(self.judge.sampling.mean(self.whole.mean(axis=0))) > guessing
        return self.interval(whole=True).low > guessing


def apart(first: Runs, second: Runs, *, confidence: float = 0.95) -> Estimate:
    """The first's mean score minus the second's, for new runs and new images. Raises Refused below two runs."""
    return crossed(first.scores, second.scores, **first.judge.how, confidence=confidence)
