"""At which error rate an interval is read: several arms, a second look, an arm added, a question asked again (method.md 6.4).

Group-sequential theory holds for both questions of a study: the estimates of two looks correlate by the root of
their share of information, sqrt(k1 / k2) with k pairs of searches, and an image error that both share only raises
that (Jennison and Turnbull 2000, "Group Sequential Methods", chapter 2). Rates are two-sided, fractions.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from analysis.words import level, listed, points

ONE_LOOK = 0.05
"""Chance of any wrong word in a study that looks once, or whose second look was declared."""
TWO_LOOKS = 0.06
"""The same when the second look was not declared: the first one stands at .05."""
FIRST_OF_TWO = 0.0270
"""Spent by the first of two declared looks, when nobody knows yet how much the second will have: .05 at k -> 4k."""
ADDED = 0.025
"""Shared by the comparisons of an arm that was added; those before keep their intervals."""
AGAIN = 0.10
"""Over every study of one pair of arms on the same test images: .05 + .025 + .0125 + ..."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """Of one interval. ``alpha`` is its own error rate, ``total`` that of all that it is read with."""

    alpha: float
    total: float
    over: tuple[str, ...] = ()
    """What is read with it: ``both looks``, ``3 pairs of arms``; empty for one interval that stands alone."""

    @property
    def confidence(self) -> float:
        return 1 - self.alpha

    @property
    def told(self) -> str:
        """``95 %``, ``94 % over both looks``."""
        return level(1 - self.total) + (f" over {listed(list(self.over))}" if self.over else "")

    def span(self, low: float, high: float, *, sign: bool = True) -> str:
        """``95 % interval -0.12 to +0.74``, ``94 % over both looks: ...``: in points."""
        return spanned(self.told, low, high, sign=sign)


def spanned(held: str, low: float, high: float, *, sign: bool = True) -> str:
    """The ends of an interval beside what is promised of it."""
    ends = f"{points(low, sign=sign)} to {points(high, sign=sign)}"
    return f"{held}: {ends}" if " over " in held else f"{held} interval {ends}"


def either(a1: float, a2: float, k1: float, k2: float) -> float:
    """P(|Z1| > z1 or |Z2| > z2): the chance that either look errs, with correlation sqrt(k1 / k2). By quadrature."""
    z1, z2 = (float(stats.norm.isf(a / 2)) for a in (a1, a2))
    r = math.sqrt(k1 / k2)
    if r > 1 - 1e-9:
        return max(a1, a2)
    x, weight = np.polynomial.legendre.leggauss(200)
    x, s = z1 * x, math.sqrt(1 - r**2)
    second_inside = stats.norm.cdf((z2 - r * x) / s) - stats.norm.cdf((-z2 - r * x) / s)
    inside = z1 * (weight * stats.norm.pdf(x) * second_inside).sum()
    return 1 - float(inside)


@functools.cache
def second(a1: float, k1: float, k2: float, *, total: float) -> float:
    """What the second look may err, so that both together err in ``total``. Raises ValueError when nothing is left."""
    if not 0 < a1 < total:
        raise ValueError(f"the first look took {a1:g} of {total:g}: nothing is left for a second")
    if k1 >= k2:
        raise ValueError(f"a second look has more than the first: {k2:g} after {k1:g}")
    excess = lambda a2: either(a1, a2, k1, k2) - total
    return float(optimize.brentq(excess, 1e-9, total, xtol=1e-8))


def even(k1: float, k2: float, *, total: float = ONE_LOOK) -> float:
    """The rate that both looks may have alike when k1 and k2 are known beforehand."""
    return float(optimize.brentq(lambda a: either(a, a, k1, k2) - total, total / 2, total, xtol=1e-8))


def of(
    *,
    couples: int = 1,
    looks: int = 1,
    look: int = 1,
    first: int = 1,
    now: int = 1,
    earlier: int = 0,
    added: int = 0,
    new: bool = False,
) -> Level:
    """The level of one comparison of the headline.

    ``couples``: pairs of arms that the study asked about at its start; ``looks``: as many were declared; ``look``: this
    one; ``first``, ``now``: pairs of searches at the first look and by now; ``earlier``: studies that asked the same on
    these test images; ``added``: pairs of arms that came with an added arm, ``new``: whether this is one of them.
    """
    over: list[str] = []
    halved = 0.5**earlier
    if new:
        alpha, total = ADDED * halved / added, ONE_LOOK + ADDED
        over.append(f"all {couples + added} pairs of arms, those of the added arm included")
    else:
        declared = looks > 1
        total = ONE_LOOK if declared or look == 1 else TWO_LOOKS
        alpha = (FIRST_OF_TWO if declared else ONE_LOOK) * halved / couples
        if look > 1:
            alpha = second(alpha, first, now, total=total * halved / couples)
        if declared or look > 1:
            over.append("both looks")
        if added:
            total += ADDED
            over.append(f"all {couples + added} pairs of arms, those of the added arm included")
        elif couples > 1:
            over.append(f"{couples} pairs of arms")
    if earlier:
        total = max(AGAIN, 2 * total)
        over.append("every study of this question on these test images")
    return Level(alpha=alpha, total=total, over=tuple(over))


def of_nets(answer: Level, *, looks: int = 1, look: int = 1, couples: int = 1, earlier: int = 0) -> Level:
    """The level for the nets in hand beside it.

    A second look may have other nets in hand, whose difference need not correlate with the first's: what the first look
    took is then left out of the total (Bonferroni), whatever the correlation.
    """
    if look == 1:
        return answer
    declared = looks > 1
    total, spent = (ONE_LOOK, FIRST_OF_TWO) if declared else (TWO_LOOKS, ONE_LOOK)
    return Level(alpha=(total - spent) * 0.5**earlier / couples, total=answer.total, over=answer.over)
