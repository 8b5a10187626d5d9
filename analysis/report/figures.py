"""What all figures share: style, colours, layout, and their bytes. Each section draws its own.

Okabe-Ito colours, one per arm everywhere, never the only mark. Figures are narrow (5.2 in) so that their
text stays readable on a phone. The same table gives the same SVG bytes.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
WIDTH = 5.2
"""Inches. At 370 CSS pixels, a phone's column, 10 pt text is still 10 pixels high."""
TITLE = 56
"""Characters of a bold title on one line of the common width."""
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
Palette = Mapping[str, str]
"""Arm -> its colour."""
GREY = "#555555"
MARKS = ("o", "s", "^", "v")
styled = mpl.rc_context(STYLE)  # type: ignore[arg-type]
"""Decorates a function that makes a figure."""


def colours(arms: Sequence[str]) -> dict[str, str]:
    """One colour per arm in the order of the plan; a study of more than seven arms repeats them."""
    return {arm: OKABE_ITO[i % len(OKABE_ITO)] for i, arm in enumerate(arms)}


def new(height: float) -> Figure:
    """An empty figure of the common width, ``height`` in inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")


def title(figure: FigureBase, text: str) -> None:
    """``text`` over the figure, in as many lines as the common width makes of it."""
    figure.suptitle(textwrap.fill(text, TITLE), x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def rows(ax: Axes, labels: list[str]) -> None:
    """One labelled row per entry, the first on top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.06)


def laid_out(figure: Figure) -> Figure:
    """Compute the layout once: it is slow, and SVG and PNG must be the same picture."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # "none" leaves a placeholder, for which every save draws twice
    return figure


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same ink."""
    return _bytes(figure, "svg")


def png(figure: Figure) -> bytes:
    """The figure as PNG, 200 dots per inch."""
    return _bytes(figure, "png")


@styled
def _bytes(figure: Figure, kind: str) -> bytes:
    target = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",))
    figure.savefig(target, format=kind, dpi=200, metadata=metadata)
    return target.getvalue()
