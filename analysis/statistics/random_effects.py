"""One mean over several data sets, and what to expect on the next one: a random-effects model (METHOD.md 9).

The difference on data set i is ``y_i = mean + u_i + e_i``: ``u_i`` has the standard deviation tau between data sets, ``e_i``
the known one of the study. Tau is estimated by restricted maximum likelihood (Viechtbauer 2005, doi 10.3102/10769986030003261),
the interval is Hartung and Knapp's (2001, doi 10.1002/sim.791), never narrower than without their correction (Röver et al. 2015,
arXiv 1408.2923). The usual prediction interval (Higgins et al. 2009) takes tau and the errors as known and covers in .89 to .92
where a study has three to eight pairs of searches; here both are drawn from what the data leave open (generalized pivotal
quantities: Iyer, Wang and Mathew 2004, doi 10.1198/016214504000001682).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from analysis.statistics.intervals import Estimate, Reals, Refused, t_interval

DRAWS = 4000
"""Of the prediction: its ends move by about 1 % of its width from seed to seed."""
GRID = 60
"""Values of tau tried before the likelihood is refined: with few data sets it can have two peaks."""


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The differences of k data sets together, in the unit of the differences."""

    mean: Estimate
    tau: float
    """Standard deviation of the true difference between data sets."""
    tau_low: float
    tau_high: float
    next_low: float
    """Ends of the interval for the true difference on the next data set of the kind."""
    next_high: float
    weights: tuple[float, ...]
    """Share of each data set in the mean."""


def pooled(differences: Reals, errors: Reals, dfs: Reals, *, confidence: float = 0.95) -> Pooled:
    """Join ``differences`` with their standard ``errors`` and the errors' degrees of freedom, each of shape (k,).

    Raises Refused below three data sets, where the next one cannot be predicted.
    """
    k = len(differences)
    if k < 3:
        raise Refused(f"{k} data sets cannot show how data sets differ: at least three are needed")
    variances = np.maximum(errors**2, 1e-18)
    tau2 = _restricted_maximum(differences, variances)
    weights = 1 / (variances + tau2)
    mean = float(weights @ differences / weights.sum())
    q = max(1.0, float(weights @ (differences - mean) ** 2) / (k - 1))
    variance = q / float(weights.sum())
    ahead = np.quantile(_next(differences, variances, dfs), ((1 - confidence) / 2, (1 + confidence) / 2))
    low, high = _spread(differences, variances, confidence)
    return Pooled(
        mean=t_interval(mean, variance, k - 1, confidence),
        tau=math.sqrt(tau2),
        tau_low=low,
        tau_high=high,
        next_low=float(ahead[0]),
        next_high=float(ahead[1]),
        weights=tuple(map(float, weights / weights.sum())),
    )


def _restricted_maximum(y: Reals, v: Reals) -> float:
    """Tau squared where the restricted likelihood is largest."""

    def loss(tau: float) -> float:
        w = 1 / (v + tau**2)
        mean = w @ y / w.sum()
        return float(-np.log(w).sum() + np.log(w.sum()) + w @ (y - mean) ** 2) / 2

    most = 3 * float(np.ptp(y)) + float(np.sqrt(v.max()))
    grid = np.linspace(0, most, GRID)
    best = int(np.argmin([loss(tau) for tau in grid]))
    ends = (float(grid[max(0, best - 1)]), float(grid[min(GRID - 1, best + 1)]))
    found = float(optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-10}).x)
    return found**2 if loss(found) < loss(0.0) else 0.0


def _spread(y: Reals, v: Reals, confidence: float) -> tuple[float, float]:
    """Interval for tau by the Q profile (Viechtbauer 2007, doi 10.1002/sim.2514)."""
    k = len(y)

    def q(tau: float) -> float:
        w = 1 / (v + tau**2)
        return float(w @ (y - w @ y / w.sum()) ** 2)

    def where(quantile: float) -> float:
        target = float(stats.chi2.ppf(quantile, k - 1))
        if q(0.0) <= target:
            return 0.0
        above = max(float(np.ptp(y)), float(np.sqrt(v.max())))
        while q(above) > target:
            above *= 2
        return float(optimize.brentq(lambda tau: q(tau) - target, 0.0, above))

    return where((1 + confidence) / 2), where((1 - confidence) / 2)


def _next(y: Reals, v: Reals, dfs: Reals) -> Reals:
    """Draws, shape (DRAWS,), of the true difference on a further data set, from a fixed seed."""
    rng, k = np.random.default_rng(0), len(y)
    v = v * dfs / rng.chisquare(dfs, (DRAWS, k))
    target = rng.chisquare(k - 1, DRAWS)
    low, high = np.zeros(DRAWS), np.full(DRAWS, 100 * float(np.ptp(y)) ** 2)
    for _ in range(50):  # tau squared where Q falls to its draw; 0 where Q never reaches it
        middle = (low + high) / 2
        w = 1 / (v + middle[:, None])
        mean = (w @ y) / w.sum(axis=1)
        above = (w * (y - mean[:, None]) ** 2).sum(axis=1) > target
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    w = 1 / (v + low[:, None])
    mean = (w @ y) / w.sum(axis=1) + rng.standard_normal(DRAWS) / np.sqrt(w.sum(axis=1))
    ahead: Reals = mean + np.sqrt(low) * rng.standard_normal(DRAWS)
    return ahead
