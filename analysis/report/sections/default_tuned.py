"""Default against tuned: the test accuracy of every run, and what tuning gained."""

from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import scores
from analysis.report import figures
from analysis.report.section import Context, Drawing, Part, Section, Table, brief
from analysis.results import had_none
from analysis.summary import Findings
from study.protocol.metrics import Metric


def section(context: Context) -> Section | None:
    """None before a run has been scored on the test images."""
    accuracies = scores.accuracies(context.evidence)
    if accuracies.empty:
        return None
    metric, unchanged = context.metric, context.found.unchanged
    # verdict.json says "tuned" of both
    accuracies["shown"] = [
        "in hand (default)" if kind == "tuned" and arm in unchanged else kind
        for arm, kind in zip(accuracies["arm"], accuracies["kind"], strict=True)
    ]
    rows = tuple(_row(row, metric) for row in figures.records(accuracies))
    several = any(a.differences for a in context.found.answers)
    searches = 'In the figure the answer is "searches", with one dot per pair. ' if several else ""
    head = (f"test {metric.axis}", "runs", "mean", "95 % interval", "median", "sd", "min", "max")
    apart = differences(context.found, metric.against)
    return Section(
        title="Default against tuned",
        drawing=None if apart.empty else Drawing("forest", partial(forest, accuracies, apart, context)),
        tables=(Table(head=head, rows=rows),),
        items=tuple(_gains(context)),
        note="Default: the fixed setting, before any search. Tuned: the net in hand, the best of what the arm's searches "
        f"found by validation, retrained with fresh seeds. {searches}"
        "Intervals are for new runs and new images, each at its stated level alone unless the answer says otherwise.",
    )


def _row(row: dict[str, Any], metric: Metric) -> tuple[str, ...]:
    def shown(value: float) -> str:
        return "–" if value != value else metric.shown(value)  # noqa: PLR0124  # NaN

    failed = f" ({row['guessed']} failed)" if row["guessed"] else ""
    interval = "–" if shown(row["low"]) == "–" else metric.span(row["low"], row["high"])
    row = row | {"sd": row["sd"] * (-1 if metric.lower else 1)}
    if metric.lower:
        row |= {"min": row["max"], "max": row["min"]}
    return (
        f"{row['arm']}, {row['shown']}",
        f"{row['runs']}{failed}",
        shown(row["mean"]),
        interval,
        *(shown(row[name]) for name in ("median", "sd", "min", "max")),
    )


def _gains(context: Context) -> list[str]:
    """What tuning gained each arm, and how the defaults compare."""
    found, metric, items = context.found, context.metric, []
    for gain in found.gains:
        e = gain.estimate
        if e.high < 0:
            items.append(f"Tuning lost: {gain.arm} {brief(e, metric)} against its default.")
        elif e.low > 0:
            items.append(f"Tuning gained {gain.arm} {brief(e, metric)} over its default.")
        else:
            items.append(
                f"{gain.arm}: its net in hand and its default are not shown to differ: {brief(e, metric)}."
            )
    items += [
        f"{arm}: its net in hand is of the default setting, since "
        f"{'no search could be paid for' if had_none(context.evidence, arm) else 'the search found nothing better'}: no gain "
        "of tuning is estimated."
        for arm in found.unchanged
    ]
    return items + [
        f"Default against default, {c.short}: {brief(c.estimate, metric)}." for c in found.defaults
    ]


def differences(found: Findings, sign: str) -> pd.DataFrame:
    """One row per difference, answers first, as ``draw_differences`` takes it; ``marks``: one per pair; ``sign`` stands
    between the names."""
    rows = [
        {"label": f"searches: {a.first}\n{sign} {a.second}", "arm": "", "filled": True, "delta": a.delta}
        | {"low": a.low, "high": a.high, "marks": list(a.differences)}
        for a in found.answers
        if a.delta is not None
    ] + [
        {"label": f"nets: {v.first}\n{sign} {v.second}", "arm": "", "filled": True, "delta": v.delta}
        | {"low": v.low, "high": v.high, "marks": []}
        for v in found.nets
    ]
    rows += [
        {"label": c.label, "arm": c.arm, "filled": c.tuned, "delta": c.estimate.delta}
        | {"low": c.estimate.low, "high": c.estimate.high, "marks": []}
        for c in (*found.defaults, *found.gains)
    ]
    return pd.DataFrame(rows)


