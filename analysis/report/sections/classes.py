"""Class by class: how much of each class a net finds, and how much of what it calls so is."""

import math
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.report import figures
from analysis.report.section import Context, Drawing, Part, Section, Table
from analysis.statistics import by_class
from study.protocol.text import counted, listed

SHOWN = 20
"""Most classes in the figure and the tables: with more, those that are found least."""


def section(context: Context) -> Section | None:
    """Recall and precision of each arm's net in hand."""
    evidence = context.evidence
    if not evidence.named:
        return None
    classes, labels = evidence.plan.data.classes, evidence.labels
    recalls = [by_class.recalls(labels, named, len(classes)) for named in evidence.named.values()]
    tested = np.unique(labels)
    rows = sorted(tested[np.argsort(np.mean(recalls, axis=0)[tested], kind="stable")][:SHOWN].tolist())
    found = {arm: by_class.table(labels, named, rows) for arm, named in evidence.named.items()}
    names = [classes[c] for c in rows]
    said = listed([f"{arm} {counted(len(named), 'run')}" for arm, named in evidence.named.items()])
    text = [f"The confirmation runs of the nets in hand that left a net: {said}. Test images only."]
    if len(tested) > SHOWN:
        text.append(
            f"Shown are the {SHOWN} of {len(tested)} classes that are found least; `python -m analysis tables` has every "
            "prediction."
        )
    if absent := len(classes) - len(tested):
        text.append(f"{counted(absent, 'class', 'classes')} without test images left out.")
    tables = [
        Table(
            head=(f"{kind}, % (images)", *found),
            rows=tuple(
                (f"{name} ({(labels == c).sum()})", *(_cell(own, row, kind) for own in found.values()))
                for row, (c, name) in enumerate(zip(rows, names, strict=True))
            ),
        )
        for kind in ("recall", "precision")
    ]
    return Section(
        title="Class by class",
        drawing=Drawing("classes", partial(draw, found, names, context.palette)),
        text=tuple(text),
        tables=tuple(tables),
        note="Recall: of the images of a class, the share that is named so. Precision: of the images that are named so, the share that "
        "is of the class. Means over the runs. In brackets the 95 % interval for new runs and new images of the class, from the crossed "
        "variance (precision: of the ratio's linear form); each holds by itself, so of 20 intervals one misses by chance. A dash: "
        "one run or one image, which shows no spread.",
        facts={
            arm: [{"class": name} | row for name, row in zip(names, figures.records(own), strict=True)]
            for arm, own in found.items()
        },
    )


def _cell(table: pd.DataFrame, row: int, kind: str) -> str:
    value, low, high = (100 * float(table[f"{kind}{end}"][row]) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "never named"
    return f"{value:.1f} (–)" if math.isnan(low) else f"{value:.1f} ({low:.0f} to {high:.0f})"


@figures.styled
def draw(found: dict[str, pd.DataFrame], names: list[str], palette: figures.Palette) -> Figure:
    """Recall of each class: a row with a mark and an interval per arm."""
    figure = figures.new(0.24 * len(names) * max(1.4, len(found)) + 1.3)
    ax = figure.subplots()
    figures.title(figure, "Recall on the test images, net in hand: mean, 95 %")
    step = 0.8 / len(found)
    for i, (arm, table) in enumerate(found.items()):
        for y, row in enumerate(figures.records(table)):
            at, colour = y + (i - (len(found) - 1) / 2) * step, palette[arm]
            ax.plot([100 * row["recall_low"], 100 * row["recall_high"]], [at, at], color=colour, lw=1.8)
            ax.plot(
                100 * row["recall"],
                at,
                marker=figures.MARKS[i % 4],
                ms=5,
                color=colour,
                ls="",
                label=arm if y == 0 else None,
            )
    figures.rows(ax, [name if len(name) <= 24 else f"{name[:23]}…" for name in names])
    ax.set_xlim(right=min(ax.get_xlim()[1], 101))
    ax.set_xlabel("recall (%)")
    figure.legend(loc="outside lower left", ncols=3)
    return figures.laid_out(figure)


PART = Part(order=42, build=section, key="by_class")
