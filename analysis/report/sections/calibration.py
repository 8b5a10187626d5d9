"""Can a net's confidence be believed: reliability, and the expected calibration error."""

from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import outputs
from analysis.report import figures
from analysis.report.section import Context, Drawing, Part, Section, Table, sentence
from analysis.results import in_hand_runs
from analysis.statistics.calibration import BINS, Bins, bins, expected_by_chance
from analysis.statistics.intervals import Refused
from study.protocol.rundir import RunDir
from study.protocol.text import percent

SMALLEST_BIN = 10
"""Images below which a bin is not drawn."""


def section(context: Context) -> Section | None:
    """Of each arm's net in hand."""
    evidence = context.evidence
    if not evidence.named:
        return None
    drawn: dict[str, Bins] = {}
    rows, text, facts = [], [], {}
    for arm, named in evidence.named.items():
        try:
            confidence = _confidence(context, arm)
        except Refused as refusal:
            text.append(f"{arm} is left out. {sentence(refusal)}")
            continue
        right = named == evidence.labels
        drawn[arm] = bins(confidence, right)
        errors = [bins(c, r).error for c, r in zip(confidence, right, strict=True)]
        chance = expected_by_chance(confidence[0])
        lead = float(confidence.mean() - right.mean())
        rows.append(
            (
                arm,
                percent(float(np.mean(errors)), 1),
                f"{100 * min(errors):.1f} to {100 * max(errors):.1f} ({len(errors)})",
                percent(chance, 1),
                percent(float(confidence.mean()), 1),
                percent(float(right.mean()), 1),
                f"{'over' if lead > 0 else 'under'}confident by {100 * abs(lead):.1f} pt",
            )
        )
        facts[arm] = {
            "ece": errors, "ece_by_chance": chance, "confidence": float(confidence.mean()), "accuracy": float(right.mean()),
        }  # fmt: skip
    head = ("", "ECE", "of the runs", "by chance", "confidence", "accuracy", "on average")
    return Section(
        title="Can the confidence be believed?",
        drawing=Drawing("reliability", partial(draw, drawn, context.palette)) if drawn else None,
        text=tuple(text),
        tables=(Table(head=head, rows=tuple(rows)),) if rows else (),
        note="Confirmation runs of the nets in hand, test images. Confidence is the probability of the class that a net names. "
        f"Expected calibration error (Naeini et al. 2015; {BINS} equal bins as in Guo et al. 2017, arXiv:1706.04599): mean gap between "
        "confidence and accuracy over the bins; by chance: what a perfectly calibrated net with these confidences would show on so "
        "many images. Below the diagonal a net is surer than it is right.",
        facts=facts,
    )


def _confidence(context: Context, arm: str) -> NDArray[np.float64]:
    """(runs, images): the probability of the class that is named."""
    evidence = context.evidence
    shape = len(evidence.labels), len(evidence.plan.data.classes)
    trials = [
        t.id for t in in_hand_runs(evidence.history, arm, evidence.look) if t.id in evidence.history.scores
    ]
    rows: list[Any] = []
    for trial, named in zip(trials, evidence.named[arm], strict=True):
        soft = outputs.probabilities(RunDir(context.run).prediction(trial), shape)
        rows.append(np.clip(np.take_along_axis(soft, named[:, None], axis=1)[:, 0].astype(np.float64), 0, 1))
    return np.stack(rows)


@figures.styled
def draw(found: dict[str, Bins], palette: figures.Palette) -> Figure:
    """Accuracy against confidence, bin by bin, all runs of an arm together."""
    figure = figures.new(4.2)
    ax = figure.subplots()
    figures.title(figure, "Accuracy by confidence, net in hand")
    ax.plot([0, 100], [0, 100], color=figures.GREY, lw=1, ls="--")
    for i, (arm, own) in enumerate(found.items()):
        held = own.images >= SMALLEST_BIN
        ax.plot(
            100 * own.confidence[held],
            100 * own.accuracy[held],
            marker=figures.MARKS[i % 4],
            ms=5,
            lw=1.6,
            color=palette[arm],
            label=arm,
        )
    ax.set_xlabel("confidence of the class that is named (%)")
    ax.set_ylabel("named rightly (%)")
    ax.set_xlim(0, 101)
    ax.set_ylim(0, 101)
    ax.grid(axis="both")
    figure.legend(loc="outside lower left", ncols=3)
    return figures.laid_out(figure)


PART = Part(order=48, build=section, key="calibration")
