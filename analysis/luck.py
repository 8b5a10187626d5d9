"""The luck of a pair of searches, and what a number of pairs can show in spite of it: forecasts before and after a study.

Imports scipy alone, so that the command line may use it. Everything is a fraction; rates are two-sided.
"""

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats

POWER = 0.8
SD_CONFIDENCE = 0.8
"""Of the interval for the luck's sd that forecasts rest on: a few pairs measure an sd roughly."""
MOST_PAIRS = 200
"""Most pairs of searches that a forecast names."""
MOST_IMAGES = 10**8
"""Most test images that a forecast names."""


@dataclass(frozen=True, kw_only=True)
class Luck:
    """How much pairs differ, and why."""

    differences: tuple[float, ...]
    """d_i, first minus second, per pair; empty for assumed luck."""
    sd: float
    """Standard deviation of one pair's difference, from search, training and these test images."""
    lasting: float
    """Variance over images of the difference that endless pairs would leave."""
    images: int
    lasting_se: float = 0.0
    """Standard error of ``lasting``, from the fourth moment over the images."""

    def variance(self, pairs: float, images: int | None = None) -> float:
        """Of the mean over ``pairs``, on ``images`` of the same kind (default: as many as measured)."""
        return self.sd**2 / pairs + self.lasting / (images or self.images)


Level = Callable[[int], float]
"""Number of pairs -> the error rate of the interval over them."""


def half_width(
    luck: Luck, pairs: int, alpha: float, *, power: float = 0.5, images: int | None = None
) -> float:
    """Half-width of the interval over ``pairs``; with ``power`` above one half, the true gap that this share of studies shows."""
    df = pairs - 1
    quantiles = float(stats.t.isf(alpha / 2, df) + stats.t.ppf(power, df))
    return quantiles * math.sqrt(luck.variance(pairs, images))


def pairs_needed(
    luck: Luck, gap: float, level: Level, *, power: float = POWER, at_least: int = 2
) -> int | None:
    """Fewest pairs whose interval shows a true gap of this size with this power; None above MOST_PAIRS."""
    if half_width(luck, MOST_PAIRS, level(MOST_PAIRS), power=power) > gap:
        return None

    def enough(pairs: int) -> bool:
        return half_width(luck, pairs, level(pairs), power=power) <= gap

    return bisect.bisect_left(range(MOST_PAIRS), True, lo=max(2, at_least), key=enough)


def images_needed(luck: Luck, gap: float, alpha: float, *, power: float = POWER) -> int | None:
    """Test images on which endless pairs would show the gap; None above MOST_IMAGES."""
    z = float(stats.norm.isf(alpha / 2) + stats.norm.ppf(power))
    images = luck.lasting * (z / gap) ** 2
    return None if images > MOST_IMAGES else math.ceil(images)


def sd_interval(sd: float, pairs: int) -> tuple[float, float]:
    """Interval of an sd measured on ``pairs``, by chi-squared."""
    df, tail = pairs - 1, (1 - SD_CONFIDENCE) / 2
    low, high = (sd * math.sqrt(df / float(end(tail, df))) for end in (stats.chi2.isf, stats.chi2.ppf))
    return low, high


def lasting_interval(luck: Luck) -> tuple[float, float]:
    """Interval of ``lasting``, by the normal law, cut at 0."""
    half = float(stats.norm.ppf((1 + SD_CONFIDENCE) / 2)) * luck.lasting_se
    return max(0.0, luck.lasting - half), luck.lasting + half
