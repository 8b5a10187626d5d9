"""Looking again: what lets the same test images answer twice, and what does not (METHOD.md 6).

A study announced with two looks, an undecided study that gets more budget, an added arm, and a new study that asks the same
test files the same question: each has its level (``levels``), and none is free.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

from study.protocol import allocation, levels, selection
from study.protocol.accounting import search_share, searches, searching_budget, unsearched
from study.protocol.budget import Budget
from study.protocol.codec import parse
from study.protocol.consistency import load
from study.protocol.errors import InputError, StudyError
from study.protocol.history import History
from study.protocol.levels import Level
from study.protocol.plan import Plan
from study.protocol.question import Audit, Earlier
from study.protocol.records import Extension
from study.protocol.rundir import SERIES, RunDir, runs_in
from study.protocol.text import level

MOST_PAIRS = 20
"""Pairs of both looks together up to which the levels were checked (METHOD.md 6)."""
FINAL = ("better", "practical tie")
"""Answers that a second look does not judge again. An arm that is better by an open margin keeps its lead, too (METHOD.md 6)."""
NO_THIRD = "This question has had its second look, and a third would err more than it says."
"""Why there is no third look: both have used up the error that the study states."""


def earlier_studies(place: Path, source: str) -> tuple[Earlier, ...]:
    """The studies beside the one at ``place`` that opened the same test files, by name: in its folder, and in that of its series.

    Copies of one study count once. A study that cannot be read is skipped: the plan says which ones count.
    """
    found, place = dict[bytes, Earlier](), place.absolute()
    folder = place.parent.parent if (place.parent / SERIES).is_file() else place.parent
    for path in runs_in(folder):
        run = RunDir(path)
        try:
            if path == place or not run.plan.is_file():
                continue
            if parse(run.plan.read_text())["test_source"] != source:
                continue
            opened, line, _ = run.ledger.read_bytes().rpartition(b'"record":"TestOpened"')
            if not line:
                continue
            plan, history = load(run)
        except (StudyError, OSError, ValueError, KeyError, TypeError):
            continue
        took = max(
            levels.of_pair(
                plan,
                *couple,
                first=searches(plan, history),
                look=len(history.manifests),
                extension=history.extension,
            ).own
            for couple in itertools.combinations(plan.arms, 2)
        )
        found.setdefault(opened, Earlier(run=str(path.relative_to(folder)), arms=plan.arms, level=took))
    # a copy that looked again begins with what the others have
    return tuple(e for seen, e in found.items() if not any(o != seen and o.startswith(seen) for o in found))


def describe_earlier(plan: Plan) -> str:
    """What earlier studies of the same test files mean for this one; empty if there are none."""
    if not plan.earlier:
        return ""
    runs = ", ".join(f"{e.run} ({', '.join(e.arms)})" for e in plan.earlier)
    said = f"the test images were opened before, by {runs}. "
    again = [c for c in itertools.combinations(plan.arms, 2) if levels.earlier(plan, *c)]
    if not again:
        return f"{said}None of them asked for these arms, but what they showed may still shape your question"
    widest = max(again, key=lambda couple: len(levels.earlier(plan, *couple)))
    now = levels.of_pair(plan, *widest, first=plan.pairs)
    return (
        f"{said}For {', '.join(map(' and '.join, again))} that makes this the {_ordinal(len(levels.earlier(plan, *widest)) + 1)} "
        f"study of one question: its interval is at {level(now.confidence)}, so that all together err in "
        f"{100 * now.total:.4g} % at most. A new question needs fresh test images"
    )


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


# -- more of a finished study


def finished(history: History) -> bool:
    """Whether all nets of every requested look are scored."""
    looks = 2 if history.extension else 1
    return len(history.opened) == looks and set(history.opened[-1].trials) <= history.scores.keys()


def second_look(plan: Plan, history: History, budget: Budget) -> Extension:
    """What more budget buys a finished study: further pairs under the frozen protocol.

    ``budget`` is the new total. Raises InputError, with the reason and the alternative, if a second look is impossible.
    """
    _can_be_extended(history, f"--budget {budget}")
    if budget.resource != plan.budget.resource:
        raise InputError(
            f"--budget {budget}: this study counts {plan.budget.resource} time, and stays with it"
        )
    if budget.seconds <= plan.budget.seconds:
        raise InputError(f"--budget {budget} is the new total: give more than the study's {plan.budget}")
    if idle := [arm for arm in plan.arms if unsearched(plan, history, arm)]:
        raise InputError(
            f"--budget {budget}: further searches would get what the others got, and those of {' and '.join(idle)} got "
            f"nothing. A new study could pay for them: --budget {searching_budget(plan, history)}"
        )
    have = searches(plan, history)
    least, most = 2 if have == 1 else 1, MOST_PAIRS - have
    further = further_pairs(plan, history, budget)
    if further < least:
        few = "fewer than the two further pairs needed" if least == 2 else "no further pair of searches"
        raise InputError(
            f"--budget {budget} buys {few} of this study's size: --budget {budget_for(plan, history, least)} does"
        )
    if further > most:
        raise InputError(
            f"--budget {budget} buys {further} further pairs of searches, and both looks together have {MOST_PAIRS} at most: "
            f"--budget {budget_for(plan, history, most)} pays for the {most} that are left"
        )
    draft = Extension(
        look=2, budget_seconds=budget.seconds, arms=plan.arms, pairs=further, level=0.0, declared=plan.looks == 2,
        reason=f"--budget {budget} after {plan.budget}", plan={},
    )  # fmt: skip
    return dataclasses.replace(draft, level=level_of(plan, history, draft).alpha)


def level_of(plan: Plan, history: History, extension: Extension) -> Level:
    """The level of the look that an extension leads to: the strictest of its pairs of arms."""
    have = searches(plan, history)
    return levels.of_study(plan, first=have, look=extension.look, extension=extension)


def still_open(extension: Extension, answers: Sequence[tuple[str, str]]) -> Extension:
    """The second look, with the answers it starts from (word and sentence) in its reason.

    Raises InputError if no answer is open, or there is none.
    """
    if not answers:
        raise InputError("the study has no answer that a second look could decide")
    if all(word in FINAL for word, _ in answers):
        raise InputError(f"the study has its answer, and a second look cannot take it back: {answers[0][1]}")
    said = "; ".join(sentence for _, sentence in answers)
    return dataclasses.replace(extension, reason=f"{extension.reason}: {said}")


def further_pairs(plan: Plan, history: History, budget: Budget) -> int:
    """The pairs of searches that a total of ``budget`` adds to a finished study."""
    each = budget.seconds / len(plan.arms)
    return min(
        math.floor((each - _spent(plan, history, arm)) / pair_cost(plan, history, arm)) for arm in plan.arms
    )


def budget_for(plan: Plan, history: History, further: int) -> Budget:
    """The total budget that adds so many pairs to a finished study, in whole minutes."""
    needed = max(
        _spent(plan, history, arm) + (further + 0.02) * pair_cost(plan, history, arm) for arm in plan.arms
    )
    return Budget.whole_minutes(needed * len(plan.arms), plan.budget.resource)


def _spent(plan: Plan, history: History, arm: str) -> float:
    return history.spent(arm) + 2 * allocation.startup(plan)


def pair_cost(plan: Plan, history: History, arm: str) -> float:
    """Resource-seconds of one more search of the arm, its selection, and as many confirmation runs as the others had."""
    assert history.tuning is not None
    run, have = history.tuning.full_run[arm], searches(plan, history)
    confirmed = len(history.of(arm, "confirm")) / have
    selected = allocation.MARGIN * len(allocation.select_folds(plan, 0)) * run
    floor = selection.runs_floor(plan, history, hand=False)
    return (
        search_share(plan, history, arm)
        + selected
        + max(confirmed, floor) * (run + allocation.test_cost(plan, arm))
    )


def describe_second_look(plan: Plan, history: History, extension: Extension) -> str:
    """What to expect from the second look, before its budget is spent."""
    before = searches(plan, history)
    after, now = before + extension.pairs, level_of(plan, history, extension)
    first = levels.of_study(plan, first=before)
    wide = _half_width(after, now.alpha)
    narrower = (
        f"an interval of about {wide / _half_width(before, first.alpha):.0%} of the present width if the searches go on "
        "to differ as they do and the test images leave little open"
        if before > 1
        else f"the first interval on architectures, {wide:.1f} sd of the differences between pairs either way"
    )
    held = f", {now.label}" if now.over else ""
    return (
        f"a second look: {extension.pairs} further pairs of searches beside the {before} that there are, and {narrower}, at "
        f"{level(now.confidence)}{held}"
    )


def _half_width(pairs: int, alpha: float) -> float:
    """Half-width of the interval over pairs, in sds of their differences."""
    return float(stats.t.isf(alpha / 2, pairs - 1)) / math.sqrt(pairs)


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


def instead(plan: Plan, name: str, audit: Audit, measured: float) -> str:
    """What to do for an arm that cannot be added: a new study of all arms, with a budget that gives each as many searches."""
    arms = (*plan.arms, name)
    whole = dataclasses.replace(
        plan,
        arms=arms,
        budget=Budget(seconds=plan.share * len(arms), resource=plan.budget.resource),
        audits={**plan.audits, name: audit},
        probe_cost={**plan.probe_cost, name: measured},
    )
    budget = allocation.budget_for_searches(whole, plan.pairs)
    return f"Instead: a new study of all of them, --arms {','.join(arms)} --budget {budget} --epochs {plan.epochs}"


def _can_be_extended(history: History, asked: str) -> None:
    extension = history.extension
    if extension is not None and extension.pairs:
        raise InputError(f"{asked}: {NO_THIRD} Start a new study, on fresh test images")
    if extension is not None:
        raise InputError(
            f"{asked}: the study was extended already, by {', '.join(extension.arms)}, and its error levels are spent. "
            "Compare all the arms in a new study, on fresh test images"
        )
    if not finished(history):
        raise InputError(f"{asked}: the study is not finished: finish it first (--resume RUN alone)")
