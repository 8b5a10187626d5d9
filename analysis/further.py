"""Whether more budget would decide an open question, how much, and what else would (METHOD.md 6)."""

import math

from analysis import levels
from analysis.luck import POWER, Level, Luck, half_width, images_needed, pairs_needed
from analysis.power import known
from analysis.results import Evidence
from study.protocol import allocation
from study.protocol.allocation import PAIRS
from study.protocol.budget import Budget
from study.protocol.looks import FIRST_DECLARED, LEVEL, MOST_PAIRS, TOTAL_UNDECLARED
from study.protocol.plan import Plan
from study.protocol.text import rough


def what_would_decide(evidence: Evidence, luck: Luck | None) -> str:
    """What would decide, for a true gap of the margin: the measured gap is no size to plan for."""
    plan = evidence.plan
    if luck is None:
        fewest = min(PAIRS)
        return (
            f"{fewest} pairs of searches or more, which say something about architectures, are made from "
            f"--budget {allocation.budget_for_pairs(plan, fewest)} --epochs {plan.epochs} on, or by --resume RUN with a larger --budget."
        )
    have = len(luck.differences)
    if evidence.look > 1 or evidence.history.extension is not None:
        return (
            "This question has had its second look, and a third would err more than it says. A new study on these test "
            "images asks again at half the error (it counts this one); fresh test images ask anew."
        )
    return within(plan, luck, have)


def within(plan: Plan, luck: Luck, have: int) -> str:
    """The pairs that a gap of the margin takes and their cost, or what would help instead."""
    level = later(plan, have)
    kinds = known(luck, have)
    needed = [pairs_needed(kind, plan.rope, level, at_least=have + 1) for kind in kinds]
    gap = f"a true gap of the margin, {plan.judged.gap(plan.rope)}, with {100 * POWER:.0f} % power"
    if needed[1] is None:
        alpha = level(2 * have)
        images = images_needed(luck, plan.rope, alpha)
        if images is None or images > luck.images:
            size = "a number that nobody has" if images is None else f"about {rough(images)}"
            return (
                f"More pairs of searches cannot show {gap}: the {luck.images} test images limit. Endless pairs on {size} of "
                "test images would; a wider margin, asked beforehand, too."
            )
        return f"More pairs of searches than anybody pays for would show {gap}."
    ends = [str(n) if n and n <= MOST_PAIRS else f"over {MOST_PAIRS}" for n in (needed[0], needed[2])]
    roughly = f"{' to '.join(dict.fromkeys(ends))}, since {have} pairs measure their luck roughly"
    twice = min(2 * have, MOST_PAIRS)
    reach = plan.judged.gap(half_width(luck, twice, level(twice)))
    if needed[1] > MOST_PAIRS:
        return (
            f"To show {gap} takes more than the {MOST_PAIRS} pairs of searches that two looks can have ({roughly}). "
            f"{_way(plan, twice)} makes them {twice}, with which the interval would reach about {reach} either way."
        )
    return (
        f"To show {gap} takes about {needed[1]} pairs of searches in all ({roughly}): {_way(plan, needed[1])} makes as many. With "
        f"{twice} the interval would reach about {reach} either way."
    )


def _way(plan: Plan, pairs: int) -> str:
    return f"--resume RUN --budget {budget_for(plan, pairs)}"


def later(plan: Plan, have: int) -> Level:
    """Error rates of a second look, by its number of pairs, after this one over ``have``."""
    couples = math.comb(len(plan.arms), 2)
    spent, total = (FIRST_DECLARED, LEVEL) if plan.looks > 1 else (LEVEL, TOTAL_UNDECLARED)
    return lambda pairs: levels.forecast(
        have, max(pairs, have + 1), spent=spent / couples, total=total / couples
    )


def budget_for(plan: Plan, pairs: int) -> Budget:
    """The total budget that brings a finished study of the plan to ``pairs``, in whole minutes."""
    fixed = allocation.overhead(plan) + plan.folds * max(allocation.full_run(plan, arm) for arm in plan.arms)
    each = max(0.0, plan.share - fixed) / plan.pairs
    seconds = plan.budget.seconds + len(plan.arms) * each * max(0, pairs - plan.pairs)
    return Budget.whole_minutes(seconds, plan.budget.resource)
