"""One draw function per figure: ``draw_x(table, ax)`` puts ink on what a table already says.

Okabe-Ito colours, one per arm everywhere, never the only mark. Figures are narrow (5.2 in) so that their
text stays readable on a phone. The same table gives the same SVG bytes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
WIDTH = 5.2
"""Inches. At 370 CSS pixels, a phone's column, 10 pt text is still 10 pixels high."""
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "analysis",
    "svg.fonttype": "path",
    "text.parse_math": False,
}
_GREY = "#555555"


def colours(arms: Sequence[str]) -> dict[str, str]:
    """One colour per arm in the order of the plan; a study of more than seven arms repeats them."""
    return {arm: OKABE_ITO[i % len(OKABE_ITO)] for i, arm in enumerate(arms)}


def draw_forest(table: pd.DataFrame, ax: Axes, palette: Mapping[str, str]) -> None:
    """Test accuracy of every run, its mean and 95 % interval; one line per arm and setting.

    Columns: arm, kind (``default`` | ``tuned``), accuracies (list), mean, low, high (NaN without interval).
    """
    for y, row in enumerate(_records(table)):
        colour, tuned = palette[row["arm"]], row["kind"] == "tuned"
        ax.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, lw=2.2, solid_capstyle="butt")
        ax.plot(
            100 * row["mean"],
            y,
            marker="D",
            ms=7,
            color=colour,
            mfc=colour if tuned else "white",
            mew=1.6,
            ls="",
        )
        dots = [100 * a for a in row["accuracies"]]
        heights = [y + 0.27 + 0.07 * (i % 3 - 1) for i in range(len(dots))]
        ax.plot(dots, heights, ls="", marker="o", ms=3.6, color=colour, alpha=0.75, mew=0)
    _rows(ax, [f"{row['arm']}\n{row['kind']}" for row in _records(table)])
    ax.set_xlim(right=min(ax.get_xlim()[1], 100.5))
    ax.set_xlabel("test accuracy (%)")


def draw_differences(table: pd.DataFrame, rope: float, ax: Axes, palette: Mapping[str, str]) -> None:
    """Differences with their intervals against the band that was called equal before the run.

    Columns: label, arm (its colour), filled, delta, low, high, and marks: what each pair of searches gave (fractions).
    """
    ax.axvspan(-100 * rope, 100 * rope, color="#DDDDDD", lw=0, zorder=0)
    ax.axvline(0, color=_GREY, lw=1)
    for y, row in enumerate(_records(table)):
        colour = palette.get(row["arm"], _GREY)
        ax.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, lw=2.2, solid_capstyle="butt")
        face = colour if row["filled"] else "white"
        ax.plot(100 * row["delta"], y, marker="D", ms=7, color=colour, mfc=face, mew=1.6, ls="")
        heights = [y + 0.24 + 0.06 * (i % 3 - 1) for i in range(len(row["marks"]))]
        ax.plot(
            [100 * d for d in row["marks"]],
            heights,
            ls="",
            marker="o",
            ms=4.4,
            color=colour,
            alpha=0.75,
            mew=0,
        )
    _rows(ax, list(table["label"]))
    ax.set_xlabel("points of test accuracy")


def draw_curves(table: pd.DataFrame, ax: Axes, colour: str) -> None:
    """Validation accuracy of every trial of one arm by epoch, told apart by how the trial ended.

    Columns: trial, end, epoch, val_accuracy.
    """
    looks: dict[str, dict[str, Any]] = {
        "stopped by ASHA": {"color": "#A9A9A9", "lw": 0.9, "marker": "o"},
        "stopped by the budget": {"color": "#444444", "lw": 1.1, "ls": (0, (4, 2)), "marker": "s"},
        "failed": {"color": "#000000", "lw": 1.1, "ls": (0, (1, 1.5)), "marker": "X"},
        "not ended": {"color": "#444444", "lw": 0.9, "ls": (0, (1, 1)), "marker": ">"},
        "finished": {"color": colour, "lw": 1.2, "marker": "o", "alpha": 0.8},
    }
    handles = []
    for end, look in looks.items():
        ended = table[table["end"] == end]
        if ended.empty:
            continue
        size = 6.0 if end == "failed" else 3.0
        # one path with gaps: a line of its own for each of ten thousand trials takes minutes to draw
        trials = ended["trial"].to_numpy()
        starts = np.flatnonzero(trials[1:] != trials[:-1]) + 1
        epochs = np.insert(ended["epoch"].to_numpy(dtype=np.float64), starts, np.nan)
        heights = np.insert(100 * ended["val_accuracy"].to_numpy(dtype=np.float64), starts, np.nan)
        lasts = [int(end) + gaps - 1 for gaps, end in enumerate([*starts, len(trials)])]
        ax.plot(epochs, heights, ms=size, markevery=lasts, **look)
        count = ended["trial"].nunique()
        handles.append(Line2D([], [], ms=size, label=f"{end} ({count})", **look))
    ax.grid(axis="y")
    if handles:
        ax.legend(handles=handles[::-1], ncols=2, loc="lower left", bbox_to_anchor=(0, 1), handlelength=2)


