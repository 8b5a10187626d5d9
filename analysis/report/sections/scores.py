"""Every score of the nets in hand: the metrics that a study can be judged by, and F1 and AUC, which carry no verdict."""

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis import npz
from analysis.report.section import Context, Part, Section, Table, sentence
from analysis.results import Evidence, fell_short, in_hand_runs
from analysis.runs import Judge
from analysis.statistics import macro
from analysis.statistics.intervals import Estimate, Refused, mean_score
from study.protocol.metrics import METRICS, TOP, Metric, log_probabilities
from study.protocol.rundir import RunDir

TITLE = "The nets in hand by every score"
MOST = 5 * 10**7
"""Probabilities of one arm's runs above which AUC, which sorts them, is left out."""


def section(context: Context) -> Section:
    """Not shown before an arm has two scored runs with probabilities."""
    found: dict[str, dict[str, Estimate]] = {}
    text = []
    for arm in context.evidence.tuned:
        try:
            found[arm] = _scores(context.run, context.evidence, arm)
        except Refused as refusal:
            text.append(f"{arm}: {sentence(refusal)}")
    if not found:
        return Section(title=TITLE, shown=False)
    kinds = {kind: None for own in found.values() for kind in own}
    rows = tuple((_name(kind), *(_shown(kind, own.get(kind)) for own in found.values())) for kind in kinds)
    return Section(
        title=TITLE,
        text=tuple(text),
        tables=(Table(head=("test score (95 %)", *found), rows=rows),),
        note=f"The study was judged by {context.metric.kind}, which was chosen before its first trial; the others are shown and "
        "decide nothing. F1 and AUC are means over classes, with a jackknife interval over images and runs. Each interval is for "
        "new images and new runs of that arm by itself: two that overlap may still differ.",
        facts={arm: {kind: asdict(e) for kind, e in own.items()} for arm, own in found.items()},
    )


def _name(kind: str) -> str:
    return (
        METRICS[kind].axis if kind in METRICS else {"f1": "F1, macro", "auc": "AUC, one against rest"}[kind]
    )


def _shown(kind: str, e: Estimate | None) -> str:
    if e is None:
        return "–"
    if kind in METRICS:
        return f"{METRICS[kind].shown(e.delta)} ({METRICS[kind].span(e.low, e.high)})"
    return f"{e.delta:.4f} ({e.low:.4f} to {e.high:.4f})"


def _metrics(labels: NDArray[np.int64], classes: int) -> list[Metric]:
    counts = np.bincount(labels, minlength=classes)
    return [
        m
        for m in METRICS.values()
        if not (m.name == "top5" and classes <= TOP) and not (m.by_class and counts[counts > 0].min() < 2)
    ]


def _scores(run: Path, evidence: Evidence, arm: str) -> dict[str, Estimate]:
    """By the name of the metric, ``f1`` and ``auc``. Raises Refused where that cannot be known."""
    history, classes = evidence.history, len(evidence.plan.data.classes)
    trials = [t.id for t in in_hand_runs(history, arm, evidence.look)]
    scored = [t for t in trials if t in history.scores]
    if len(scored) < 2:
        raise Refused("it takes two scored runs of the net in hand to know its other scores")
    tables: dict[str, list[NDArray[np.float64]]] = {}
    leaves: dict[str, list[macro.Leaves]] = {"f1": [], "auc": []}
    failed = sum(fell_short(history, t) for t in trials)
    labels, _ = _read(RunDir(run).prediction(scored[0]), classes)
    judged, shares = _metrics(labels, classes), np.bincount(labels, minlength=classes) / len(labels)
    guess = np.broadcast_to(log_probabilities(shares), (len(labels), classes))
    for name in [*scored, *[""] * failed]:  # a failed run says the shares of the classes
        logs = _read(RunDir(run).prediction(name), classes)[1] if name else guess
        for metric in judged:
            tables.setdefault(metric.name, []).append(metric.scores(logs, labels).astype(np.float64))
        leaves["f1"].append(macro.f1(logs.argmax(axis=1), labels, classes))
        if math.prod(logs.shape) * len(trials) <= MOST:
            leaves["auc"].append(macro.auc(logs, labels))
    found = {
        m.name: mean_score(
            np.stack(tables[m.name]),
            **Judge(metric=m, sampling=m.sampling(labels, evidence.judge.sampling.groups)).how,
            ends=(m.worst, m.best),
        )
        for m in judged
    }
    return found | {kind: macro.jackknife(own) for kind, own in leaves.items() if own}


def _read(path: Path, classes: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels and log-probabilities. Raises Refused without them."""
    try:
        found, _ = npz.read(path, ("labels",), npz.PROBABILITIES)
        labels, soft = found["labels"].astype(np.int64), npz.probabilities(found)
    except (npz.ArraysError, KeyError) as error:
        raise Refused(f"the file {path.name} has no probabilities that can be read") from error
    if soft is None or soft.dtype.kind != "f" or soft.shape != (len(labels), classes) or np.isnan(soft).any():
        raise Refused(f"the file {path.name} has no probabilities that can be read")
    return labels, log_probabilities(soft)


PART = Part(order=25, build=section, key="scores")
