"""Learning curves: the validation score of every trial by epoch."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import frames
from analysis.report import figures
from analysis.report.section import Context, Drawing, Part, Section
from study.protocol.metrics import Metric


def section(context: Context) -> Section | None:
    """None before the first epoch."""
    epochs = frames.epochs(context.evidence.history)
    if epochs.empty:
        return None
    return Section(
        title="Learning curves",
        drawing=Drawing("curves", partial(curves, epochs, context.palette, context.metric)),
        note="Every trial of every phase. Validation scores are optimistic, since the search chose by them: they "
        "compare no arms.",
    )


@figures.styled
def curves(epochs: pd.DataFrame, palette: figures.Palette, metric: Metric) -> Figure:
    """One panel per arm, axes shared."""
    figure = figures.new(2.5 * len(palette) + 0.6)
    figures.title(figure, f"Validation {metric.title} of every trial (optimistic)")
    panels = figure.subplots(len(palette), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, (arm, colour) in zip(panels, palette.items(), strict=True):
        draw_curves(epochs[epochs["arm"] == arm], ax, colour, metric)
        unit = "%" if metric.shares else metric.unit
        ax.set_ylabel(f"{arm}, {unit}" if unit else arm, color=colour, fontweight="bold")
    panels[-1].set_xlabel("epochs")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return figures.laid_out(figure)


def draw_curves(table: pd.DataFrame, ax: Axes, colour: str, metric: Metric) -> None:
    """Validation score of every trial of one arm by epoch, by how the trial ended.

    Columns: trial, end, epoch, val_score.
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
        heights = np.insert(metric.drawn(ended["val_score"].to_numpy(dtype=np.float64)), starts, np.nan)
        lasts = [int(end) + gaps - 1 for gaps, end in enumerate([*starts, len(trials)])]
        ax.plot(epochs, heights, ms=size, markevery=lasts, **look)
        count = ended["trial"].nunique()
        handles.append(Line2D([], [], ms=size, label=f"{end} ({count})", **look))
    ax.grid(axis="y")
    if handles:
        ax.legend(handles=handles[::-1], ncols=2, loc="lower left", bbox_to_anchor=(0, 1), handlelength=2)


PART = Part(order=50, build=section)
