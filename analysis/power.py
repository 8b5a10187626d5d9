"""What a plan can promise: the smallest gap that its pairs of searches show, and the budget that a given gap takes.

Forecasts depend on the luck of a search. Before a study they cover an assumed range, afterwards the measured value with
its interval. Gaps and sds are in the metric's unit, shares as fractions. Imports scipy alone.
"""

import dataclasses
import math
from collections.abc import Sequence

from analysis.luck import MOST_PAIRS as FORECAST
from analysis.luck import (
    POWER,
    Level,
    Luck,
    half_width,
    images_needed,
    lasting_interval,
    pairs_needed,
    sd_interval,
)
from study.protocol import allocation, levels
from study.protocol.allocation import PAIRS
from study.protocol.looks import MOST_PAIRS
from study.protocol.plan import Plan
from study.protocol.text import amount, rough

LUCK = (0.003, 0.014)
"""sd of the difference of two searches' finds, before one is measured: .31 and .65 pt on the CIFAR tables, .6 to 1.4 pt
on the MLP tables of METHOD.md 8."""
LASTING = (0.01, 0.3)
"""Part of the images on which two nets disagree that stays however many are averaged: .002 and .005 were measured for
sibling arms, .3 is what published nets of different families show (METHOD.md 8)."""
ACCURACY = (0.93, 0.6)
"""The post's nets, and small ones trained briefly."""
MANY_CLASSES = 10
GOAL = {"gap": POWER, "tie": (1 + POWER) / 2}
"""A tie must keep its interval within the margin on both sides, hence the larger quantile."""


def disagreement(accuracy: float, shares: Sequence[float] = ()) -> float:
    """Share of images on which just one of two nets of this accuracy is right.

    p (1 - p), half of what independent errors would give: 6.5 % at 93 %, 4.1 % at 95.75 %, against 6.5 % and 3.6 % among
    published CIFAR-10 nets (METHOD.md 8). With few classes wrong nets are wrong together: on two equal classes p (1 - p)
    is a third too large (METHOD.md 8), so it is scaled by the root of 1 - sum of squared class ``shares`` against that of
    ten equal ones, which gives that third.
    """
    spread = 1 - sum(s * s for s in shares) if shares else 1.0
    return accuracy * (1 - accuracy) * min(1.0, math.sqrt(spread / (1 - 1 / MANY_CLASSES)))


def assumed(plan: Plan) -> tuple[Luck, Luck]:
    """The smallest and largest luck assumed before any search has run, in the metric's unit (METHOD.md 8).

    Where each class counts alike, rare ones make test images worth fewer: n sum(1 / n_c) / C^2 times as few.
    """
    metric, images, classes = plan.judged, plan.data.test, len(plan.data.classes)
    known = [float(n) for n in plan.data.test_counts if n]
    counts = known or [images / classes] * classes
    shares, runs = [n / sum(counts) for n in counts], allocation.confirm_each(plan)
    uneven = images * sum(1 / n for n in counts) / len(counts) ** 2 if metric.by_class else 1.0

    def of(sd: float, lasting: float, accuracy: float) -> Luck:
        apart = metric.of_images**2 * uneven * disagreement(accuracy, shares)
        sd = math.sqrt((metric.of_luck * sd) ** 2 + (1 - lasting) * apart / runs / images)
        return Luck(differences=(), sd=sd, lasting=lasting * apart, images=images)

    low, high = (of(*kind) for kind in zip(LUCK, LASTING, ACCURACY, strict=True))
    return low, high


def known(luck: Luck, pairs: int) -> tuple[Luck, Luck, Luck]:
    """The measured luck between both ends of its 80 % interval."""
    (low, high), (least, most) = sd_interval(luck.sd, pairs), lasting_interval(luck)

    def of(sd: float, lasting: float) -> Luck:
        return Luck(differences=luck.differences, sd=sd, lasting=lasting, images=luck.images)

    return of(low, least), luck, of(high, most)


def rate(plan: Plan) -> Level:
    """Error rate of a new study of this plan, whatever its pairs."""
    alpha = levels.of_study(plan, first=plan.pairs).alpha
    return lambda _pairs: alpha


