"""The rungs at which a search stops its trials."""

import math
from bisect import insort
from collections.abc import Iterable, Sequence

from study.protocol.allocation import REDUCTION


class Rungs:
    """Asynchronous successive halving, stopping variant (Li et al. 2020, "A System for Massively Parallel
    Hyperparameter Tuning", algorithm 2; the rule of Ray's AsyncHyperBandScheduler with one bracket).

    At each rung a trial goes on unless it is below the best 1/``reduction`` of those that reached the rung before it; the
    first one always goes on.
    """

    def __init__(self, epochs: Iterable[int], *, reduction: int = REDUCTION) -> None:
        self._keep = 1 - 1 / reduction
        self._seen: dict[int, set[str]] = {epoch: set() for epoch in epochs}
        self._sorted: dict[int, list[float]] = {epoch: [] for epoch in self._seen}

    def passes(self, trial: str, epoch: int, accuracy: float) -> bool:
        """Whether a trial with this validation accuracy after ``epoch`` goes on; remembers the score.

        A trial that comes again, after an interruption, passed before.
        """
        seen = self._seen.get(epoch)
        if seen is None or trial in seen:
            return True
        good = not seen or accuracy >= quantile(self._sorted[epoch], self._keep)
        self.remember(trial, epoch, accuracy)
        return good

    def remember(self, trial: str, epoch: int, accuracy: float) -> None:
        """Record a score that was decided on before; only a trial's first score at a rung counts."""
        if epoch in self._seen and trial not in self._seen[epoch]:
            self._seen[epoch].add(trial)
            insort(self._sorted[epoch], accuracy)


def quantile(values: Sequence[float], q: float) -> float:
    """``np.quantile`` of values in ascending order, to the last digit, in constant time."""
    place = (len(values) - 1) * q
    low = math.floor(place)
    left, right, part = values[low], values[min(low + 1, len(values) - 1)], place - low
    return left + (right - left) * part if part < 0.5 else right - (right - left) * (1 - part)
