"""What mattered: how much tuning each arm needs, whether one fixed setting misleads, and which parameters count."""

import math
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answer import Answer
from analysis.report import figures, marginals
from analysis.report.marginals import FLOOR, adjusted
from analysis.report.section import Context, Drawing, Part, Section, Table
from analysis.report.sections.tuning_curves import drawn
from analysis.results import Evidence, in_hand
from analysis.statistics.intervals import Refused
from analysis.statistics.tunability import Interval, fixed_setting_trap, sensitivity, tunability
from study.protocol.metrics import Metric
from study.protocol.text import counted, listed, percent


def section(context: Context) -> Section:
    """All of it from the random settings; the answer reports the gain over the default."""
    evidence, found, plan, metric = context.evidence, context.found, context.evidence.plan, context.metric
    levels = marginals.table(evidence)
    shown = levels[levels["own"] & levels["isolated"]]
    missing = [arm for arm in plan.arms if arm not in {c.arm for c in found.gains} | {*found.unchanged}]
    unknown: list[Unknown] = [
        ("what tuning gained over the default for", arm, "it takes scored runs of both") for arm in missing
    ]
    text: list[str] = []
    tables: list[Table] = []
    facts: dict[str, Any] = {}
    for table, said, own, open_ in (_asks(evidence), _importances(evidence), _isolated(evidence, levels)):
        tables += table
        text += said
        facts |= own
        unknown += open_
    traps: list[dict[str, Any]] = []
    for v in found.answers:
        told_trap, trap, untrapped = _trap(evidence, v)
        text += told_trap
        traps += trap
        unknown += untrapped
    if not found.answers:
        unknown.append((TRAP, listed(list(plan.arms)), "no arm is called better yet"))
    if unknown:
        text.append(_not_known(unknown))
    return Section(
        title="What mattered",
        text=tuple(text),
        drawing=None if shown.empty else Drawing("levels", partial(draw, shown, context.palette, metric)),
        tables=tuple(tables),
        note=f"From random settings, each run to full length once, by validation {metric.title}; intervals 95 %. Omega weights early "
        f"finds more than late ones; the area weights all alike. Near the best: within {metric.gap(NEAR * metric.of_luck)} of what selection measured for the "
        "chosen setting, or of the best random setting. A failed run counts as guessing. By value: all other parameters vary "
        "at random from run to run, so a value's mean is over those (observational over the other random axes), not at one "
        "fixed setting; an arm that ties its group width to its cardinality is thus compared at matched complexity."
        if tables
        else "",
        facts=facts | {"traps": traps, "sentences": text},
    )


NEAR = 0.01
"""How far below the best a random setting still counts as near it, in accuracy."""
Unknown = tuple[str, str, str]
"""A question, the arm that it ends with, and why it has no answer."""
TRAP = "whether one fixed setting would have misled about"


def _not_known(unknown: list[Unknown]) -> str:
    """All of it in one paragraph; arms that share a question and a reason share a clause."""
    arms: dict[tuple[str, str], list[str]] = {}
    for question, arm, reason in unknown:
        arms.setdefault((question, reason.removesuffix(".")), []).append(arm)
    said = [f"{question} {listed(own)} ({reason})" for (question, reason), own in arms.items()]
    return f"Not known: {'; '.join(said)}."


