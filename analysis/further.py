"""Whether more budget would decide an open question, how much, and what else would (METHOD.md 6)."""

from analysis.luck import POWER, Level, Luck, half_width, pairs_needed
from analysis.power import known, limit
from analysis.results import Evidence
from study.protocol import allocation, levels
from study.protocol.accounting import repriced, searches, searching_budget, unsearched
from study.protocol.allocation import PAIRS
from study.protocol.looks import MOST_PAIRS, NO_THIRD, budget_for

AGAIN = "A new study on these test images asks again at half the error (it counts this one); fresh test images ask anew."


def what_would_decide(
    evidence: Evidence, luck: Luck | None, one: str, other: str, *, ahead: bool = False
) -> str:
    """What would decide between two arms, for a true gap of the margin: the measured gap is no size to plan for.

    ``ahead``: one is, and whether by more than the margin is open.
    """
    plan, history = evidence.plan, evidence.history
    if all(unsearched(plan, history, arm) for arm in (one, other)):
        budget = searching_budget(plan, history)
        return f"A new study could pay for the searches: --budget {budget} --epochs {plan.epochs}."
    extension = history.extension
    if luck is None:
        fewest = min(PAIRS)
        new = allocation.budget_for_pairs(repriced(plan, history), fewest)
        lasts = not (extension or any(unsearched(plan, history, arm) for arm in plan.arms))
        more = f"{_way(evidence, fewest)} makes as many, each as large as this one, or " if lasts else ""
        return (
            f"Comparing architectures takes at least {fewest} pairs of searches: {more}a new study with --budget {new} --epochs "
            f"{plan.epochs}."
        )
    if extension is not None and not extension.pairs:
        return f"This study took in an arm, and takes no further look. {AGAIN}"
    if extension is not None:
        return f"{NO_THIRD} {AGAIN}"
    return within(evidence, luck, one, other, ahead=ahead)


def within(evidence: Evidence, luck: Luck, one: str, other: str, *, ahead: bool = False) -> str:
    """The pairs that a gap of the margin takes and their cost, or what would help instead."""
    plan, have = evidence.plan, searches(evidence.plan, evidence.history)
    level = later(evidence, one, other)
    kinds = known(luck, have)
    needed = [pairs_needed(kind, plan.rope, level, at_least=have + 1) for kind in kinds]
    gap = f"a true gap of the margin, {plan.judged.gap(plan.rope)}, with {100 * POWER:.0f} % power"
    if ahead:  # as far from the margin as a gap of the margin is from 0
        gap = f"that a true gap of {plan.judged.gap(2 * plan.rope)} exceeds the margin, with {100 * POWER:.0f} % power"
    if needed[1] is None:
        return f"What shows {gap}: {limit(luck, plan.rope, level(2 * have), POWER)}; a wider margin, asked beforehand, takes fewer."
    ends = [str(n) if n and n <= MOST_PAIRS else f"over {MOST_PAIRS}" for n in (needed[0], needed[2])]
    roughly = f"{' to '.join(dict.fromkeys(ends))}, since {have} pairs measure roughly how much pairs differ"
    twice = min(2 * have, MOST_PAIRS)
    reach = plan.judged.gap(half_width(luck, twice, level(twice)))
    if needed[1] > MOST_PAIRS:
        return (
            f"To show {gap} takes more than the {MOST_PAIRS} pairs of searches that two looks can have ({roughly}). "
            f"{_way(evidence, twice)} makes them {twice}, with which the interval would reach about {reach} either way."
        )
    return (
        f"To show {gap} takes about {needed[1]} pairs of searches in all ({roughly}): {_way(evidence, needed[1])} makes as many. "
        f"With {twice} the interval would reach about {reach} either way."
    )


def _way(evidence: Evidence, pairs: int) -> str:
    further = pairs - searches(evidence.plan, evidence.history)
    return f"--resume RUN --budget {budget_for(evidence.plan, evidence.history, further)}"


def later(evidence: Evidence, one: str, other: str) -> Level:
    """Error rates of a second look at two arms, by its number of pairs."""
    plan, have = evidence.plan, searches(evidence.plan, evidence.history)
    return lambda pairs: (
        levels.of_pair(plan, one, other, first=have, look=2, now=max(pairs, have + 1), exact=False).alpha
    )
