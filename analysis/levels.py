"""The error rate of an interval, given several arms, a second look, an added arm or a repeated question (METHOD.md 6).

Group-sequential theory holds for both questions of a study: the estimates of two looks correlate by the root of
their share of information, sqrt(k1 / k2) with k pairs of searches, and an image error that both share only raises
that (Jennison and Turnbull 2000, "Group Sequential Methods", chapter 2). Rates are two-sided, fractions.
"""

import functools
from dataclasses import dataclass

from scipy import optimize

from study.protocol.looks import ADDED, FIRST_DECLARED, LEVEL, TOTAL_UNDECLARED, either, second_level
from study.protocol.metrics import Metric
from study.protocol.text import level, listed

FEWEST_PAIRS = 3
"""Fewest pairs of searches that get an interval: a first look at fewer claims nothing and spends nothing."""
AGAIN = 0.10
"""Over every study of one pair of arms on the same test images: .05 + .025 + .0125 + ..."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """The error rate of one interval, ``alpha``, and that of all intervals it is read with, ``total``."""

    alpha: float
    total: float
    over: tuple[str, ...] = ()
    """The intervals it is read with: ``both looks``, ``3 pairs of arms``; empty for one that stands alone."""

    @property
    def confidence(self) -> float:
        return 1 - self.alpha

    @property
    def label(self) -> str:
        """``95 %``, ``94 % over both looks``."""
        return level(1 - self.total) + (f" over {listed(list(self.over))}" if self.over else "")

    def span(self, metric: Metric, low: float, high: float, *, sign: bool = True) -> str:
        """``95 % interval -0.12 to +0.74``, ``94 % over both looks: ...``: in the metric's unit."""
        return spanned(self.label, metric, low, high, sign=sign)


def spanned(held: str, metric: Metric, low: float, high: float, *, sign: bool = True) -> str:
    """The ends of an interval of a difference after its level."""
    ends = f"{metric.number(low, sign=sign)} to {metric.number(high, sign=sign)}"
    return f"{held}: {ends}" if " over " in held else f"{held} interval {ends}"


@functools.cache
def forecast(first: int, now: int, *, spent: float, total: float) -> float:
    """Error rate of a second look by normal theory: close to ``second_level``, and quick enough to try many sizes."""
    return float(optimize.brentq(lambda a: either(spent, a, first, now) - total, 1e-9, total, xtol=1e-8))


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
        alpha, total = ADDED * halved / added, LEVEL + ADDED
        over.append(f"all {couples + added} pairs of arms, those of the added arm included")
    else:
        claims, declared = first >= FEWEST_PAIRS, looks > 1
        total = LEVEL if declared or look == 1 or not claims else TOTAL_UNDECLARED
        alpha = (FIRST_DECLARED if declared else LEVEL) * halved / couples
        if look > 1:
            spent = alpha if claims else 0.0
            alpha = second_level(first, now, spent=spent, total=total * halved / couples)
        if claims and (declared or look > 1):
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
    took is then left out of the total (Bonferroni), whatever the correlation. Nets are judged at every first look, also
    where one search per arm says nothing about architectures.
    """
    if look == 1:
        return answer
    total, spent = (LEVEL, FIRST_DECLARED) if looks > 1 else (TOTAL_UNDECLARED, LEVEL)
    return Level(
        alpha=(total - spent) * 0.5**earlier / couples,
        total=max(AGAIN, 2 * total) if earlier else total,
        over=("both looks", *(part for part in answer.over if part != "both looks")),
    )