def _asks(evidence: Evidence) -> tuple[list[Table], list[str], dict[str, Any], list[Unknown]]:
    """Tunability and sensitivity, at one horizon for all arms."""
    rows, facts, metric = [], {}, evidence.plan.judged
    unknown: list[Unknown] = []
    horizon = min((len(d) // 2 for d in evidence.slices.values() if len(d) > 1), default=0)
    for arm in evidence.plan.arms:
        val, _, _ = drawn(evidence, arm)
        try:
            asks = tunability(val, horizon=horizon)
            chosen = in_hand(evidence.history, arm, evidence.look)
            best = chosen.val_score if chosen else None
            failed = [d.val is None for d in evidence.slices[arm]]
            fates = sensitivity(val, failed, best=best, within=NEAR * metric.of_luck)
        except Refused as refusal:
            unknown.append(("how much tuning is asked by", arm, str(refusal)))
            continue
        rows.append(
            (
                arm,
                *(_value(i, metric) for i in (asks.one, asks.omega, asks.area)),
                metric.shown(asks.last),
                *(_percent(i) for i in (fates.near, fates.diverged)),
            )
        )
        facts[arm] = {"tunability": asdict(asks), "sensitivity": asdict(fates)}
    best_of = f"best of {horizon}"
    name = "validation, %" if metric.name == "accuracy" else f"validation {metric.axis}"
    head = (name, "one random setting", "omega", "area", best_of, "near the best", "failed")
    return ([Table(head=head, rows=tuple(rows))] if rows else []), [], {"random_settings": facts}, unknown


def _importances(evidence: Evidence) -> tuple[list[Table], list[str], dict[str, Any], list[Unknown]]:
    rows: list[tuple[str, ...]] = []
    unknown: list[Unknown] = []
    facts = {}
    for arm in evidence.plan.arms:
        draws = evidence.slices.get(arm, ())
        scores = np.array([np.nan if d.val is None else d.val for d in draws], dtype=np.float64)
        try:
            from analysis.statistics.importance import importances  # Optuna takes a second to import

            table = importances([d.config for d in draws], scores)
        except Refused as refusal:
            unknown.append(("which parameters mattered for", arm, str(refusal)))
            continue
        facts[arm] = table.to_dict("records")
        for row in facts[arm]:
            shown = "yes" if row["p_chance"] <= 0.05 else "not shown"
            ranks = f"{row['rank']:g} ({row['rank_low']:g} to {row['rank_high']:g})"
            rows.append((f"{arm}: {row['parameter']}", percent(row["importance"], 0), ranks, shown))
    head = ("parameter", "importance", "rank (95 %)", "more than chance, by itself")
    return ([Table(head=head, rows=tuple(rows))] if rows else []), [], {"importance": facts}, unknown


def _isolated(
    evidence: Evidence, levels: pd.DataFrame
) -> tuple[list[Table], list[str], dict[str, Any], list[Unknown]]:
    """Accuracy by value of the choices, and of what only some arms have; the facts have every axis."""
    said, rows, adjusted_p, metric = [], [], adjusted(levels), evidence.plan.judged
    unknown: list[Unknown] = []
    for arm in evidence.plan.arms:
        own = levels[(levels["arm"] == arm) & levels["own"]]
        axes = dict(zip(own["axis"], own["isolated"], strict=True))
        several = set(own.loc[own.duplicated("axis"), "axis"])  # a pinned axis has one value
        if thin := [axis for axis, isolated in axes.items() if not isolated and axis in several]:
            few = f"{counted(len(evidence.slices.get(arm, ())), 'random setting')}, it takes {FLOOR} of each of two values"
            unknown.append((f"how the values of {listed(thin)} differ for", arm, few))
        for shown in (True, False):
            names = [
                f"{axis} (p = {adjusted_p[arm, axis]:.3f})"
                for axis, isolated in axes.items()
                if isolated and (adjusted_p[arm, axis] <= 0.05) == shown
            ]
            if names:
                says = (
                    f"shows a difference beyond chance between the values of {listed(names)}"
                    if shown
                    else f"does not show whether the values of {listed(names)} differ"
                )
                said.append(
                    f"By value: the slice of {arm} {says}; permutation of ranks, Holm over its parameters."
                )
        rows += [
            (
                f"{arm}: {r['axis']} {r['value']}",
                f"{r['trials']}" + (f" ({r['failed']} failed)" if r["failed"] else ""),
                _mean_of(r, "val", metric),
                _mean_of(r, "test", metric),
            )
            for r in own[own["isolated"]].to_dict("records")
        ]
    by = "by value, accuracy %" if metric.name == "accuracy" else f"by value: {metric.axis}"
    head = (by, "random settings", "validation (95 %)", "test (95 %)")
    facts = {"levels": levels.to_dict("records")}
    return ([Table(head=head, rows=tuple(rows))] if rows else []), said, facts, unknown


def _mean_of(row: dict[Any, Any], kind: str, metric: Metric) -> str:
    mean, low, high = (row[f"{kind}_{name}"] for name in ("mean", "low", "high"))
    if math.isnan(mean):
        return "too few" if row[kind] else "–"
    return f"{metric.shown(mean)} ({metric.span(low, high)})"


def _trap(evidence: Evidence, v: Answer) -> tuple[list[str], list[dict[str, Any]], list[Unknown]]:
    both = f"{v.first} against {v.second}"
    if v.ahead is None:
        return [], [], [(TRAP, both, "the answer names no better arm, so there is no wrong one")]
    (a, _, _), (b, _, _) = drawn(evidence, v.first), drawn(evidence, v.second)
    better: Literal["first", "second"] = "first" if v.ahead == v.first else "second"
    settings = [[str(d.index) for d in evidence.slices[arm]] for arm in (v.first, v.second)]
    try:
        trap = fixed_setting_trap(a, b, better=better, settings=(settings[0], settings[1]))
    except Refused as refusal:
        return [], [], [(TRAP, both, str(refusal))]
    wrong = v.second if better == "first" else v.first
    said = (
        f"The fixed-setting trap: with one random setting for both arms and one run of each, {wrong} would have come "
        f"out ahead of {v.ahead} in {_percent(trap.wrong)} of the cases ({counted(trap.settings, 'shared setting')}; "
        "what only one arm has was drawn for it alone)."
    )
    return [said], [{"first": v.first, "second": v.second, "wrong_arm": wrong} | asdict(trap)], []


def _value(i: Interval, metric: Metric) -> str:
    return f"{metric.shown(i.value)} ({metric.span(i.low, min(metric.best, i.high))})"


def _percent(i: Interval) -> str:
    return f"{percent(i.value, 0)} ({100 * i.low:.0f} to {percent(i.high, 0)})"


@figures.styled
def draw(table: pd.DataFrame, palette: figures.Palette, metric: Metric) -> Figure:
    """One panel per arm that has an axis to show; ``table`` has rows of such axes only."""
    counts = {arm: count for arm in palette if (count := int((table["arm"] == arm).sum()))}
    heights = [0.5 * n + 0.7 for n in counts.values()]
    figure = figures.new(sum(heights) + 1.0)
    figures.title(figure, f"Random settings by value: {metric.axis}, mean, 95 % interval")
    panels = figure.subplots(len(counts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, arm in zip(panels, counts, strict=True):
        draw_levels(table[table["arm"] == arm], ax, palette[arm], metric)
        ax.set_title(arm, loc="left", fontsize=9.5, color=palette[arm], fontweight="bold")
    handles = [Line2D([], [], color="#444444", marker="D", ls="", label="validation")]
    if table["test_mean"].notna().any():
        handles += [Line2D([], [], color="#444444", mfc="white", marker="D", ls="", label="test")]
    handles += [Line2D([], [], color="#444444", marker="o", ms=3.6, ls="", label="one random setting")]
    figure.legend(handles=handles, ncols=3, loc="outside lower left")
    return figures.laid_out(figure)


def draw_levels(table: pd.DataFrame, ax: Axes, colour: str, metric: Metric) -> None:
    """The score by value of one arm's axes: every trial a dot, mean and 95 % interval; filled validation, hollow test.

    Columns as of ``marginals.table``. A failed trial is counted beside the value: drawn where it guesses, it would
    flatten the rest.
    """
    rows = figures.records(table)
    lasting: list[float] = []
    for y, row in enumerate(rows):
        for kind, at, face in (("val", y - 0.16, colour), ("test", y + 0.2, "white")):
            kept = sorted(row[kind])[row["failed"] :]
            dots = [metric.drawn(a) for a in kept]
            lasting += dots
            ax.plot(dots, [at] * len(dots), ls="", marker="o", ms=3.6, color=colour, mfc=face, alpha=0.7)
            mean, low, high = (metric.drawn(row[f"{kind}_{name}"]) for name in ("mean", "low", "high"))
            ax.plot([low, high], [at, at], color=colour, lw=1.6, solid_capstyle="butt")
            ax.plot(mean, at, marker="D", ms=6.5, color=colour, mfc=face, mew=1.4, ls="")
            lasting += [] if math.isnan(mean) else [mean]
    labels = [
        f"{row['axis']}\n{row['value']} ({row['trials']}{', ' + str(row['failed']) + ' failed' if row['failed'] else ''})"
        for row in rows
    ]
    figures.rows(ax, labels)
    for y in range(1, len(rows)):
        if rows[y]["axis"] != rows[y - 1]["axis"]:
            ax.axhline(y - 0.5, color="#999999", lw=0.8)
    if lasting:
        room = max(0.005 * metric.steps, 0.08 * (max(lasting) - min(lasting)))
        ax.set_xlim(min(lasting) - room, min(100.5, max(lasting) + room))


PART = Part(order=110, build=section, key="what_mattered")
