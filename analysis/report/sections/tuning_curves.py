"""Expected best after so much tuning: the curves of slice and searches from a study's records, and their section.

A failed run has the accuracy of guessing, one in so many classes. Costs are resource-seconds.
"""

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.section import Section, Table, against_leader, rule, sentence
from analysis.results import Evidence, choices
from analysis.statistics.expected_best import (
    Crossover,
    crossover_searches,
    crossover_slices,
    search_curve,
    slice_curve,
)
from analysis.statistics.intervals import Reals, Refused
from analysis.summary import Findings
from study.protocol import allocation
from study.protocol.text import counted, duration, points

SLICE_FLOOR = 2
"""Settings without which there is no curve."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Per arm its curve, or nothing and a sentence in ``told``."""

    slices: dict[str, pd.DataFrame]
    """As from ``curves.slice_curve``."""
    searches: dict[str, pd.DataFrame]
    """As from ``curves.search_curve``."""
    told: tuple[str, ...]
    """Why a curve is not there."""


def drawn(evidence: Evidence, arm: str) -> tuple[Reals, Reals, Reals | None]:
    """Validation accuracy, cost and (once all are scored) test accuracy of the arm's random slice."""
    guess, draws = 1 / len(evidence.plan.data.classes), evidence.slices.get(arm, ())
    val = np.array([guess if d.val is None else d.val for d in draws], dtype=np.float64)
    cost = np.array([d.cost for d in draws], dtype=np.float64)
    if any(d.val is not None and d.test is None for d in draws) or not evidence.history.opened:
        return val, cost, None
    return val, cost, np.array([guess if d.test is None else d.test for d in draws], dtype=np.float64)


def steps(evidence: Evidence, arm: str) -> pd.DataFrame:
    """One row per full-length run of the arm's searches: pair, cost (the search's spend then), val_accuracy.

    The default's run on the search's fold comes first, at no cost: it is the search's first trial and paid already. Then in
    the order in which trials ended; what a trial still running has spent counts when it ends.
    """
    history, plan = evidence.history, evidence.plan
    default = {t.fold: history.val_accuracy(t.id) for t in history.full_length(arm, "baseline")}
    rows = [
        {"pair": pair, "cost": 0.0, "val_accuracy": value}
        for pair in sorted({t.pair for t in history.of(arm, "search")})
        if (value := default.get(allocation.search_fold(plan, pair))) is not None
    ]
    spent: dict[int, float] = {}
    for name, outcome in history.outcomes.items():
        trial = history.trials[name]
        if trial.arm != arm or trial.phase != "search":
            continue
        spent[trial.pair] = spent.get(trial.pair, 0.0) + outcome.cost
        val = history.val_accuracy(name)
        if history.finished(name) and val is not None:
            rows.append({"pair": trial.pair, "cost": spent[trial.pair], "val_accuracy": val})
    return pd.DataFrame(rows, columns=["pair", "cost", "val_accuracy"])


def per_search(evidence: Evidence, arm: str) -> float:
    """B/R: what one search of the arm could spend. Raises Refused before that was fixed."""
    tuning = evidence.history.tuning
    if tuning is None:
        raise Refused("what a search may spend has not been fixed yet")
    return (tuning.per_arm - evidence.history.spent(arm, "slice")) / evidence.plan.pairs


def pairs_of(evidence: Evidence, arm: str) -> set[int]:
    """The arm's searches, by pair: of every look once they are selected, of the plan before."""
    return {choice.pair for choice in choices(evidence.history, arm, evidence.look)} or set(
        range(evidence.plan.pairs)
    )


def curves(evidence: Evidence) -> Curves:
    """Every curve that the study's records carry."""
    slices, searches, told = {}, {}, []
    for arm in evidence.plan.arms:
        val, cost, test = drawn(evidence, arm)
        if len(val) < SLICE_FLOOR:
            runs = counted(len(val), "run") if len(val) else "no run"
            told.append(f"No curve of random settings for {arm}: {runs} in its random slice.")
        else:
            slices[arm] = slice_curve(val, cost, test=test)
        try:
            searches[arm] = search_curve(_searched(evidence, arm), per_search=per_search(evidence, arm))
        except Refused as refusal:
            told.append(f"No curve of the searches of {arm}: {refusal}.")
    return Curves(slices=slices, searches=searches, told=tuple(told))


