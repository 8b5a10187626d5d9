"""What more tuning buys: the expected best accuracy by budget, from random settings and from the searches.

A failed run has the accuracy of guessing, one over the number of classes. Costs are resource-seconds.
"""

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.report import figures
from analysis.report.section import Context, Drawing, Part, Section, Table, against_leader, rule, sentence
from analysis.results import Evidence, choices
from analysis.statistics import expected_best
from analysis.statistics.intervals import Reals, Refused
from study.protocol import allocation
from study.protocol.text import counted, duration, points

SLICE_FLOOR = 2
"""Fewest settings that make a curve."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Each arm's curves; an arm without one has a sentence in ``missing``."""

    slices: dict[str, pd.DataFrame]
    """As from ``expected_best.slice_curve``."""
    searches: dict[str, pd.DataFrame]
    """As from ``expected_best.search_curve``."""
    missing: tuple[str, ...]
    """Why a curve is missing."""


def drawn(evidence: Evidence, arm: str) -> tuple[Reals, Reals, Reals | None]:
    """Validation accuracy, cost and (once all are scored) test accuracy of the arm's random settings."""
    guess, draws = 1 / len(evidence.plan.data.classes), evidence.slices.get(arm, ())
    val = np.array([guess if d.val is None else d.val for d in draws], dtype=np.float64)
    cost = np.array([d.cost for d in draws], dtype=np.float64)
    if any(d.val is not None and d.test is None for d in draws) or not evidence.history.opened:
        return val, cost, None
    return val, cost, np.array([guess if d.test is None else d.test for d in draws], dtype=np.float64)


