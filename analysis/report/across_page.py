"""``across.html`` with its forest plot, and ``across.json``: the studies of several data sets on one page."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.across import Across, Joined, Row
from analysis.report import figures, pages
from analysis.report.section import Drawing, Section, Table, plain
from analysis.report.sections.default_tuned import draw_differences
from study.protocol import rundir
from study.protocol.errors import StudyError
from study.protocol.metrics import METRICS
from study.protocol.text import level

HTML, JSON = "across.html", "across.json"
FORMAT = 1


def write(joined: Joined, folder: Path) -> Path:
    """Write the page and its facts into ``folder`` and return the page's path.

    Raises StudyError where the folder cannot be written.
    """
    several = len(joined.pairs) > 1
    sections = [_section(pair, number, several) for number, pair in enumerate(joined.pairs)]
    svg = {s.drawing.name: figures.svg(s.drawing.draw()) for s in sections if s.drawing}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rundir.write(folder / HTML, pages.across(joined, sections, svg))
        rundir.write(folder / JSON, json.dumps(facts(joined), indent=1, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise StudyError(f"the page cannot be written to {folder}: {error.strerror}") from error
    return folder / HTML


def facts(joined: Joined) -> dict[str, object]:
    """What the page says, for programs: fractions and seconds, unknown values null."""
    return {
        "format": FORMAT,
        "headline": joined.headline,
        "arms": list(joined.arms),
        "metric": joined.metric,
        "pairs": [plain(asdict(pair)) for pair in joined.pairs],
        "notes": list(joined.notes),
        "scope": joined.scope,
    }


def _section(pair: Across, number: int, several: bool) -> Section:
    """The sentence of an only pair is the headline above."""
    rows = [row for row in pair.rows if row.counts]
    joint, spread, metric = pair.pooled, "", METRICS[pair.metric]
    if joint is not None:
        spread = (
            f"Mean difference {metric.gap_of(joint.mean.delta, sign=True)}, standard error {metric.gap(joint.mean.se)} "
            f"({joint.mean.df:.0f} degrees of freedom). Standard deviation between data sets {metric.gap(joint.tau)} "
            f"({level(joint.mean.confidence)}: {metric.number(joint.tau_low)} to {metric.number(joint.tau_high)})."
        )
    head = (
        "data set",
        "answer",
        f"difference, {metric.unit}" if metric.unit else "difference",
        "interval",
        "pairs",
        "p",
        "p by Holm",
        "weight",
        "one search",
        "run",
    )
    return Section(
        title=metric.minus(pair.first, pair.second),
        drawing=Drawing(f"forest{number}", partial(_forest, pair)) if rows else None,
        text=tuple(filter(None, (pair.sentence if several else "", spread))),
        tables=(Table(head=head, rows=tuple(_cells(row, pair) for row in pair.rows)),),
        note="Each row is that study's own answer, with its own interval. p by Holm is adjusted over the data sets, for claims about "
        "single sets. The mean is that of a random-effects model (REML; Hartung-Knapp interval, widened for errors that few pairs leave open: METHOD.md 9); the wide bar is the "
        "interval for the true difference on the next data set."
        if joint is not None
        else "Each row is that study's own answer, with its own interval. p by Holm is adjusted over the data sets.",
    )


def _cells(row: Row, pair: Across) -> tuple[str, ...]:
    weight = "–"
    if pair.pooled is not None and row.counts:
        place = [r for r in pair.rows if r.counts].index(row)
        weight = f"{100 * pair.pooled.weights[place]:.0f} %"
    span = delta = "–"
    if row.delta is not None and row.low is not None and row.high is not None:
        metric = METRICS[pair.metric]
        delta = metric.number(row.delta, sign=True)
        span = f"{metric.number(row.low, sign=True)} to {metric.number(row.high, sign=True)}"
        if len({r.level for r in pair.rows}) > 1:
            span += f" ({level(row.level)})"
    chances = (f"{p:.3g}" if p is not None else "–" for p in (row.p, row.holm_p))
    return (row.data, row.verdict, delta, span, str(row.pairs), *chances, weight, row.search, row.run)


@figures.styled
def _forest(pair: Across) -> Figure:
    """One row per data set, then the mean and what to expect next; in points."""
    rows = [row for row in pair.rows if row.counts]
    marks: list[dict[str, object]] = [
        {
            "label": row.data,
            "arm": "",
            "filled": True,
            "delta": row.delta,
            "low": row.low,
            "high": row.high,
            "marks": [],
        }
        for row in rows
    ]
    if (joint := pair.pooled) is not None:
        for label, low, high in (
            ("mean", joint.mean.low, joint.mean.high),
            ("next data set", joint.next_low, joint.next_high),
        ):
            marks.append(
                {
                    "label": label,
                    "arm": label,
                    "filled": label == "mean",
                    "delta": joint.mean.delta,
                    "low": low,
                    "high": high,
                    "marks": [],
                }
            )
    figure = figures.new(0.5 * len(marks) + 1.2)
    figures.title(figure, f"{METRICS[pair.metric].minus(pair.first, pair.second)}, by data set")
    blue, orange = figures.OKABE_ITO[:2]
    palette = {"mean": blue, "next data set": orange}
    draw_differences(pd.DataFrame(marks), 0.0, figure.subplots(), palette, METRICS[pair.metric])
    return figures.laid_out(figure)
