"""Several arms: how sure is the order? The distribution of every arm's rank."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.statistics.intervals import Correct

RESAMPLES = 2000
AT_ONCE = 100
"""Resamples whose weights of the images are held in memory together."""


def rank_shares(arms: Sequence[Correct], *, seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Share of resamples in which arm i has rank j, (arms, arms); rank 0 is the best, ties share the better one.

    ``arms``: per arm (runs, images), right or wrong, on the same images.

    Owen's pigeonhole bootstrap (2007, "The pigeonhole bootstrap", Ann. Appl. Stat. 1): runs are drawn with
    replacement per arm, and images with replacement, the same for all arms. It needs no model of how nets
    agree. Where runs differ much and are few it is too sure: a percentile interval over three runs covers .84 (METHOD.md 7).
    """
    rng = np.random.default_rng(seed)
    correct = [np.asarray(runs, dtype=np.float64) for runs in arms]
    images = correct[0].shape[1]
    found = np.zeros((len(arms), len(arms)))
    for done in range(0, resamples, AT_ONCE):
        count = min(AT_ONCE, resamples - done)
        drawn = rng.multinomial(images, np.full(images, 1 / images), size=count) / images
        means = []
        for table in correct:
            k = len(table)
            weights = rng.multinomial(k, np.full(k, 1 / k), size=count) / k
            means.append(np.einsum("bk,kb->b", weights, table @ drawn.T))
        ranks = rankdata(-np.stack(means), method="min", axis=0).astype(int) - 1
        for arm, own in enumerate(ranks):
            found[arm] += np.bincount(own, minlength=len(arms))
    return found / resamples
