"""One mean over several data sets, and what to expect on the next one: a random-effects model (METHOD.md 9).

The difference on data set i is ``y_i = mean + u_i + e_i``: ``u_i`` has the standard deviation tau between data sets, ``e_i``
that of the study. Tau is estimated by restricted maximum likelihood (Viechtbauer 2005, doi 10.3102/10769986030003261), the
interval is Hartung and Knapp's (2001, doi 10.1002/sim.791), never narrower than without their correction (Röver et al. 2015,
arXiv 1408.2923). It takes the weights as known, and the usual prediction interval (Higgins et al. 2009) tau and the errors; where a
study has three to eight pairs of searches they cover in .925 and .89 at worst (``tests/bench/across.py``). So tau and the errors are
drawn from what the data leave open (generalized pivotal quantities: Iyer, Wang and Mathew 2004, doi 10.1198/016214504000001682): the
draws of the next data set are its interval, and those of the mean widen Hartung and Knapp's where they reach further.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from analysis.statistics.intervals import Estimate, Reals, Refused, t_interval

DRAWS = 4000
"""Their quantiles move by about 1 % of an interval's width from seed to seed."""
STEPS, CLOSE = 200, 1e-12
"""Newton's, for tau squared, and the relative step that is the last."""
GRID = 60
"""Values of tau tried before the likelihood is refined: with few data sets it can have two peaks."""


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The differences of k data sets together, in the unit of the differences."""

    mean: Estimate
    """``se`` and ``df`` are Hartung and Knapp's; the ends may reach further."""
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
    joint = t_interval(mean, q / float(weights.sum()), k - 1, confidence)
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    around, ahead = (np.quantile(draws, ends) for draws in _drawn(differences, variances, dfs))
    low, high = _spread(differences, variances, confidence)
    return Pooled(
        mean=replace(joint, low=min(joint.low, float(around[0])), high=max(joint.high, float(around[1]))),
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


def _drawn(y: Reals, v: Reals, dfs: Reals) -> tuple[Reals, Reals]:
    """Draws, each of shape (DRAWS,), of the mean and of the true difference on a further data set, from a fixed seed."""
    rng, k = np.random.default_rng(0), len(y)
    v = v * dfs / rng.chisquare(dfs, (DRAWS, k))
    tau2 = _where_q_falls_to(rng.chisquare(k - 1, DRAWS), y, v)
    w = 1 / (v + tau2[:, None])
    mean: Reals = (w @ y) / w.sum(axis=1) + rng.standard_normal(DRAWS) / np.sqrt(w.sum(axis=1))
    ahead: Reals = mean + np.sqrt(tau2) * rng.standard_normal(DRAWS)
    return mean, ahead


def _where_q_falls_to(target: Reals, y: Reals, v: Reals) -> Reals:
    """Tau squared, shape (n,), for ``target`` (n,) and ``v`` (n, k); 0 where Q never reaches it.

    Q is convex in tau squared, so Newton's steps from 0 never pass the root (DerSimonian and Kacker 2007, doi 10.1016/j.cct.2006.04.004).
    """
    tau2, left = np.zeros(len(target)), np.arange(len(target))
    for _ in range(STEPS):
        w = 1 / (v[left] + tau2[left, None])
        share = w * (y - ((w @ y) / w.sum(axis=1))[:, None])
        above = (share**2 / w).sum(axis=1) - target[left]
        step = np.maximum(0.0, above) / np.maximum((share**2).sum(axis=1), np.finfo(np.float64).tiny)
        tau2[left] += step
        left = left[step > CLOSE * tau2[left]]
        if not len(left):
            break
    return tau2
