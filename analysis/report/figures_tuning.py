"""Figures of what tuning buys and what accuracy costs; same style and colours as ``figures``."""

import math
from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.report.figures import STYLE, _figure, _laid_out, _records, _rows, _title


def draw_slices(curves: Mapping[str, pd.DataFrame], ax: Axes, palette: Mapping[str, str]) -> None:
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
        ax.plot(minutes, 100 * curve["mean"], color=colour, lw=1.8, marker=_MARKS[i % 4], ms=4)
        if "test" in curve:
            ax.plot(minutes, 100 * curve["test"], color=colour, lw=1.4, ls=(0, (1, 1.3)))
    _zoom(ax, [100 * c[name] for c in curves.values() for name in ("mean", "test") if name in c])


def draw_searches(curves: Mapping[str, pd.DataFrame], ax: Axes, palette: Mapping[str, str]) -> None:
    """Mean best so far of the searches by what one of them had spent. Columns cost, mean, low, high."""
    for i, (arm, curve) in enumerate(curves.items()):
        colour, minutes = palette[arm], curve["cost"] / 60
        ax.fill_between(
            minutes, 100 * curve["low"], 100 * curve["high"], step="post", color=colour, alpha=0.13, lw=0
        )
        ax.step(minutes, 100 * curve["mean"], where="post", color=colour, lw=1.8, marker=_MARKS[i % 4], ms=4)
    _zoom(ax, [100 * c["mean"] for c in curves.values()])


def draw_costs(table: pd.DataFrame, column: str, ax: Axes, palette: Mapping[str, str]) -> None:
    """Test accuracy with its interval against ``column``; filled tuned, hollow default.

    Columns: arm, kind (``default`` | ``tuned``), mean, low, high (NaN without interval), and ``column``.
    """
    for row in _records(table):
        colour, x = palette[row["arm"]], row[column]
        face = colour if row["kind"] == "tuned" else "white"
        ax.plot([x, x], [100 * row["low"], 100 * row["high"]], color=colour, lw=2, solid_capstyle="butt")
        ax.plot(x, 100 * row["mean"], marker="D", ms=7, color=colour, mfc=face, mew=1.6, ls="")
    ax.set_xlim(0, 1.15 * float(table[column].max()))  # from 0: a small saving must look small
    ax.grid(axis="y")


