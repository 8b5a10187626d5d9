"""Several arms: how sure is the order? The distribution of every arm's rank."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata, spearmanr

from analysis.statistics.intervals import Reals, Table
from study.protocol.sampling import ALIKE, Sampling

RESAMPLES = 2000
AT_ONCE = 100
"""Resamples whose weights of the images are held in memory together."""


def rank_shares(
    arms: Sequence[Table], sampling: Sampling = ALIKE, *, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Share of resamples in which arm i has rank j, (arms, arms); rank 0 is the best, ties share the better one.

    ``arms``: per arm the scores (runs, images), on the same images.

    Owen's pigeonhole bootstrap (2007, "The pigeonhole bootstrap", Ann. Appl. Stat. 1): runs are drawn with
    replacement per arm, and images with replacement, the same for all arms. It needs no model of how nets
    agree. Where runs differ much and are few it is too sure: a percentile interval over three runs covers .84 (METHOD.md 7).
    """
    rng = np.random.default_rng(seed)
    tables = [np.asarray(runs, dtype=np.float64) for runs in arms]
    images = tables[0].shape[1]
    found = np.zeros((len(arms), len(arms)))
    for done in range(0, resamples, AT_ONCE):
        count = min(AT_ONCE, resamples - done)
        drawn = sampling.resampled(rng, images, count)
        means = []
        for table in tables:
            k = len(table)
            weights = rng.multinomial(k, np.full(k, 1 / k), size=count) / k
            means.append(np.einsum("bk,kb->b", weights, table @ drawn.T))
        ranks = rankdata(-np.stack(means), method="min", axis=0).astype(int) - 1
        for arm, own in enumerate(ranks):
            found[arm] += np.bincount(own, minlength=len(arms))
    return found / resamples


def rank_correlation(a: Reals, b: Reals, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Spearman's correlation of four or more pairs, with its interval: Fisher's transform with the variance
    (1 + rho^2 / 2) / (n - 3) of Bonett and Wright (2000, Psychometrika 65). NaN where one of them is constant.

    In perfect order the transform has no width: it is taken half a step below, where one step exchanges two neighbours.
    """
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan"), float("nan"), float("nan")
    n, rho = len(a), float(spearmanr(a, b).statistic)
    most = 1 - 6 / (n * (n**2 - 1))
    middle = np.arctanh(np.clip(rho, -most, most))
    half = float(norm.ppf(0.5 + confidence / 2)) * ((1 + rho**2 / 2) / (n - 3)) ** 0.5
    return rho, min(rho, float(np.tanh(middle - half))), max(rho, float(np.tanh(middle + half)))
