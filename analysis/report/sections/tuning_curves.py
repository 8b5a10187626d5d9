"""What more tuning buys: the expected best score by budget, from random settings and from the searches.

A failed run has the score of guessing. Costs are resource-seconds.
"""

import itertools
import math
from dataclasses import asdict, dataclass
from functools import partial
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
from study.protocol.accounting import search_share, searches
from study.protocol.metrics import Metric
from study.protocol.text import counted, duration

SLICE_FLOOR = 2
"""Fewest settings that make a curve."""
DRAWN = ("mean", "low", "high", "test")


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
    """Validation score, cost and (once all are scored) test score of the arm's random settings."""
    guess, draws = evidence.plan.guess, evidence.slices.get(arm, ())
    val = np.array([guess if d.val is None else d.val for d in draws], dtype=np.float64)
    cost = np.array([d.cost for d in draws], dtype=np.float64)
    if any(d.val is not None and d.test is None for d in draws) or not evidence.history.opened:
        return val, cost, None
    return val, cost, np.array([guess if d.test is None else d.test for d in draws], dtype=np.float64)


def steps(evidence: Evidence, arm: str) -> pd.DataFrame:
    """One row per full-length run of the arm's searches: pair, cost (the search's spend then), val_score.

    The default's run on the search's fold comes first, at no cost: it is the search's first trial and already paid. The
    others follow in the order in which they ended; a running trial's spend counts when it ends.
    """
    history, plan = evidence.history, evidence.plan
    default = {t.fold: history.val_score(t.id) for t in history.full_length(arm, "baseline")}
    rows = [
        {"pair": pair, "cost": 0.0, "val_score": value}
        for pair in sorted({t.pair for t in history.of(arm, "search")})
        if (value := default.get(allocation.search_fold(plan, pair))) is not None
    ]
    spent: dict[int, float] = {}
    for name, outcome in history.outcomes.items():
        trial = history.trials[name]
        if trial.arm != arm or trial.phase != "search":
            continue
        spent[trial.pair] = spent.get(trial.pair, 0.0) + outcome.cost
        val = history.val_score(name)
        if history.finished(name) and val is not None:
            rows.append({"pair": trial.pair, "cost": spent[trial.pair], "val_score": val})
    return pd.DataFrame(rows, columns=["pair", "cost", "val_score"])


def per_search(evidence: Evidence, arm: str) -> float:
    """B/R: the resource-seconds that one search of the arm could spend. Raises Refused before they are fixed."""
    share = search_share(evidence.plan, evidence.history, arm)
    if math.isinf(share):
        raise Refused("what a search may spend has not been fixed yet")
    return share


def curves(evidence: Evidence) -> Curves:
    """Every curve that the records support."""
    slices, searches, missing = {}, {}, []
    support = evidence.plan.judged.worst, evidence.plan.judged.best
    for arm in evidence.plan.arms:
        val, cost, test = drawn(evidence, arm)
        if len(val) < SLICE_FLOOR:
            runs = counted(len(val), "run") if len(val) else "no run"
            missing.append(f"No curve of random settings for {arm}: {runs} in its random slice.")
        else:
            slices[arm] = expected_best.slice_curve(val, cost, test=test, support=support)
        try:
            searches[arm] = expected_best.search_curve(
                _searched(evidence, arm), per_search=per_search(evidence, arm)
            )
        except Refused as refusal:
            missing.append(f"No curve of the searches of {arm}: {refusal}.")
    return Curves(slices=slices, searches=searches, missing=tuple(missing))


def section(context: Context) -> Section:
    """The curves in words and numbers, and where they cross."""
    evidence, found, metric = context.evidence, context.found, context.metric
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
                {"first": first, "second": second, "source": source, "sentences": said} | asdict(crossing)
            )
    rows = [
        row
        for arm in evidence.plan.arms
        for row in (
            *_slice_rows(made.slices.get(arm), arm, metric),
            *_search_rows(made.searches.get(arm), arm, metric),
        )
    ]
    best = "best so far, %" if metric.name == "accuracy" else f"best so far: {metric.axis}"
    columns = (best, "tuning", "validation", "band", "test")
    return Section(
        title="What more tuning buys",
        text=tuple(dict.fromkeys(text)),
        drawing=Drawing("tuning", partial(draw, made.slices, made.searches, context.palette, metric))
        if made.slices or made.searches
        else None,
        tables=(Table(head=columns, rows=tuple(rows)),) if rows else (),
        note=NOTE if rows else "",
        facts={
            "slices": {arm: curve.to_dict("records") for arm, curve in made.slices.items()},
            "searches": {arm: curve.to_dict("records") for arm, curve in made.searches.items()},
            "per_search_seconds": _budgets(evidence),
            "crossovers": crossings,
            "sentences": text,
        },
    )