def draw_levels(table: pd.DataFrame, ax: Axes, colour: str) -> None:
    """Accuracy by value of one arm's axes: every trial a dot, mean and 95 % interval; filled validation, hollow test.

    Columns as of ``isolated.table``. A failed trial is counted beside the value: drawn where it guesses, it would
    flatten the rest.
    """
    rows = _records(table)
    lasting: list[float] = []
    for y, row in enumerate(rows):
        for kind, at, face in (("val", y - 0.16, colour), ("test", y + 0.2, "white")):
            kept = sorted(row[kind])[row["failed"] :]
            lasting += kept
            ax.plot(
                [100 * a for a in kept],
                [at] * len(kept),
                ls="",
                marker="o",
                ms=3.6,
                color=colour,
                mfc=face,
                alpha=0.7,
            )
            mean, low, high = (100 * row[f"{kind}_{name}"] for name in ("mean", "low", "high"))
            ax.plot([low, high], [at, at], color=colour, lw=1.6, solid_capstyle="butt")
            ax.plot(mean, at, marker="D", ms=6.5, color=colour, mfc=face, mew=1.4, ls="")
            lasting += [] if math.isnan(mean) else [mean / 100]
    labels = [
        f"{row['axis']}\n{row['value']} ({row['trials']}{', ' + str(row['failed']) + ' failed' if row['failed'] else ''})"
        for row in rows
    ]
    _rows(ax, labels)
    for y in range(1, len(rows)):
        if rows[y]["axis"] != rows[y - 1]["axis"]:
            ax.axhline(y - 0.5, color="#999999", lw=0.8)
    if lasting:
        room = max(0.5, 8 * (max(lasting) - min(lasting)))
        ax.set_xlim(100 * min(lasting) - room, min(100.5, 100 * max(lasting) + room))


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def levels(table: pd.DataFrame, palette: Mapping[str, str]) -> Figure:
    """One panel per arm that has an axis to show; ``table`` has rows of such axes only."""
    counts = {arm: int((table["arm"] == arm).sum()) for arm in palette}
    counts = {arm: count for arm, count in counts.items() if count}
    figure = _figure(sum(0.5 * n + 0.7 for n in counts.values()) + 1.0)
    _title(figure, "Random settings by value: accuracy (%), mean, 95 % interval")
    panels = figure.subplots(
        len(counts), 1, squeeze=False, height_ratios=[0.5 * n + 0.7 for n in counts.values()]
    )[:, 0]
    for ax, arm in zip(panels, counts, strict=True):
        draw_levels(table[table["arm"] == arm], ax, palette[arm])
        ax.set_title(arm, loc="left", fontsize=9.5, color=palette[arm], fontweight="bold")
    handles = [Line2D([], [], color="#444444", marker="D", ls="", label="validation")]
    if table["test_mean"].notna().any():
        handles += [Line2D([], [], color="#444444", mfc="white", marker="D", ls="", label="test")]
    handles += [Line2D([], [], color="#444444", marker="o", ms=3.6, ls="", label="one random setting")]
    figure.legend(handles=handles, ncols=3, loc="outside lower left")
    return _laid_out(figure)


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def tuning(
    slices: Mapping[str, pd.DataFrame], searches: Mapping[str, pd.DataFrame], palette: Mapping[str, str]
) -> Figure:
    """Random settings above, searches below; what there is none of is left out."""
    panels = [
        (curves, draw, title)
        for curves, draw, title in (
            (slices, draw_slices, "random settings: expected best, median's 95 % band"),
            (searches, draw_searches, "searches: mean of the best so far, band of about 90 %"),
        )
        if curves
    ]
    figure = _figure(2.9 * len(panels) + 0.5)
    _title(figure, "Best accuracy (%) after so much tuning")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, (curves, draw, title) in zip(axes, panels, strict=True):
        draw(curves, ax, palette)
        ax.set_title(title, loc="left", fontsize=9.5)
        ax.set_xlim(left=0)
        ax.grid(axis="y")
        ax.set_xlabel("resource-minutes")
    arms = [arm for arm in palette if arm in slices or arm in searches]
    handles = [
        Line2D([], [], color=palette[arm], lw=1.8, marker=_MARKS[i % 4], ms=4, label=arm)
        for i, arm in enumerate(arms)
    ]
    handles += [Line2D([], [], color="#444444", lw=1.8, label="validation, optimistic")]
    if any("test" in curve for curve in slices.values()):
        handles += [Line2D([], [], color="#444444", lw=1.4, ls=(0, (1, 1.3)), label="test")]
    if slices:
        handles += [Line2D([], [], color="#444444", lw=0.8, ls=(0, (4, 2)), label="end of the median's band")]
    figure.legend(handles=handles, ncols=2, loc="outside lower left")
    return _laid_out(figure)


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def costs(table: pd.DataFrame, palette: Mapping[str, str]) -> Figure:
    """Accuracy against training and against inference."""
    figure = _figure(5.6)
    _title(figure, "Test accuracy (%) against what it costs")
    training, inference = figure.subplots(2, 1, sharey=True)
    table = table.assign(minutes=table["training"] / 60)
    for ax, column, label in (
        (training, "minutes", "resource-minutes of one full training run"),
        (inference, "milliseconds", "milliseconds per image at inference"),
    ):
        draw_costs(table, column, ax, palette)
        ax.set_xlabel(label)
    handles = [Line2D([], [], color=palette[arm], marker="D", ls="", label=arm) for arm in palette]
    handles += [
        Line2D([], [], color="#444444", marker="D", ls="", label="tuned"),
        Line2D([], [], color="#444444", mfc="white", marker="D", ls="", label="default"),
    ]
    figure.legend(handles=handles, ncols=2, loc="outside lower left")
    return _laid_out(figure)


_MARKS = ("o", "s", "^", "v")


def _zoom(ax: Axes, lines: list["pd.Series[float]"]) -> None:
    """Show the curves, not the whole of bands that reach from guessing to perfection."""
    low, high = min(float(x.min()) for x in lines), max(float(x.max()) for x in lines)
    room = max(0.5, 0.35 * (high - low))
    if math.isfinite(low):
        ax.set_ylim(max(0.0, low - room), min(100.5, high + room))