def section(evidence: Evidence, found: Findings, made: Curves) -> Section:
    """The curves in words and numbers, and where they cross."""
    text, crossings = [*made.told, *rule(evidence, found)], []
    for first, second, confidence in against_leader(evidence, found):
        for source, name in (("slice", "Random settings"), ("searches", "The searches")):
            try:
                crossing = _crossing(evidence, source, first, second, confidence)
            except Refused as refusal:
                text.append(f"{name}, {first} against {second}: no crossing can be told. {sentence(refusal)}")
                continue
            told = crossing.told(first, second)
            text.append(f"{name}: {told}")
            crossings.append(
                {"first": first, "second": second, "source": source, "told": told} | asdict(crossing)
            )
    rows = [
        row
        for arm in evidence.plan.arms
        for row in (*_slice_rows(made.slices.get(arm), arm), *_search_rows(made.searches.get(arm), arm))
    ]
    columns = ("best so far, %", "tuning", "validation", "band", "test")
    return Section(
        title="What more tuning buys",
        text=tuple(dict.fromkeys(text)),
        tables=(Table(head=columns, rows=tuple(rows)),) if rows else (),
        note=NOTE if rows else "",
        facts={
            "slices": {arm: curve.to_dict("records") for arm, curve in made.slices.items()},
            "searches": {arm: curve.to_dict("records") for arm, curve in made.searches.items()},
            "per_search_seconds": _budgets(evidence),
            "crossovers": crossings,
            "told": text,
        },
    )


NOTE = (
    "Random settings: expected best of so many settings drawn at random, none stopped early, to the slice's own "
    "budget; the band is for the median, holds for all budgets at once and assumes nothing: where it is open, "
    "these runs set no upper end. Test is the expected test accuracy of the setting that validation chose. "
    "Searches: mean over the independent searches of the best full run so far, the default's included, to the budget of one search, with a "
    "t band for each point by itself, at 95 % by its formula; of four searches it covers about 90 %, since the best of a few runs is skewed. Validation accuracies of chosen runs are optimistic. A failed run counts as "
    "guessing. Beyond the last point nothing was seen, so nothing is drawn."
)


def _crossing(evidence: Evidence, source: str, first: str, second: str, confidence: float) -> Crossover:
    if source == "searches":
        budget = min(per_search(evidence, arm) for arm in (first, second))
        a_steps, b_steps = _searched(evidence, first), _searched(evidence, second)
        return crossover_searches(a_steps, b_steps, per_search=budget, confidence=confidence)
    (a, a_cost, _), (b, b_cost, _) = drawn(evidence, first), drawn(evidence, second)
    return crossover_slices(a, a_cost, b, b_cost, confidence=confidence)


def _searched(evidence: Evidence, arm: str) -> pd.DataFrame:
    """``steps``; Raises Refused when a search is not among them: the others alone would flatter the arm."""
    found, budget = steps(evidence, arm), per_search(evidence, arm)
    there = set(found.loc[found["cost"] <= budget, "pair"])
    if missing := pairs_of(evidence, arm) - there:
        raise Refused(f"search {min(missing) + 1} of {arm} finished no full run within its budget")
    return found


def _budgets(evidence: Evidence) -> dict[str, float]:
    try:
        return {arm: per_search(evidence, arm) for arm in evidence.plan.arms}
    except Refused:
        return {}


def _slice_rows(curve: pd.DataFrame | None, arm: str) -> list[tuple[str, ...]]:
    """One, half and all of the slice's settings."""
    if curve is None:
        return []
    rows: list[tuple[str, ...]] = []
    for n, _ in itertools.groupby((1, max(1, len(curve) // 2), len(curve))):
        at: dict[str, Any] = {str(k): v for k, v in curve.iloc[n - 1].items()}
        high = points(at["high"]) if at["bounded"] else "open"
        rows.append(
            (
                f"{arm}, {n} random",
                duration(at["cost"]),
                points(at["mean"]),
                f"{points(at['low'])} to {high}",
                points(at["test"]) if "test" in at else "–",
            )
        )
    return rows


def _search_rows(curve: pd.DataFrame | None, arm: str) -> list[tuple[str, ...]]:
    if curve is None:
        return []
    at: dict[str, Any] = {str(k): v for k, v in curve.iloc[-1].items()}
    band = "–" if math.isnan(at["low"]) else f"{points(at['low'])} to {points(at['high'])}"
    name = f"{arm}, {counted(int(at['searches']), 'search', 'searches')}"
    return [(name, duration(at["cost"]), points(at["mean"]), band, "–")]
