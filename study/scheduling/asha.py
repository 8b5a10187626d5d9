"""The rungs at which a search stops its trials."""

import math
from bisect import insort
from collections.abc import Iterable, Sequence

from study.protocol.allocation import REDUCTION


class Rungs:
    """Asynchronous successive halving, stopping variant (Li et al. 2020, "A System for Massively Parallel
    Hyperparameter Tuning", algorithm 2; the rule of Ray's AsyncHyperBandScheduler with one bracket).

    At each rung a trial goes on unless it is below the best 1/``reduction`` of those that reached the rung before it; the
    first one always goes on. Of equal scores the lower loss is better, since few validation images give few scores.
    """

    def __init__(self, epochs: Iterable[int], *, reduction: int = REDUCTION) -> None:
        self._keep = 1 - 1 / reduction
        self._seen: dict[int, set[str]] = {epoch: set() for epoch in epochs}
        self._sorted: dict[int, list[Standing]] = {epoch: [] for epoch in self._seen}

    def passes(self, trial: str, epoch: int, score: float, loss: float = 0.0) -> bool:
        """Whether a trial with this validation score and loss after ``epoch`` goes on; remembers them.

        A trial that comes again, after an interruption, passed before.
        """
        seen = self._seen.get(epoch)
        if seen is None or trial in seen:
            return True
        good = not seen or (score, -loss) >= quantile(self._sorted[epoch], self._keep)
        self.remember(trial, epoch, score, loss)
        return good

    def remember(self, trial: str, epoch: int, score: float, loss: float = 0.0) -> None:
        """Record a score that was decided on before; only a trial's first score at a rung counts."""
        if epoch in self._seen and trial not in self._seen[epoch]:
            self._seen[epoch].add(trial)
            insort(self._sorted[epoch], (score, -loss))


Standing = tuple[float, float]
"""A score, and minus the loss."""


def quantile(values: Sequence[Standing], q: float) -> Standing:
    """``np.quantile`` of values in ascending order, of both parts at once, to the last digit, in constant time."""
    place = (len(values) - 1) * q
    low = math.floor(place)
    part = place - low
    score, loss = (
        left + (right - left) * part if part < 0.5 else right - (right - left) * (1 - part)
        for left, right in zip(values[low], values[min(low + 1, len(values) - 1)], strict=True)
    )
    return score, loss
