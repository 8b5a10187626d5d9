"""The post's three explanations, tested: regularisation, time, and the size of the data set.

They are claims about ResNet-50 and ResNeXt-50, so the report shows them only where both take part; verdict.json has the
numbers of every study.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.section import Context, Part, Section, Table, again, against_leader, rule
from analysis.results import Evidence
from analysis.statistics.intervals import Reals, Refused, welch
from analysis.statistics.tunability import gap_differences, generalisation_gaps
from study.protocol.text import level, percent, points

THE_POSTS_ARMS = {"resnet50", "resnext50"}
ABOUT_30_PERCENT = 1.15, 1.45
"""Ratios of time that count as the post's "about 30 % longer" for ResNeXt-50 than for ResNet-50."""
FRACTIONS = (0.1, 0.3)
"""Of the training images, in the follow-up studies."""


def section(context: Context) -> Section:
    evidence, found = context.evidence, context.found
    couples = against_leader(evidence, found)
    runs = _full_runs(evidence)
    text, facts = [*rule(evidence, found)], []
    for first, second, confidence in couples:
        said, gaps = _regularisation(runs, first, second, confidence)
        timed, ratio = _time(evidence, first, second, confidence)
        text += [*said, timed]
        facts.append({"first": first, "second": second, "gap_differences": gaps, "epoch_time": ratio})
    table = generalisation_gaps(runs)
    rows = tuple(
        (
            f"{r['arm']}, {r['kind']}",
            str(r["runs"]),
            points(r["train"]),
            points(r["val"]),
            points(r["gap"], sign=True),
            "–"
            if math.isnan(r["low"])
            else f"{points(r['low'], sign=True)} to {points(r['high'], sign=True)}",
        )
        for r in table.to_dict("records")
    )
    fraction = evidence.plan.train_fraction
    used = "" if fraction == 1 else f" This study trained on {percent(fraction, 0)} of them."
    text.append(
        "Data-set size: one study cannot tell whether the answer changes with the number of training images."
        f"{used} These two would, asked like this one:"
    )
    head = ("accuracy, %", "runs", "training", "validation", "gap", "95 % interval")
    return Section(
        title="The post's reasons, tested",
        shown=set(evidence.plan.arms) >= THE_POSTS_ARMS,
        text=tuple(text),
        tables=(Table(head=head, rows=rows),) if rows else (),
        commands=tuple(again(evidence.plan, "--train-fraction", f"{f:g}") for f in FRACTIONS),
        note="Training accuracy is the running one of the last epoch, on augmented images: compare the arms, not the "
        "size of a gap. Confirmed: the chosen settings, which may regularise differently; random slice: the same "
        "random settings for both."
        if rows
        else "",
        facts={"gaps": table.to_dict("records"), "pairs": facts, "sentences": text},
    )


def _full_runs(evidence: Evidence) -> pd.DataFrame:
    history, rows = evidence.history, []
    for arm in evidence.plan.arms:
        for trial in history.full_length(arm, "confirm"):
            last = history.epochs[trial.id][-1]
            rows.append((arm, "confirmed", last.train_accuracy, last.val_accuracy))
        rows += [
            (arm, "random slice", d.train, d.val_accuracy)
            for d in evidence.slices.get(arm, ())
            if d.train is not None and d.val_accuracy is not None
        ]
    return pd.DataFrame(rows, columns=["arm", "kind", "train_accuracy", "val_accuracy"])


def _regularisation(
    runs: pd.DataFrame, first: str, second: str, confidence: float
) -> tuple[list[str], list[dict[Any, Any]]]:
    found: list[dict[Any, Any]] = gap_differences(runs, first, second, confidence=confidence).to_dict(
        "records"
    )
    said = []
    for row in found:
        larger, smaller = (first, second) if row["delta"] > 0 else (second, first)
        train, val = (row[x] if row["delta"] > 0 else -row[x] for x in ("train", "val"))
        seen = (
            f"as it would be if {smaller} regularised more. By the point values most of it comes from "
            f"{'training' if train > -val else 'validation'} accuracy: {larger} minus {smaller} is "
            f"{points(train, sign=True)} pt in training and {points(val, sign=True)} pt in validation"
            if row["low"] > 0 or row["high"] < 0
            else "the interval includes 0, so which arm's gap is the larger is open"
        )
        low, high = (row["low"], row["high"]) if row["delta"] > 0 else (-row["high"], -row["low"])
        size = points(abs(row["delta"]))
        than = (
            f"the same for {larger} as for {smaller}"
            if size == points(0)
            else f"{size} pt larger for {larger} than for {smaller}"
        )
        said.append(
            f"Regularisation, {row['kind']} runs: the gap from training to validation accuracy is "
            f"{than} ({level(confidence)} interval {points(low, sign=True)} to {points(high, sign=True)}); {seen}."
        )
    if not found:
        few = (
            f"Regularisation of {first} and {second} cannot be compared: it takes two full runs of each, "
            "confirmed or random, and gaps that vary."
        )
        said = [few]
    return said, found


def epoch_seconds(evidence: Evidence, arm: str) -> Reals:
    """Mean measured seconds per epoch, training and validation, of every full baseline run of the arm."""
    runs = [evidence.history.epochs[t.id] for t in evidence.history.full_length(arm, "baseline")]
    return np.array([np.mean([e.train_seconds + e.eval_seconds for e in run]) for run in runs], np.float64)


def _time(
    evidence: Evidence, first: str, second: str, confidence: float
) -> tuple[str, dict[str, float | str] | None]:
    """The ratio of the arm that the post calls slower to the other; interval on the log scale, over runs."""
    slow, fast = (
        (first, second) if "resnext" in first.lower() and "resnext" not in second.lower() else (second, first)
    )
    a, b = epoch_seconds(evidence, slow), epoch_seconds(evidence, fast)
    try:
        if (np.concatenate([a, b]) <= 0).any():
            raise Refused("an epoch took no time")
        e = welch(np.log(a), np.log(b), confidence=confidence)
    except Refused:
        return f"Time: not known for {slow} and {fast}; it takes two full baseline runs of each.", None
    ratio, low, high = (math.exp(x) for x in (e.delta, e.low, e.high))
    said = (
        f"Time: at the default setting an epoch of {slow} takes {ratio:.2f} times as long as one of {fast} "
        f"({level(confidence)} interval {low:.2f} to {high:.2f}, over {len(a)} and {len(b)} runs)"
    )
    if "resnext" in slow.lower() and "resnet" in fast.lower():
        about, even = ABOUT_30_PERCENT, low <= 1 <= high
        agrees = (
            "agrees with"
            if about[0] <= low and high <= about[1]
            else "does not agree with"
            if high < about[0] or low > about[1]
            else "does not contradict"
        )
        said += f", which {agrees} the post's “about 30 % longer”"
        said += "; equal times are not excluded either." if even else "."
    else:
        said += "; the post's “about 30 % longer” is about other arms."
    audits = evidence.plan.audits
    audited = audits[fast].images_per_second / audits[slow].images_per_second
    if not low <= audited <= high:
        said += (
            f" The images/s that the arms were measured at before the study, in training steps alone, would give "
            f"{audited:.2f}: an epoch has validation and loading too, and other trials beside it."
        )
    return said, {"slower": slow, "faster": fast, "ratio": ratio, "low": low, "high": high}


PART = Part(order=120, build=section, key="generalisation")
