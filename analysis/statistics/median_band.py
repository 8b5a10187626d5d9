"""The median of the best of n random settings, with a band that assumes nothing about their scores (METHOD.md 7)."""

import functools

import numpy as np
from opda.nonparametric import EmpiricalDistribution  # type: ignore[import-untyped]
from opda.utils import (  # type: ignore[import-untyped]
    beta_equal_tailed_coverage,
    beta_equal_tailed_interval,
)

from analysis.statistics.intervals import Reals

SIMULATED = 100_000
"""Samples that the width of a band is taken from, as many as opda takes."""
GUESSED = 2000
"""Of them, those that the guess at the width is taken from."""


def median_band(
    values: Reals, *, confidence: float = 0.95, support: tuple[float, float] = (0.0, 1.0)
) -> tuple[Reals, Reals, Reals]:
    """The median of the best of n = 1 .. N trials of the slice, (N,): estimate, lower, upper.

    The band holds for all n together and assumes nothing about the distribution: Lourie 2024
    (arXiv 2311.09480), opda's equal-tailed Learned-Miller-DeStefano band of the CDF, inverted. Ties make
    it wider than needed, never too narrow. From a few n on the upper side is the end of ``support``:
    that is what a slice of this size knows. The same values give the same band (seeded).
    """
    ends = np.concatenate([[support[0]], values, [support[1]]])
    order = np.argsort(np.argsort(ends))
    below, above = (
        EmpiricalDistribution(ends, ws=np.diff(w, prepend=0.0, append=1.0)[order], a=support[0], b=support[1])
        for w in _band(len(values), confidence)
    )
    middle = EmpiricalDistribution(values, ws=None, a=support[0], b=support[1])
    draws = np.arange(1, len(values) + 1)
    curves = [
        np.asarray(cdf.quantile_tuning_curve(draws), dtype=np.float64) for cdf in (middle, above, below)
    ]
    return curves[0], curves[1], curves[2]


@functools.cache
def _band(trials: int, confidence: float) -> tuple[Reals, Reals]:
    """Lower and upper bound of the CDF between the order statistics, (trials + 1,): opda's own, to the last digit.

    opda scores all of SIMULATED samples to take a quantile of the scores, which with 200 trials takes six seconds. Here a
    guess from a few sorts out those far below it, which are most.
    """
    ranks = np.arange(1, trials + 1)
    drawn = np.random.default_rng([trials, round(confidence * 1e6)]).random((SIMULATED, trials))
    drawn.sort(axis=-1)

    def critical(rows: Reals, of: int, level: float) -> float:
        """The quantile of ``of`` scores, of which those of other samples than ``rows`` are lower."""
        scores = [beta_equal_tailed_coverage(i, trials + 1 - i, rows[:, i - 1]) for i in ranks]
        return float(np.quantile(np.append(np.max(scores, axis=0), np.zeros(of - len(rows))), level))

    guess = critical(drawn[:GUESSED], GUESSED, max(0.0, confidence - 0.02))
    low, high = beta_equal_tailed_interval(ranks, ranks[::-1], guess)
    found = critical(drawn[((drawn < low) | (drawn > high)).any(axis=1)], SIMULATED, confidence)
    if found <= guess:
        found = critical(drawn, SIMULATED, confidence)
    low, high = beta_equal_tailed_interval(ranks, ranks[::-1], found)
    return np.clip(np.append(0.0, low), 0, 1), np.clip(np.append(high, 1.0), 0, 1)
