"""Looking again: the error level of an interval when the same test images answer twice (METHOD.md 6).

A study announced with two looks, an undecided study that gets more budget, an added arm, and a new study that asks the same
test files the same question: each has its level, and none is free. Needs only numpy and scipy.
"""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from study.protocol import allocation, selection
from study.protocol.budget import Budget
from study.protocol.consistency import load
from study.protocol.errors import InputError, StudyError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.question import Earlier
from study.protocol.records import Extension
from study.protocol.rundir import PLAN, RunDir

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
MOST_PAIRS = 20
"""Pairs of both looks together up to which the levels were checked (METHOD.md 6)."""
FINAL = ("better", "practical tie")
"""Answers that no second look may take back."""


def either(a1: float, a2: float, first: float, second: float) -> float:
    """P(|Z1| > z1 or |Z2| > z2): the chance that either look errs, with correlation sqrt(k1 / k2).

    Computed by quadrature, since a report must be the same each time: scipy's bivariate normal draws random numbers.
    """
    z1, z2 = (float(stats.norm.isf(a / 2)) for a in (a1, a2))
    correlation = math.sqrt(first / second)
    if correlation > 1 - 1e-9:
        return max(a1, a2)
    x, weight = np.polynomial.legendre.leggauss(200)
    x, rest = z1 * x, math.sqrt(1 - correlation**2)
    inside = stats.norm.cdf((z2 - correlation * x) / rest) - stats.norm.cdf((-z2 - correlation * x) / rest)
    return 1 - float(z1 * (weight * stats.norm.pdf(x) * inside).sum())


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


def asked_before(plan: Plan, first: str, second: str) -> int:
    """How many earlier studies asked about this pair of arms on the same test files."""
    return sum({first, second} <= set(earlier.arms) for earlier in plan.earlier)


def first_level(plan: Plan, first: str = "", second: str = "") -> float:
    """Error of the first look's interval on a pair of arms: halved by every earlier study that asked about it."""
    level = FIRST_DECLARED if plan.looks == 2 else LEVEL
    return level / 2.0 ** asked_before(plan, first, second)


def last_level(plan: Plan, extension: Extension, first: str = "", second: str = "") -> float:
    """Error of the second look's interval on a pair of arms."""
    asked = 2.0 ** asked_before(plan, first, second)
    spent = first_level(plan, first, second) if plan.pairs > 1 else 0.0
    total = (LEVEL if extension.declared or not spent else TOTAL_UNDECLARED) / asked
    return second_level(plan.pairs, plan.pairs + extension.pairs, spent=spent, total=total)


def total_level(plan: Plan, history: History) -> float:
    """Error, over all looks, that the study's sentence on a pair of arms allows itself."""
    extension = history.extension
    asked = max((asked_before(plan, a, b) for a in plan.arms for b in plan.arms if a < b), default=0)
    if extension is None or extension.declared or plan.pairs == 1:
        return LEVEL / 2.0**asked
    return (TOTAL_UNDECLARED if extension.pairs else LEVEL + ADDED) / 2.0**asked


def earlier_studies(folder: Path, own: str, source: str) -> tuple[Earlier, ...]:
    """The studies in ``folder``, besides the one called ``own``, that opened the same test files, by name.

    A study that cannot be read is skipped: the plan says which ones count.
    """
    found = []
    for path in sorted(folder.glob(f"*/{PLAN}")):
        run = RunDir(path.parent)
        try:
            if run.name == own or json.loads(path.read_text())["test_source"] != source:
                continue
            if b'"record":"TestOpened"' not in run.ledger.read_bytes():
                continue
            plan, history = load(run)
        except (StudyError, OSError, ValueError, KeyError, TypeError):
            continue
        found.append(Earlier(run=run.name, arms=plan.arms, level=total_level(plan, history)))
    return tuple(found)


def describe_earlier(plan: Plan) -> str:
    """What earlier studies of the same test files mean for this one; empty if there are none."""
    if not plan.earlier:
        return ""
    runs = ", ".join(f"{e.run} ({', '.join(e.arms)})" for e in plan.earlier)
    again = {
        f"{a} and {b}": asked_before(plan, a, b)
        for i, a in enumerate(plan.arms)
        for b in plan.arms[i + 1 :]
        if asked_before(plan, a, b)
    }
    said = f"the test images were opened before, by {runs}. "
    if not again:
        return f"{said}None of them asked for these arms, but what they showed may still shape your question"
    widest = max(again.values())
    return (
        f"{said}For {', '.join(again)} that makes this the {_ordinal(widest + 1)} study of one question: its interval is at "
        f"{100 * (1 - first_level(plan, *max(again, key=lambda p: again[p]).split(' and '))):.4g} %, so that all together err "
        "in 10 % at most. A new question needs fresh test images"
    )


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


# -- more of a finished study


def finished(history: History) -> bool:
    """Whether all nets of every requested look are scored."""
    looks = 2 if history.extension else 1
    return len(history.opened) == looks and set(history.opened[-1].trials) <= history.scores.keys()


