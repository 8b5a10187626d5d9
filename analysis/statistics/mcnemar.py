"""Two trained nets on the same images: how often is each right where the other is wrong (METHOD.md 5, Q1)?

An appendix, never the verdict: it holds for these two nets. Two nets of one setting, trained with two
seeds, differ significantly in more than 5 % of cases as soon as runs differ by more than the images' luck.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.statistics.intervals import Refused

Row = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """First net minus second; ``delta``, ``low`` and ``high`` are fractions of the images."""

    images: int
    n10: int
    """Images on which only the first is right."""
    n01: int
    """Images on which only the second is right."""
    delta: float
    low: float
    """Of the Tango interval, for new images."""
    high: float
    confidence: float
    exact_p: float
    """McNemar's test by the binomial law of n10 given n10 + n01; keeps its level, at a price in power."""
    mid_p: float
    """The same, counting only half of what is as extreme as observed."""


def paired(first: Row, second: Row, *, confidence: float = 0.95) -> Paired:
    """Compare two nets, each right or wrong per image, shape (n,). Raises Refused without shared images."""
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise Refused(f"two nets are compared on the same images: {first.shape} and {second.shape}")
    n10, n01, images = int((first & ~second).sum()), int((second & ~first).sum()), len(first)
    low, high = tango(n10, n01, images, confidence=confidence)
    exact_p, mid_p = mcnemar(n10, n01)
    return Paired(
        images=images,
        n10=n10,
        n01=n01,
        delta=(n10 - n01) / images,
        low=low,
        high=high,
        confidence=confidence,
        exact_p=exact_p,
        mid_p=mid_p,
    )


def mcnemar(n10: int, n01: int) -> tuple[float, float]:
    """Two-sided exact p and mid-p from the discordant counts; both 1 when there are none.

    McNemar 1947; mid-p = 2 P(X < m) + P(X = m), m the smaller count (Fagerland, Lydersen, Laake 2013).
    """
    smaller, discordant = min(n10, n01), n10 + n01
    below = float(stats.binom.cdf(smaller - 1, discordant, 0.5))
    at = float(stats.binom.pmf(smaller, discordant, 0.5))
    return min(1.0, 2 * (below + at)), min(1.0, 2 * below + at)


def tango(n10: int, n01: int, images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval for the difference (n10 - n01) / n of two paired proportions, within [-1, 1].

    Tango 1998 (Statistics in Medicine 17, 891-908): all d with |n10 - n01 - n d| <= z sqrt(n (2 q + d (1 - d))),
    where q, the probability of "only the second right" that is most likely given d, is the larger root of
    2n q^2 + ((2n - n10 + n01) d - n10 - n01) q - n01 d (1 - d) = 0. Unlike Wald's it has a width when no
    image, or every image, is discordant. Raises Refused without images.
    """
    if images < 1 or min(n10, n01) < 0 or n10 + n01 > images:
        raise Refused(f"{n10} and {n01} discordant of {images} images cannot be")
    z = float(stats.norm.ppf((1 + confidence) / 2))
    return -_upper(n01, n10, images, z), _upper(n10, n01, images, z)


def _upper(n10: int, n01: int, n: int, z: float) -> float:
    if n10 == n:
        return 1.0
    if n10 == 0 and n01 in (0, n):  # the variance is 0 at the estimate, which is a false root then
        return (z**2 - n01) / (n + z**2)

    def excess(d: float) -> float:
        b = (2 * n - n10 + n01) * d - n10 - n01
        c = -n01 * d * (1 - d)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        return (n10 - n01 - n * d) ** 2 - z**2 * n * (2 * q + d * (1 - d))

    return float(optimize.brentq(excess, (n10 - n01) / n, 1.0, xtol=1e-12))
