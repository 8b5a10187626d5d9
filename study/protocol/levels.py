"""The error rate of an interval, given several arms, a second look, an added arm or a repeated question (METHOD.md 6).

Group-sequential theory holds for both questions of a study: the estimates of two looks correlate by the root of
their share of information, sqrt(k1 / k2) with k pairs of searches, and an image error that both share only raises
that (Jennison and Turnbull 2000, "Group Sequential Methods", chapter 2). Rates are two-sided, fractions.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from study.protocol.metrics import Metric
from study.protocol.plan import Plan
from study.protocol.records import Extension
from study.protocol.text import level, listed

LEVEL = 0.05
"""Error of an only look."""
FIRST_DECLARED = 0.027
"""Error of the first of two declared looks, while the size of the second is unknown."""
TOTAL_UNDECLARED = 0.06
"""Error over both looks if the second was not announced and the first took its 0.05."""
ADDED = 0.025
"""Error that the pairs of arms of an added arm share."""
POINTS = 18
"""2 to this power points sample the joint law of both looks; the level is then right to 0.0002."""
FEWEST_PAIRS = 3
"""Fewest pairs of searches that get an interval: a first look at fewer claims nothing and spends nothing."""
AGAIN = 0.10
"""Over every study of one pair of arms on the same test images: .05 + .025 + .0125 + ..."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """The error rate of one interval, ``alpha``, and that of all intervals it is read with, ``total``."""

    alpha: float
    total: float
    own: float
    """Of ``total``, what this study takes over all its looks and pairs of arms."""
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


def either(a1: float, a2: float, first: float, second: float) -> float:
    """P(|Z1| > z1 or |Z2| > z2): the chance that either look errs, with correlation sqrt(k1 / k2).

    Computed by quadrature, since a report must be the same each time: scipy's bivariate normal draws random numbers.
    """
    z1, z2 = (float(stats.norm.isf(a / 2)) for a in (a1, a2))
    correlation = math.sqrt(first / second)
    if correlation > 1 - 1e-9:
        return max(a1, a2)
    x, weight = _nodes()
    x, rest = z1 * x, math.sqrt(1 - correlation**2)
    inside = stats.norm.cdf((z2 - correlation * x) / rest) - stats.norm.cdf((-z2 - correlation * x) / rest)
    return 1 - float(z1 * (weight * stats.norm.pdf(x) * inside).sum())


@functools.cache
def _nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and weights of the quadrature: a report tries a hundred sizes with them."""
    x, weight = np.polynomial.legendre.leggauss(200)
    return x, weight


@functools.cache
def second_level(first: int, second: int, *, spent: float, total: float) -> float:
    """Error of the second look such that both together err in ``total``: t intervals over ``first``, then ``second`` pairs.

    ``spent`` is the error of the first look, 0 if it could claim nothing. Each t has its own standard deviation, so over a few
    pairs the two are less alike than normal theory says, whose levels would err in 5.3 % instead of 5 (4, then 8 pairs): the
    joint law is summed over quasi-random points. Raises ValueError if nothing is new, or nothing is left.
    """
    if not 0 < first < second:
        raise ValueError(f"a second look at {second} after {first} has nothing new")
    if not spent:
        return total
    if spent >= total:
        raise ValueError(f"the first look took {spent:g} of {total:g}: nothing is left for a second")
    if first < 2:
        raise ValueError("one pair of searches has no interval, and can have taken nothing")
    t1, t2 = _both(first, second)
    silent = t2[t1 <= stats.t.isf(spent / 2, first - 1)]
    wrong = round((total - spent) * len(t1))
    least = np.partition(silent, len(silent) - wrong)[len(silent) - wrong]
    return float(2 * stats.t.sf(least, second - 1))