def answers(run: RunDir) -> list[tuple[str, str]]:
    """Word and sentence of the study's answer for each pair of arms. Raises InputError if there is none yet."""
    try:
        body = json.loads(run.verdict.read_text())
        return [(str(answer["word"]), str(answer["sentence"])) for answer in body["answer"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{run} has no answer yet: python -m analysis {run} writes it") from error


def second_look(plan: Plan, history: History, run: RunDir, budget: Budget) -> Extension:
    """What more budget buys a finished, undecided study: further pairs under the frozen protocol.

    ``budget`` is the new total. Raises InputError, with the reason and the alternative, if a second look is impossible.
    """
    _can_be_extended(history, f"--budget {budget}")
    if budget.resource != plan.budget.resource:
        raise InputError(
            f"--budget {budget}: this study counts {plan.budget.resource} time, and stays with it"
        )
    if budget.seconds <= plan.budget.seconds:
        raise InputError(f"--budget {budget} is the new total: give more than the study's {plan.budget}")
    known = answers(run)
    if known and all(word in FINAL for word, _ in known):
        raise InputError(f"the study has its answer, and a second look cannot take it back: {known[0][1]}")
    spare, costs = {}, {}
    for arm in plan.arms:
        costs[arm] = pair_cost(plan, history, arm)
        spare[arm] = budget.seconds / len(plan.arms) - history.spent(arm) - 2 * allocation.startup(plan)
    further = min(math.floor(spare[arm] / costs[arm]) for arm in plan.arms)
    least = 2 if plan.pairs == 1 else 1
    if further < least:
        dearest = max(least * costs[arm] - spare[arm] for arm in plan.arms)
        enough = Budget.whole_minutes(budget.seconds + 1.02 * dearest * len(plan.arms), budget.resource)
        raise InputError(
            f"--budget {budget} buys no further pair of searches{' or only one' if least == 2 else ''} of this study's size: "
            f"--budget {enough} does"
        )
    further = min(further, MOST_PAIRS - plan.pairs)
    declared = plan.looks == 2
    draft = Extension(
        look=2, budget_seconds=budget.seconds, arms=plan.arms, pairs=further, level=LEVEL, declared=declared,
        reason=f"--budget {budget} after {plan.budget}: {'; '.join(sentence for _, sentence in known)}", plan={},
    )  # fmt: skip
    return Extension(**{**vars(draft), "level": last_level(plan, draft)})


def pair_cost(plan: Plan, history: History, arm: str) -> float:
    """Resource-seconds of one more search of the arm, its selection, and as many confirmation runs as the others had."""
    assert history.tuning is not None
    run = history.tuning.full_run[arm]
    share = max(0.0, history.tuning.per_arm - history.spent(arm, "slice")) / plan.pairs
    confirmed = len(history.of(arm, "confirm")) / plan.pairs
    selected = allocation.MARGIN * len(allocation.select_folds(plan, 0)) * run
    return (
        share
        + selected
        + max(confirmed, selection.runs_floor(plan, hand=False)) * (run + allocation.test_cost(plan, arm))
    )


def describe_second_look(plan: Plan, extension: Extension) -> str:
    """What to expect from the second look, before its budget is spent."""
    before, after = plan.pairs, plan.pairs + extension.pairs
    wide = _half_width(after, extension.level)
    narrower = (
        f"an interval of about {wide / _half_width(before, first_level(plan)):.0%} of the present width if the searches go on "
        "to differ as they do"
        if before > 1
        else f"the first interval on architectures, {wide:.1f} sd of the differences between pairs either way"
    )
    total = LEVEL if extension.declared or before == 1 else TOTAL_UNDECLARED
    return (
        f"a second look: {extension.pairs} further pairs of searches beside the {before} that there are, and {narrower}, at "
        f"{100 * (1 - extension.level):.4g} %, both looks together at {100 * (1 - total):.4g} %"
    )


def _half_width(pairs: int, level: float) -> float:
    """Half-width of the interval over pairs, in sds of their differences."""
    return float(stats.t.isf(level / 2, pairs - 1)) / math.sqrt(pairs)


def added_arm(plan: Plan, history: History, arms: Sequence[str]) -> str:
    """The arm in ``arms`` that the study does not have yet. Raises InputError, with the reason, if it cannot be added."""
    asked = f"--arms {','.join(arms)}"
    _can_be_extended(history, asked)
    new = [arm for arm in arms if arm not in plan.arms]
    if len(new) != 1 or set(arms) - set(new) != set(plan.arms):
        raise InputError(
            f"{asked}: the study has {', '.join(plan.arms)}, and takes exactly one more: --arms "
            f"{','.join(plan.arms)},{new[0] if new else 'NEW'}"
        )
    return new[0]


def _can_be_extended(history: History, asked: str) -> None:
    extension = history.extension
    if extension is not None and extension.pairs:
        raise InputError(
            f"{asked}: the test images were looked at twice, and a third look would widen the interval until it shows "
            "nothing. Start a new study on fresh test images"
        )
    if extension is not None:
        raise InputError(
            f"{asked}: the study was extended already, by {', '.join(extension.arms)}, and its error levels are spent. "
            "Compare all the arms in a new study, on fresh test images"
        )
    if not finished(history):
        raise InputError(f"{asked}: the study is not finished: finish it first (--resume RUN alone)")