def steps(evidence: Evidence, arm: str) -> pd.DataFrame:
    """One row per full-length run of the arm's searches: pair, cost (the search's spend then), val_accuracy.

    The default's run on the search's fold comes first, at no cost: it is the search's first trial and already paid. The
    others follow in the order in which they ended; a running trial's spend counts when it ends.
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
    """B/R: the resource-seconds that one search of the arm could spend. Raises Refused before they are fixed."""
    tuning = evidence.history.tuning
    if tuning is None:
        raise Refused("what a search may spend has not been fixed yet")
    return (tuning.per_arm - evidence.history.spent(arm, "slice")) / evidence.plan.pairs


def curves(evidence: Evidence) -> Curves:
    """Every curve that the records support."""
    slices, searches, missing = {}, {}, []
    for arm in evidence.plan.arms:
        val, cost, test = drawn(evidence, arm)
        if len(val) < SLICE_FLOOR:
            runs = counted(len(val), "run") if len(val) else "no run"
            missing.append(f"No curve of random settings for {arm}: {runs} in its random slice.")
        else:
            slices[arm] = expected_best.slice_curve(val, cost, test=test)
        try:
            searches[arm] = expected_best.search_curve(
                _searched(evidence, arm), per_search=per_search(evidence, arm)
            )
        except Refused as refusal:
            missing.append(f"No curve of the searches of {arm}: {refusal}.")
    return Curves(slices=slices, searches=searches, missing=tuple(missing))


def section(context: Context) -> Section:
    """The curves in words and numbers, and where they cross."""
    evidence, found = context.evidence, context.found
    made = curves(evidence)
    text, crossings = [*made.missing, *rule(evidence, found)], []
    for first, second, confidence in against_leader(evidence, found):
        for source, name in (("slice", "Random settings"), ("searches", "The searches")):
            try:
                crossing = _crossing(evidence, source, first, second, confidence)
            except Refused as refusal:
                text.append(f"{name}, {first} against {second}: no crossing can be told. {sentence(refusal)}")
                continue
            said = crossing.sentence(first, second)
            text.append(f"{name}: {said}")
            crossings.append(
                {"first": first, "second": second, "source": source, "told": said} | asdict(crossing)
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
        drawing=Drawing("tuning", draw(made.slices, made.searches, context.palette))
        if made.slices or made.searches
        else None,
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
    "Random settings: the expected best of this many settings drawn at random and never stopped early. The band is for the "
    "median, holds at all budgets at once and assumes no distribution; where it is open, these runs set no upper end. Test: "
    "the expected test accuracy of the setting that validation chose. Searches: the mean over independent searches of the "
    "best full run so far, the default's included, up to one search's budget. Their t band holds at each point by itself; "
    "over four searches it covers about 90 %, since the best of a few runs is skewed. Validation accuracies of chosen runs "
    "are optimistic. A failed run counts as guessing. Nothing is drawn beyond the last observation."
)


def _crossing(
    evidence: Evidence, source: str, first: str, second: str, confidence: float
) -> expected_best.Crossover:
    if source == "searches":
        budget = min(per_search(evidence, arm) for arm in (first, second))
        a_steps, b_steps = _searched(evidence, first), _searched(evidence, second)
        return expected_best.crossover_searches(a_steps, b_steps, per_search=budget, confidence=confidence)
    (a, a_cost, _), (b, b_cost, _) = drawn(evidence, first), drawn(evidence, second)
    return expected_best.crossover_slices(a, a_cost, b, b_cost, confidence=confidence)


def _searched(evidence: Evidence, arm: str) -> pd.DataFrame:
    """``steps``. Raises Refused when a search is missing: the others alone would flatter the arm."""
    found, budget = steps(evidence, arm), per_search(evidence, arm)
    there = set(found.loc[found["cost"] <= budget, "pair"])
    selected = {choice.pair for choice in choices(evidence.history, arm, evidence.look)}
    if missing := (selected or set(range(evidence.plan.pairs))) - there:  # before selection, the plan's
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


@figures.styled
def draw(
    slices: dict[str, pd.DataFrame], searches: dict[str, pd.DataFrame], palette: figures.Palette
) -> Figure:
    """Random settings above, searches below; an empty panel is left out."""
    panels = [
        (curves, draw, title)
        for curves, draw, title in (
            (slices, draw_slices, "random settings: expected best, median's 95 % band"),
            (searches, draw_searches, "searches: mean of the best so far, band of about 90 %"),
        )
        if curves
    ]
    figure = figures.new(2.9 * len(panels) + 0.5)
    figures.title(figure, "Best accuracy (%) after so much tuning")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, (curves, draw, title) in zip(axes, panels, strict=True):
        draw(curves, ax, palette)
        ax.set_title(title, loc="left", fontsize=9.5)
        ax.set_xlim(left=0)
        ax.grid(axis="y")
        ax.set_xlabel("resource-minutes")
    arms = [arm for arm in palette if arm in slices or arm in searches]
    handles = [
        Line2D([], [], color=palette[arm], lw=1.8, marker=figures.MARKS[i % 4], ms=4, label=arm)
        for i, arm in enumerate(arms)
    ]
    handles += [Line2D([], [], color="#444444", lw=1.8, label="validation, optimistic")]
    if any("test" in curve for curve in slices.values()):
        handles += [Line2D([], [], color="#444444", lw=1.4, ls=(0, (1, 1.3)), label="test")]
    if slices:
        handles += [Line2D([], [], color="#444444", lw=0.8, ls=(0, (4, 2)), label="end of the median's band")]
    figure.legend(handles=handles, ncols=2, loc="outside lower left")
    return figures.laid_out(figure)


def draw_slices(curves: dict[str, pd.DataFrame], ax: Axes, palette: figures.Palette) -> None:
    """Expected best of random settings by cost: solid validation, dotted test, band open where unbounded.

    Per arm the columns cost, mean, low, high, bounded and, when the test is open, test.
    """
    for i, (arm, curve) in enumerate(curves.items()):
        colour, minutes = palette[arm], curve["cost"] / 60
        bounded = curve[curve["bounded"]]
        ax.fill_between(
            bounded["cost"] / 60, 100 * bounded["low"], 100 * bounded["high"], color=colour, alpha=0.13, lw=0
        )
        ax.plot(minutes, 100 * curve["low"], color=colour, lw=0.8, ls=(0, (4, 2)))
        ax.plot(bounded["cost"] / 60, 100 * bounded["high"], color=colour, lw=0.8, ls=(0, (4, 2)))
        ax.plot(minutes, 100 * curve["mean"], color=colour, lw=1.8, marker=figures.MARKS[i % 4], ms=4)
        if "test" in curve:
            ax.plot(minutes, 100 * curve["test"], color=colour, lw=1.4, ls=(0, (1, 1.3)))
    _zoom(ax, [100 * c[name] for c in curves.values() for name in ("mean", "test") if name in c])


def draw_searches(curves: dict[str, pd.DataFrame], ax: Axes, palette: figures.Palette) -> None:
    """Mean best so far of the searches by what one of them had spent. Columns cost, mean, low, high."""
    for i, (arm, curve) in enumerate(curves.items()):
        colour, minutes = palette[arm], curve["cost"] / 60
        ax.fill_between(
            minutes, 100 * curve["low"], 100 * curve["high"], step="post", color=colour, alpha=0.13, lw=0
        )
        mark = figures.MARKS[i % 4]
        ax.step(minutes, 100 * curve["mean"], where="post", color=colour, lw=1.8, marker=mark, ms=4)
    _zoom(ax, [100 * c["mean"] for c in curves.values()])


def _zoom(ax: Axes, lines: list["pd.Series[float]"]) -> None:
    """Show the curves, not the whole of bands that reach from guessing to perfection."""
    low, high = min(float(x.min()) for x in lines), max(float(x.max()) for x in lines)
    room = max(0.5, 0.35 * (high - low))
    if math.isfinite(low):
        ax.set_ylim(max(0.0, low - room), min(100.5, high + room))


PART = Part(order=60, build=section, key="tuning_curves")