@functools.lru_cache(maxsize=4)
def _both(first: int, second: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|t| over the first differences and over all of them, at evenly spread points of their common distribution."""
    more = second - first
    points = stats.qmc.Sobol(4, scramble=False).random_base2(POINTS) + 0.5 / 2**POINTS
    mean, further = (stats.norm.ppf(points[:, i]) / math.sqrt(k) for i, k in ((0, first), (1, more)))
    squares = stats.chi2.ppf(points[:, 2], first - 1)
    t1 = np.abs(mean) * np.sqrt(first * (first - 1) / squares)
    if more > 1:
        squares = squares + stats.chi2.ppf(points[:, 3], more - 1)
    squares = squares + first * more / second * (mean - further) ** 2
    all_mean = (first * mean + more * further) / second
    return t1, np.abs(all_mean) * np.sqrt(second * (second - 1) / squares)


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
    earlier: Sequence[float] = (),
    added: int = 0,
    new: bool = False,
    exact: bool = True,
) -> Level:
    """The level of one comparison of the headline.

    ``couples``: pairs of arms that the study asked about at its start; ``looks``: as many were declared; ``look``: this
    one; ``first``, ``now``: pairs of searches at the first look and by now; ``earlier``: what each study that asked the
    same on these test images took; ``added``: pairs of arms that came with an added arm, ``new``: whether this is one of
    them. ``exact``: not by normal theory, which is quick enough to try many sizes.
    """
    over: list[str] = []
    halved = 0.5 ** len(earlier)
    if new:
        alpha, own = ADDED * halved / added, LEVEL + ADDED
        over.append(f"all {couples + added} pairs of arms, those of the added arm included")
    else:
        claims, declared = first >= FEWEST_PAIRS, looks > 1
        own = LEVEL if declared or look == 1 or not claims else TOTAL_UNDECLARED
        alpha = (FIRST_DECLARED if declared else LEVEL) * halved / couples
        if look > 1:
            spent = alpha if claims else 0.0
            law = second_level if exact else forecast
            alpha = law(first, now, spent=spent, total=own * halved / couples)
        # the nets take their part at a declared first look that claims nothing
        if declared and look == 1 or claims and look > 1:
            over.append("both looks")
        if added:
            own += ADDED
            over.append(f"all {couples + added} pairs of arms, those of the added arm included")
        elif couples > 1:
            over.append(f"{couples} pairs of arms")
    own *= halved
    if earlier:
        over.append("every study of this question on these test images")
    # further studies, each at half the level of the one before, take as much again
    total = max(AGAIN, sum(earlier) + 2 * own) if earlier else own
    return Level(alpha=alpha, total=total, own=own, over=tuple(over))


def of_pair(
    plan: Plan,
    one: str,
    other: str,
    *,
    first: int,
    look: int = 1,
    extension: Extension | None = None,
    now: int = 0,
    exact: bool = True,
) -> Level:
    """The level of the study's answer on two of its arms at a look. Terminal, ledger and report have it from here.

    ``first``: pairs of searches of the first look; ``extension``: what led to a second look, not counted at the first;
    ``now``: pairs of searches by a second look that nobody has asked for yet.
    """
    further = extension if extension is not None and look >= extension.look else None
    alone = set(extension.arms) if extension is not None and not extension.pairs else set()
    old = math.comb(len(set(plan.arms) - alone), 2)
    added = further is not None and not further.pairs
    return of(
        couples=old,
        looks=plan.looks,
        look=1 if added else look,
        first=first,
        now=now or first + (further.pairs if further else 0),
        earlier=earlier(plan, one, other),
        added=math.comb(len(plan.arms), 2) - old if added else 0,
        new=added and bool(alone & {one, other}),
        exact=exact,
    )


def of_study(plan: Plan, *, first: int, look: int = 1, extension: Extension | None = None) -> Level:
    """The strictest level of the pairs of arms that the look is about."""
    alone = set(extension.arms) if extension is not None and not extension.pairs else set()
    asked = [
        couple
        for couple in itertools.combinations(plan.arms, 2)
        if not alone or (look >= 2) == bool(alone & set(couple))
    ]
    found = [of_pair(plan, *couple, first=first, look=look, extension=extension) for couple in asked]
    return min(found, key=lambda level: level.alpha)


def earlier(plan: Plan, one: str, other: str) -> tuple[float, ...]:
    """What each earlier study that asked about these two arms on the same test files took."""
    return tuple(e.level for e in plan.earlier if {one, other} <= set(e.arms))


def of_nets(answer: Level, plan: Plan, one: str, other: str, *, look: int) -> Level:
    """The level for the nets in hand beside the answer on two arms.

    A second look over further pairs may have other nets in hand, whose difference need not correlate with the first's: what
    the first look took is then left out of the total (Bonferroni), whatever the correlation. Nets are judged at every first
    look, also where one search per arm says nothing about architectures.
    """
    if look == 1:
        return answer
    total, spent = (LEVEL, FIRST_DECLARED) if plan.looks > 1 else (TOTAL_UNDECLARED, LEVEL)
    taken, couples = earlier(plan, one, other), math.comb(len(plan.arms), 2)
    own = total * 0.5 ** len(taken)
    return Level(
        alpha=(total - spent) * 0.5 ** len(taken) / couples,
        total=max(AGAIN, sum(taken) + 2 * own) if taken else own,
        own=own,
        over=("both looks", *(part for part in answer.over if part != "both looks")),
    )
