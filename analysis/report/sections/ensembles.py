"""Ensembles of the confirmation runs, from their stored probabilities, which no other section reads."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from analysis import outputs
from analysis.report.section import Context, Part, Section, Table, against_leader, rule, sentence
from analysis.results import Evidence, in_hand_runs
from analysis.statistics.ensembles import Labels, Probabilities, compare, mixing_helps
from analysis.statistics.intervals import Refused
from study.protocol.rundir import RunDir
from study.protocol.text import counted, level, listed, percent, points


def section(context: Context) -> Section:
    """Same arm against mixed, at equal member count and at equal compute, and how differently nets err."""
    run, evidence, found = context.run, context.evidence, context.found
    text: list[str] = [*rule(evidence, found)]
    facts: list[dict[str, Any]] = []
    tables: list[Table] = []
    for first, second, confidence in against_leader(evidence, found):
        try:
            said, made, own = _pair(run, evidence, first, second, confidence)
        except Refused as refusal:
            text.append(f"Ensembles of {first} and {second} are not compared. {sentence(refusal)}")
            continue
        text.append(said)
        tables += made
        facts.append({"first": first, "second": second} | own)
    return Section(
        title="Ensembles",
        text=tuple(text),
        tables=tuple(tables),
        note="An ensemble names the class with the highest mean probability over its members, the runs of the setting in hand; "
        "each number is a mean over the ensembles that these runs can form. Training cost is in full runs of the cheaper arm, and "
        "sets what equal compute is. Intervals are for new images and new runs; a dash marks ensembles that need all runs, so "
        "that nothing shows how runs vary. A failed run cannot be a member."
        if tables
        else "",
        facts={"pairs": facts, "sentences": text},
    )


def _pair(
    run: Path, evidence: Evidence, first: str, second: str, confidence: float
) -> tuple[str, list[Table], dict[str, Any]]:
    (a, labels), (b, _) = _load(run, evidence, first), _load(run, evidence, second)
    one, other = evidence.tuned[first].full_run, evidence.tuned[second].full_run
    assert one is not None  # a study knows its own
    assert other is not None
    costs = one, other
    try:
        made = compare(a, b, labels, names=(first, second), costs=costs, confidence=confidence)
    except ValueError as error:
        raise Refused(str(error)) from error
    sizes = mixing_helps(made.contrasts)
    said = f"{first} and {second}: " + (
        f"mixed ensembles of {listed([str(m) for m in sizes])} beat both arms' own of that size at {level(confidence)}, "
        "each size by itself: a sign that the arms err differently."
        if sizes
        else f"at no size does a mixed ensemble beat both arms' own at {level(confidence)}; whether one would is open."
    )
    differ = [f"{d['pair']} {percent(d['disagreement'], 1)}" for d in made.diversity.to_dict("records")]
    said += f" Two nets name different classes on this share of the images: {listed(differ)}."
    accuracies = tuple(
        (
            f"{counted(r['members'], 'net')}, {r['kind']}",
            points(r["accuracy"]),
            _between(r["low"], r["high"], sign=False),
            f"{r['cost'] / min(costs):.1f}",
        )
        for r in made.accuracies.to_dict("records")
    )
    contrasts = tuple(
        (
            f"equal {r['matched']}: {r['label']}",
            points(r["delta"], sign=True),
            _between(r["low"], r["high"], sign=True),
        )
        for r in made.contrasts.to_dict("records")
    )
    interval = f"{level(confidence)} interval"
    tables = [Table(head=("test accuracy, %", "mean", interval, "training cost"), rows=accuracies)]
    if contrasts:
        tables.append(Table(head=("mixed minus own", "points", interval), rows=contrasts))
    return said, tables, {name: table.to_dict("records") for name, table in vars(made).items()}


def _load(run: Path, evidence: Evidence, arm: str) -> tuple[Probabilities, Labels]:
    """(runs, images, classes) of the arm's scored runs of its net in hand, and the labels.

    Raises Refused when there are fewer than two, or a file has no probabilities of the right kind.
    """
    scores = evidence.history.scores
    names = [t.id for t in in_hand_runs(evidence.history, arm, evidence.look) if t.id in scores]
    if len(names) < 2:
        raise Refused(f"it takes two scored confirmation runs of {arm}")
    shape = len(evidence.labels), len(evidence.plan.data.classes)
    nets = np.empty((0, *shape))
    for place, name in enumerate(names):
        net = outputs.probabilities(RunDir(run).prediction(name), shape)
        if not place:  # filled net by net: with 10,000 classes a second copy of all would be a gigabyte
            nets = np.empty((len(names), *shape), dtype=net.dtype)
        nets[place] = net
    return nets, evidence.labels


def _between(low: float, high: float, *, sign: bool) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{points(low, sign=sign)} to {points(high, sign=sign)}"


PART = Part(order=130, build=section, key="ensembles")