@figures.styled
def forest(accuracies: pd.DataFrame, differences: pd.DataFrame, context: Context) -> Figure:
    """Means above, differences below, each with its own scale."""
    plan, palette, metric = context.evidence.plan, context.palette, context.metric
    heights = [0.62 * len(accuracies) + 0.2, 0.62 * len(differences) + 0.2]
    figure = figures.new(sum(heights) + 1.8)
    parts: Any = figure.subfigures(2, 1, height_ratios=[h + 0.9 for h in heights])
    top, bottom = parts
    figures.title(top, f"Test {metric.title}, default and net in hand: runs, mean, 95 %")
    draw_forest(accuracies, top.subplots(), palette, metric)
    dots = "; dots: pairs" if any(len(marks) for marks in differences["marks"]) else ""
    figures.title(bottom, f"Difference{dots}; grey: the ±{plan.margin} called equal")
    draw_differences(differences, plan.rope, bottom.subplots(), palette, metric)
    return figures.laid_out(figure)


def draw_forest(table: pd.DataFrame, ax: Axes, palette: figures.Palette, metric: Metric) -> None:
    """Test score of every run, its mean and 95 % interval; one line per arm and setting.

    Columns: arm, kind (``default`` | ``tuned``), shown (its name), accuracies (list), mean, low, high (NaN without interval).
    """
    for y, row in enumerate(figures.records(table)):
        colour = palette[row["arm"]]
        face = colour if row["kind"] == "tuned" else "white"
        ends = [metric.drawn(row["low"]), metric.drawn(row["high"])]
        ax.plot(ends, [y, y], color=colour, lw=2.2, solid_capstyle="butt")
        ax.plot(metric.drawn(row["mean"]), y, marker="D", ms=7, color=colour, mfc=face, mew=1.6, ls="")
        dots = [metric.drawn(a) for a in row["accuracies"]]
        heights = [y + 0.27 + 0.07 * (i % 3 - 1) for i in range(len(dots))]
        ax.plot(dots, heights, ls="", marker="o", ms=3.6, color=colour, alpha=0.75, mew=0)
    figures.rows(ax, [f"{row['arm']}\n{row['shown']}" for row in figures.records(table)])
    if metric.shares:
        ax.set_xlim(right=min(ax.get_xlim()[1], 100.5))
    ax.set_xlabel(f"test {metric.axis}")


def draw_differences(
    table: pd.DataFrame, rope: float, ax: Axes, palette: figures.Palette, metric: Metric
) -> None:
    """Differences with their intervals against the band that was called equal before the run.

    Columns: label, arm (its colour), filled, delta, low, high, and marks: what each pair of searches gave.
    """
    steps = metric.steps
    ax.axvspan(-steps * rope, steps * rope, color="#DDDDDD", lw=0, zorder=0)
    ax.axvline(0, color=figures.GREY, lw=1)
    for y, row in enumerate(figures.records(table)):
        colour = palette.get(row["arm"], figures.GREY)
        ax.plot(
            [steps * row["low"], steps * row["high"]], [y, y], color=colour, lw=2.2, solid_capstyle="butt"
        )
        face = colour if row["filled"] else "white"
        ax.plot(steps * row["delta"], y, marker="D", ms=7, color=colour, mfc=face, mew=1.6, ls="")
        dots = [steps * d for d in row["marks"]]
        heights = [y + 0.24 + 0.06 * (i % 3 - 1) for i in range(len(dots))]
        ax.plot(dots, heights, ls="", marker="o", ms=4.4, color=colour, alpha=0.75, mew=0)
    figures.rows(ax, list(table["label"]))
    unit = "points" if metric.shares else metric.unit
    ax.set_xlabel(
        f"lead in test {metric.title}{f', {unit}' if unit else ''}"
        if metric.lower
        else f"points of test {metric.title}"
    )


PART = Part(order=20, build=section)