def promise(
    plan: Plan, *, measured: Luck | None = None, pairs: int | None = None, alpha: float | None = None
) -> str:
    """What the plan's pairs of searches can show; once they have run, from the luck ``measured`` over ``pairs``, at the error
    ``alpha`` of the interval over them."""
    have = pairs or plan.pairs
    if have < min(PAIRS):
        fewest = min(PAIRS)
        return (
            f"One search per arm: the nets in hand are compared, and nothing is said about architectures. {fewest} pairs of "
            f"searches, which say something, are made from --budget {allocation.budget_for_pairs(plan, fewest)} --epochs {plan.epochs} on."
        )
    alpha = rate(plan)(have) if alpha is None else alpha
    kinds = assumed(plan) if measured is None else known(measured, have)
    metric = plan.judged
    gaps = [metric.number(half_width(luck, have, alpha, power=POWER)) for luck in kinds]
    lucks, unit = [metric.number(luck.sd) for luck in kinds], f" {metric.unit}".rstrip()
    ties = [half_width(luck, have, alpha, power=GOAL["tie"]) for luck in kinds]
    of = "" if metric.name == "accuracy" else f" of {metric.kind}"
    shown = f"With {have} pairs of searches on {plan.data.test} test images, the smallest true gap that shows in {100 * POWER:.0f} % of studies is about "
    if measured is None:
        shown += (
            f"{_range(gaps)}{unit}{of}, for a luck of one pair (sd) of {_range(lucks)}{unit}, "
            "assumed before any run."
        )
    else:
        shown += (
            f"{gaps[1]}{unit}{of} ({_range(gaps[::2])}), at the luck of one pair (sd) measured here, {lucks[1]}{unit} "
            f"({_range(lucks[::2])}, 80 % intervals)."
        )
    margin = plan.margin
    if plan.rope >= max(ties):
        return f"{shown} If the arms are equal, a practical tie within {margin} can be proved."
    often = "will often" if plan.rope < min(ties) else "may"
    return (
        f"{shown} If the arms are equal, a practical tie within {margin} {often} stay unproved: that takes a margin of "
        f"{metric.gap(ties[0 if measured is None else 1])}{' or more' if measured is None else ''}, more pairs, or more test images."
    )


def price(plan: Plan, *, measured: Luck | None = None, pairs: int | None = None) -> tuple[str, str]:
    """What a study that decides at the plan's margin and run length would take, each in 80 % of studies: to name an arm
    that is ahead by the margin, and to prove equal arms equal. A gap between these two takes more. With ``measured`` luck the
    new study's test images are fresh."""
    have = pairs or plan.pairs
    kinds = assumed(plan) if measured is None else known(measured, have)
    level, margin = rate(plan if measured is None else dataclasses.replace(plan, earlier=())), plan.margin

    def line(goal: str, power: float) -> str:
        takes = [takes_pairs(plan, luck, plan.rope, level, power) for luck in kinds]
        if len(set(takes)) == 1:
            said = takes[0]
        else:
            said = "; ".join(
                f"{text} (luck of {plan.judged.gap(luck.sd)})"
                for text, luck in dict(zip(takes, kinds, strict=True)).items()
            )
        return f"{goal}, in {100 * POWER:.0f} % of studies: {said}."

    return (
        line(f"To name an arm that is {margin} ahead", GOAL["gap"]),
        line(f"To prove equal arms equal within {margin}", GOAL["tie"]),
    )


def takes_pairs(plan: Plan, luck: Luck, gap: float, level: Level, power: float) -> str:
    """The pairs and the budget of a new study, or that no number of pairs would do and how many test images would."""
    needed = pairs_needed(luck, gap, level, power=power)
    if needed is None:
        return limit(luck, gap, level(max(PAIRS)), power)
    fits = [pairs for pairs in PAIRS if pairs >= needed]
    if fits and plan.pairs >= min(fits):
        return f"{min(fits)} pairs of searches, which this budget pays for"
    if fits:
        return f"{min(fits)} pairs of searches, --budget {allocation.budget_for_pairs(plan, min(fits))} --epochs {plan.epochs}"
    most = max(PAIRS)
    first = allocation.budget_for_pairs(plan, most)
    twice = levels.of_study(dataclasses.replace(plan, looks=2), first=most).alpha
    in_two = pairs_needed(luck, gap, lambda _: twice, power=power, at_least=most + 1)
    if in_two is None or in_two > MOST_PAIRS:
        return f"{needed} pairs of searches, more than the {MOST_PAIRS} that two looks can have"
    return (
        f"{in_two} pairs of searches, about {amount(first.seconds * in_two / most, plan.budget.resource)}: {most} by --budget {first} "
        f"--epochs {plan.epochs} --looks 2, the others by a second look"
    )


def limit(luck: Luck, gap: float, alpha: float, power: float) -> str:
    """What a gap takes that no number of pairs within reach shows."""
    images = images_needed(luck, gap, alpha, power=power)
    if images is not None and images <= luck.images:
        return f"over {FORECAST} pairs of searches"
    more = "on no number of them" if images is None else f"endless pairs on about {rough(images)} would"
    return f"no number of pairs on these {luck.images} test images: {more}"


def _range(values: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(values))