def draw_spend(table: pd.DataFrame, ax: Axes, palette: Mapping[str, str]) -> None:
    """Resource-seconds per arm, stacked by phase, with each phase's share of the arm's own spend.

    Columns: arm, phase, cost, share.
    """
    seconds = table.groupby("arm", sort=False)["cost"].sum()
    unit, name = (3600, "hours") if seconds.max() >= 3 * 3600 else (60, "minutes")
    phases = [p for p in table["phase"].unique() if table.loc[table["phase"] == p, "cost"].sum() > 0]
    booked = {(r["arm"], r["phase"]): (r["cost"], r["share"]) for r in _records(table)}
    arms = [str(arm) for arm in seconds.index]
    for y, arm in enumerate(arms):
        left = 0.0
        for phase in phases:
            cost, share = booked[arm, phase]
            face = _shade(palette[arm], phases.index(phase), len(phases))
            ax.barh(y, cost / unit, left=left / unit, height=0.62, color=face, edgecolor="white", lw=1)
            if cost / seconds.max() > 0.1:
                ink = "white" if _dark(face) else "black"
                ax.text(
                    (left + cost / 2) / unit, y, f"{100 * share:.0f} %", ha="center", va="center", color=ink
                )
            left += cost
    _rows(ax, arms)
    ax.set_xlabel(f"resource-{name}")
    handles = [Patch(color=_shade("#444444", i, len(phases)), label=p) for i, p in enumerate(phases)]
    if handles:
        ax.legend(
            handles=handles, ncols=3, loc="upper left", bbox_to_anchor=(0, -0.42 / (0.5 * len(seconds) + 0.3))
        )


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def forest(
    accuracies: pd.DataFrame, differences: pd.DataFrame, rope: float, palette: Mapping[str, str]
) -> Figure:
    """Accuracies above, differences below, each with its own scale."""
    heights = [0.62 * len(accuracies) + 0.2, 0.62 * len(differences) + 0.2]
    figure = _figure(sum(heights) + 1.8)
    parts: Any = figure.subfigures(2, 1, height_ratios=[h + 0.9 for h in heights])
    top, bottom = parts
    _title(top, "Test accuracy, default and net in hand: runs, mean, 95 %")
    draw_forest(accuracies, top.subplots(), palette)
    dots = "; dots: pairs" if any(len(marks) for marks in differences["marks"]) else ""
    _title(bottom, f"Difference{dots}; grey: the ±{100 * rope:g} pt called equal")
    draw_differences(differences, rope, bottom.subplots(), palette)
    return _laid_out(figure)


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def curves(epochs: pd.DataFrame, palette: Mapping[str, str]) -> Figure:
    """One panel per arm, axes shared."""
    figure = _figure(2.5 * len(palette) + 0.6)
    _title(figure, "Validation accuracy of every trial (optimistic)")
    panels = figure.subplots(len(palette), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, (arm, colour) in zip(panels, palette.items(), strict=True):
        draw_curves(epochs[epochs["arm"] == arm], ax, colour)
        ax.set_ylabel(f"{arm}, %", color=colour, fontweight="bold")
    panels[-1].set_xlabel("epochs")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return _laid_out(figure)


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def spend(table: pd.DataFrame, palette: Mapping[str, str]) -> Figure:
    """One bar per arm."""
    figure = _figure(0.5 * len(palette) + 1.8)
    _title(figure, "Cost per arm by phase, and its share")
    draw_spend(table, figure.subplots(), palette)
    return _laid_out(figure)


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same ink."""
    return _bytes(figure, "svg")


def png(figure: Figure) -> bytes:
    """The figure as PNG, 200 dots per inch."""
    return _bytes(figure, "png")


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")


def _laid_out(figure: Figure) -> Figure:
    """Layout is found once, so that SVG and PNG are the same picture (and it is slow)."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _title(figure: FigureBase, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=10.5, fontweight="bold")


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def _bytes(figure: Figure, kind: str) -> bytes:
    target = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",))
    figure.savefig(target, format=kind, dpi=200, metadata=metadata)
    return target.getvalue()


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _rows(ax: Axes, labels: list[str]) -> None:
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.06)


def _shade(colour: str, step: int, steps: int) -> tuple[float, float, float]:
    strength = 0.25 + 0.75 * (step + 1) / steps
    r, g, b = (1 - strength * (1 - c) for c in colors.to_rgb(colour))
    return r, g, b


def _dark(colour: tuple[float, float, float]) -> bool:
    r, g, b = colour
    return 0.299 * r + 0.587 * g + 0.114 * b < 0.55
