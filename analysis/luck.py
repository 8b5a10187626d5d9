"""What pairs of searches differ by, and what so many of them can therefore show: forecasts, before a study and after it.

Of the libraries scipy only, so that the command line may ask. Everything is a fraction; rates are two-sided.
"""

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats

POWER = 0.8
SD_CONFIDENCE = 0.8
"""Of the interval of the luck's sd that forecasts rest on: few pairs measure a sd roughly."""
MOST_PAIRS = 200
"""Pairs of searches beyond which nobody pays."""
MOST_IMAGES = 10**8
"""Test images beyond which nobody has any."""


@dataclass(frozen=True, kw_only=True)
class Luck:
    """What the pairs differ by."""

    differences: tuple[float, ...]
    """d_i, first minus second, per pair; none where all is assumed."""
    sd: float
    """Of one pair's difference: search, training and what these test images make of them."""
    lasting: float
    """Variance over images of the difference that would stay after endless pairs."""
    images: int
    lasting_se: float = 0.0
    """Standard error of ``lasting``, from the fourth moment over the images."""

    def variance(self, pairs: float, images: int | None = None) -> float:
        """Of the mean over so many pairs, on as many images of the kind."""
        return self.sd**2 / pairs + self.lasting / (images or self.images)


Level = Callable[[int], float]
"""Error rate of the interval over so many pairs."""


def half_width(
    luck: Luck, pairs: int, alpha: float, *, power: float = 0.5, images: int | None = None
) -> float:
    """Of the interval over so many pairs; with ``power`` above one half, the true gap that it shows in that share of studies."""
    df = pairs - 1
    quantiles = float(stats.t.isf(alpha / 2, df) + stats.t.ppf(power, df))
    return quantiles * math.sqrt(luck.variance(pairs, images))


def pairs_needed(
    luck: Luck, gap: float, level: Level, *, power: float = POWER, at_least: int = 2
) -> int | None:
    """Fewest pairs whose interval shows a true gap of this size with this power; None where MOST_PAIRS would not do."""
    if half_width(luck, MOST_PAIRS, level(MOST_PAIRS), power=power) > gap:
        return None

    def enough(pairs: int) -> bool:
        return half_width(luck, pairs, level(pairs), power=power) <= gap

    return bisect.bisect_left(range(MOST_PAIRS), True, lo=max(2, at_least), key=enough)


def images_needed(luck: Luck, gap: float, alpha: float, *, power: float = POWER) -> int | None:
    """Test images on which endless pairs would show the gap; None where nobody has as many."""
    z = float(stats.norm.isf(alpha / 2) + stats.norm.ppf(power))
    images = luck.lasting * (z / gap) ** 2
    return None if images > MOST_IMAGES else math.ceil(images)


def sd_interval(sd: float, pairs: int, confidence: float = SD_CONFIDENCE) -> tuple[float, float]:
    """Of a sd measured on so many pairs, by chi-squared."""
    df, tail = pairs - 1, (1 - confidence) / 2
    return (
        sd * math.sqrt(df / float(stats.chi2.isf(tail, df))),
        sd * math.sqrt(df / float(stats.chi2.ppf(tail, df))),
    )


def lasting_interval(luck: Luck, confidence: float = SD_CONFIDENCE) -> tuple[float, float]:
    """Of ``lasting``, by the normal law and not below 0."""
    half = float(stats.norm.ppf((1 + confidence) / 2)) * luck.lasting_se
    return max(0.0, luck.lasting - half), luck.lasting + half