NOTE = (
    "Random settings: the expected best of this many settings drawn at random and never stopped early. The band is for the "
    "median, holds at all budgets at once and assumes no distribution; where it is open, these runs set no upper end. Test: "
    "the expected test score of the setting that validation chose. Searches: the mean over independent searches of the "
    "best full run so far, the default's included, up to one search's budget. Their t band holds at each point by itself; "
    "over four searches it covers about 90 %, since the best of a few runs is skewed. Validation scores of chosen runs "
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
    if (
        missing := (selected or set(range(searches(evidence.plan, evidence.history)))) - there
    ):  # before selection, the plan's
        raise Refused(f"search {min(missing) + 1} of {arm} finished no full run within its budget")
    return found


def _budgets(evidence: Evidence) -> dict[str, float]:
    try:
        return {arm: per_search(evidence, arm) for arm in evidence.plan.arms}
    except Refused:
        return {}


def _slice_rows(curve: pd.DataFrame | None, arm: str, metric: Metric) -> list[tuple[str, ...]]:
    """One, half and all of the slice's settings."""
    if curve is None:
        return []
    rows: list[tuple[str, ...]] = []
    for n, _ in itertools.groupby((1, max(1, len(curve) // 2), len(curve))):
        at: dict[str, Any] = {str(k): v for k, v in curve.iloc[n - 1].items()}
        ends = [metric.shown(at["low"]), metric.shown(at["high"]) if at["bounded"] else "open"]
        rows.append(
            (
                f"{arm}, {n} random",
                duration(at["cost"]),
                metric.shown(at["mean"]),
                " to ".join(ends[::-1] if metric.lower else ends),
                metric.shown(at["test"]) if "test" in at else "–",
            )
        )
    return rows


def _search_rows(curve: pd.DataFrame | None, arm: str, metric: Metric) -> list[tuple[str, ...]]:
    if curve is None:
        return []
    at: dict[str, Any] = {str(k): v for k, v in curve.iloc[-1].items()}
    band = "–" if math.isnan(at["low"]) else metric.span(at["low"], at["high"])
    name = f"{arm}, {counted(int(at['searches']), 'search', 'searches')}"
    return [(name, duration(at["cost"]), metric.shown(at["mean"]), band, "–")]


@figures.styled
def draw(
    slices: dict[str, pd.DataFrame],
    searches: dict[str, pd.DataFrame],
    palette: figures.Palette,
    metric: Metric,
) -> Figure:
    """Random settings above, searches below; an empty panel is left out."""
    slices, searches = (
        {
            arm: curve.assign(**{n: metric.drawn(curve[n]) for n in DRAWN if n in curve})
            for arm, curve in group.items()
        }
        for group in (slices, searches)
    )
    panels = [
        (curves, draw, title)
        for curves, draw, title in (
            (slices, draw_slices, "random settings: expected best, median's 95 % band"),
            (searches, draw_searches, "searches: mean of the best so far, band of about 90 %"),
        )
        if curves
    ]
    figure = figures.new(2.9 * len(panels) + 0.5)
    figures.title(figure, f"Best {metric.axis}, after so much tuning")
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
        ax.fill_between(bounded["cost"] / 60, bounded["low"], bounded["high"], color=colour, alpha=0.13, lw=0)
        ax.plot(minutes, curve["low"], color=colour, lw=0.8, ls=(0, (4, 2)))
        ax.plot(bounded["cost"] / 60, bounded["high"], color=colour, lw=0.8, ls=(0, (4, 2)))
        ax.plot(minutes, curve["mean"], color=colour, lw=1.8, marker=figures.MARKS[i % 4], ms=4)
        if "test" in curve:
            ax.plot(minutes, curve["test"], color=colour, lw=1.4, ls=(0, (1, 1.3)))
    _zoom(ax, [c[name] for c in curves.values() for name in ("mean", "test") if name in c])


def draw_searches(curves: dict[str, pd.DataFrame], ax: Axes, palette: figures.Palette) -> None:
    """Mean best so far of the searches by what one of them had spent. Columns cost, mean, low, high."""
    for i, (arm, curve) in enumerate(curves.items()):
        colour, minutes = palette[arm], curve["cost"] / 60
        ax.fill_between(minutes, curve["low"], curve["high"], step="post", color=colour, alpha=0.13, lw=0)
        mark = figures.MARKS[i % 4]
        ax.step(minutes, curve["mean"], where="post", color=colour, lw=1.8, marker=mark, ms=4)
    _zoom(ax, [c["mean"] for c in curves.values()])


def _zoom(ax: Axes, lines: list["pd.Series[float]"]) -> None:
    """Show the curves, not the whole of bands that reach from guessing to perfection."""
    low, high = min(float(x.min()) for x in lines), max(float(x.max()) for x in lines)
    room = 0.35 * (high - low) or 0.01 * abs(high) or 0.01
    if math.isfinite(low):
        ax.set_ylim(max(0.0, low - room), high + room)


PART = Part(order=60, build=section, key="tuning_curves")
