"""Which classes are taken for which."""

from functools import partial

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.report import figures
from analysis.report.section import Context, Drawing, Part, Section, Table
from analysis.statistics import by_class

MATRIX = 12
"""Most classes of which whole matrices are drawn."""
LISTED = 12
"""Confusions in the table."""


def section(context: Context) -> Section | None:
    """The most frequent confusions of each arm's net in hand, and with few classes the whole matrices."""
    evidence = context.evidence
    if not evidence.named:
        return None
    classes, labels = evidence.plan.data.classes, evidence.labels
    found = {arm: by_class.confusions(labels, named) for arm, named in evidence.named.items()}
    counts = np.bincount(labels, minlength=len(classes))
    every = {pair for own in found.values() for pair in own}
    most = sorted(every, key=lambda pair: (-max(own.get(pair, 0.0) for own in found.values()), pair))
    rows = tuple(
        (
            f"{classes[a]} → {classes[b]}",
            *(
                f"{own.get((a, b), 0.0):.1f} ({100 * own.get((a, b), 0.0) / counts[a]:.0f} %)"
                for own in found.values()
            ),
        )
        for a, b in most[:LISTED]
    )
    drawing = None
    if len(classes) <= MATRIX:
        matrices = {
            arm: by_class.confusion(labels, named, len(classes)) / np.maximum(counts, 1)[:, None]
            for arm, named in evidence.named.items()
        }
        drawing = Drawing("confusions", partial(draw, matrices, list(classes)))
    text = [] if rows else ["No run took an image for another class."]
    if len(most) > LISTED:
        text = [f"Shown are the {LISTED} most frequent of {len(most)} confusions."]
    return Section(
        title="What is taken for what",
        drawing=drawing,
        text=tuple(text),
        tables=(Table(head=("true → named", *found), rows=rows),) if rows else (),
        note="Test images of the first class that are named as the second, mean over the confirmation runs of each arm's net in "
        "hand, and their share of the class.",
    )


@figures.styled
def draw(matrices: dict[str, NDArray[np.float64]], classes: list[str]) -> Figure:
    """One matrix per arm: rows are true classes, cells the percentage of the row."""
    size = len(classes)
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in classes]
    side = min(0.42 * size + 1.4, figures.WIDTH)
    figure = figures.new(len(matrices) * (side + 0.4))
    axes = figure.subplots(len(matrices), 1, squeeze=False)[:, 0]
    for ax, (arm, matrix) in zip(axes, matrices.items(), strict=True):
        edges = np.arange(size + 1) - 0.5
        ax.pcolormesh(edges, edges, matrix, cmap="Blues", vmin=0, vmax=1.25)
        ax.set(aspect="equal", ylim=(size - 0.5, -0.5))
        for a in range(size):
            for b in range(size):
                if round(100 * matrix[a, b]):
                    dark = "white" if matrix[a, b] > 0.7 else "black"
                    ax.text(
                        b, a, f"{100 * matrix[a, b]:.0f}", ha="center", va="center", fontsize=9, color=dark
                    )
        ax.set_xticks(range(size), names, rotation=90 if size * max(map(len, names)) > 36 else 0)
        ax.set_yticks(range(size), names)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.set_title(arm, loc="left", fontsize=10, fontweight="bold")
        ax.set_ylabel("true class")
        ax.set_xlabel("named class (% of the true one)")
    return figures.laid_out(figure)


PART = Part(order=44, build=section)
