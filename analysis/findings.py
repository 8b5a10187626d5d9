"""Everything a report says, as plain values: what the evidence gives by the estimators, before any layout."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.estimate import Estimate, Refused, crossed, mean_accuracy, vary, welch
from analysis.evidence import Evidence
from analysis.tunability import Interval, binomial
from analysis.verdict import Runs, Verdict, headline, judge_all, scope
from study.records import Config


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference that is told beside the verdict: first minus second, fractions."""

    label: str
    arm: str
    """Whose colour it has, empty for none."""
    tuned: bool
    estimate: Estimate


@dataclass(frozen=True, kw_only=True)
class Findings:
    """``verdicts`` is empty when there is none; ``headline`` then says why."""

    headline: str
    scope: str
    """What the verdicts hold for; agrees with whether the searches could be compared."""
    verdicts: tuple[Verdict, ...]
    gains: tuple[Contrast, ...]
    """Tuned minus default, per arm."""
    defaults: tuple[Contrast, ...]
    """Default against default, in the pairs and signs of the verdicts."""
    procedures: tuple[Contrast, ...]
    """Search against search (Q3), in the pairs and signs of the verdicts; empty when it was not repeated."""
    unchanged: tuple[str, ...]
    """Arms whose confirmed setting is their default: both rows are then runs of one setting."""


def find(evidence: Evidence) -> Findings:
    """The answer as far as the evidence carries it; a question it cannot answer is left out, not NaN."""
    verdicts: tuple[Verdict, ...] = ()
    if evidence.open:
        told = f"No verdict yet: {'; '.join(evidence.open)}."
    else:
        try:
            runs = [_counted(evidence, arm) for arm in evidence.plan.arms]
            plan, guessing = evidence.plan, evidence.guessing
            verdicts = tuple(
                judge_all(runs, rope=plan.rope, islands=plan.islands, guessing=guessing, plan=plan)
            )
            told = headline(list(verdicts))
        except Refused as refusal:
            told = f"No verdict: {refusal}."
    procedures = tuple(
        found for v in verdicts if (found := _procedure(evidence, v.first, v.second, v.confidence))
    )
    manifest = evidence.history.manifest
    unchanged = tuple(
        arm
        for arm, choice in (manifest.choices.items() if manifest else ())
        if choice.config == default_setting(evidence, arm)
    )
    holds = scope(evidence.plan.islands, estimated=len(procedures) == len(verdicts))
    return Findings(
        headline=told,
        scope=holds,
        verdicts=tuple(replace(v, scope=holds) for v in verdicts),
        gains=tuple(
            found
            for arm in evidence.plan.arms
            if (
                found := _contrast(
                    f"{arm}:\ndefault again" if arm in unchanged else f"{arm}:\ntuned minus default",
                    arm,
                    evidence.tuned.get(arm),
                    evidence.default.get(arm),
                    tuned=True,
                )
            )
        ),
        defaults=tuple(
            found
            for v in verdicts
            if (
                found := _contrast(
                    f"default: {v.first}\n− {v.second}",
                    "",
                    evidence.default.get(v.first),
                    evidence.default.get(v.second),
                    tuned=False,
                )
            )
        ),
        procedures=procedures,
        unchanged=unchanged,
    )


def default_setting(evidence: Evidence, arm: str) -> Config | None:
    """The setting of the arm's baseline runs, None before the first."""
    baseline = evidence.history.of(arm, "baseline")
    return baseline[0].config if baseline else None


def failure_rates(evidence: Evidence) -> dict[str, Interval]:
    """Per arm the share of its confirmation runs that failed; empty when none of any arm did."""
    if not any(runs.guessed for runs in evidence.tuned.values()):
        return {}
    return {arm: binomial(r.guessed, len(r.correct), 0.95) for arm, r in evidence.tuned.items()}


def accuracies(evidence: Evidence) -> pd.DataFrame:
    """One row per arm and setting with scored runs, as ``figures.draw_forest`` wants it, and the sd."""
    rows = []
    for arm in evidence.plan.arms:
        for kind, shelf in (("default", evidence.default), ("tuned", evidence.tuned)):
            if (runs := shelf.get(arm)) is None:
                continue
            try:
                interval: Estimate | None = mean_accuracy(runs.correct)
            except Refused:
                interval = None
            scores = pd.Series(runs.accuracies)
            rows.append(
                {
                    "arm": arm,
                    "kind": kind,
                    "runs": len(scores),
                    "guessed": runs.guessed,
                    "accuracies": list(runs.accuracies),
                    "mean": runs.mean,
                    "median": float(scores.median()),
                    "sd": float(scores.std()),
                    "min": float(scores.min()),
                    "max": float(scores.max()),
                    "low": interval.low if interval else float("nan"),
                    "high": interval.high if interval else float("nan"),
                }
            )
    return pd.DataFrame(rows)


def differences(found: Findings) -> pd.DataFrame:
    """One row per difference, tuned pairs first, as ``figures.draw_differences`` wants it."""
    rows = [
        {"label": f"tuned: {v.first}\n− {v.second}", "arm": "", "filled": True, "delta": v.delta}
        | {"low": v.low, "high": v.high}
        for v in found.verdicts
    ] + [
        {"label": c.label, "arm": c.arm, "filled": c.tuned, "delta": c.estimate.delta}
        | {"low": c.estimate.low, "high": c.estimate.high}
        for c in (*found.procedures, *found.defaults, *found.gains)
    ]
    return pd.DataFrame(rows)


def _counted(evidence: Evidence, arm: str) -> Runs:
    if (runs := evidence.tuned.get(arm)) is None:
        raise Refused(f"no confirmation run of {arm} left a score")
    if not runs.trained:
        raise Refused(_none_trained(runs, "confirmation run"))
    return runs


def _none_trained(runs: Runs, what: str) -> str:
    number = len(runs.correct)
    told = f"all {number} {what}s" if number > 1 else f"the only {what}"
    return f"{told} of {runs.arm} failed, so there is no trained net to compare"


def procedure(evidence: Evidence, first: str, second: str, confidence: float) -> Estimate:
    """Q3: Welch's interval over the independent searches of each arm, one fresh run of each one's find.

    Raises Refused when an arm was searched once, when fewer than two of its searches left a scored run or all of
    these failed, and when no search differs from another of its arm.
    """
    if evidence.plan.islands < 2:
        raise Refused("one search per arm")
    own = []
    for arm in (first, second):
        runs = evidence.islands.get(arm)
        if runs is None or len(runs.correct) < 2:
            left = "none" if runs is None else "only one"
            raise Refused(
                f"{left} of the {evidence.plan.islands} searches of {arm} has a scored run of its own"
            )
        if not runs.trained:
            raise Refused(_none_trained(runs, "search run"))
        own.append(np.array(runs.accuracies))
    if not vary(*own):
        raise Refused(
            "the searches of each arm came out level with each other, so nothing shows how searches vary"
        )
    return welch(*own, confidence=confidence)


def _procedure(evidence: Evidence, first: str, second: str, confidence: float) -> Contrast | None:
    try:
        estimate = procedure(evidence, first, second, confidence)
    except Refused:
        return None
    return Contrast(label=f"search: {first}\n− {second}", arm="", tuned=True, estimate=estimate)


def _contrast(
    label: str, arm: str, first: Runs | None, second: Runs | None, *, tuned: bool
) -> Contrast | None:
    if first is None or second is None or not (first.trained and second.trained):
        return None
    try:
        estimate = crossed(first.correct, second.correct)
    except Refused:
        return None
    return Contrast(label=label, arm=arm, tuned=tuned, estimate=estimate)
