"""What the searches did: how their trials ended, and the settings in hand."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis import frames
from analysis.report.section import Context, Part, Section, Table
from analysis.report.sections.health import position
from analysis.results import Evidence, in_hand
from analysis.statistics.ranks import rank_correlation
from study.protocol.text import counted


def section(context: Context) -> Section:
    evidence = context.evidence
    trials = frames.trials(evidence.history)
    rows = []
    for arm in evidence.plan.arms:
        ends = trials.loc[(trials["arm"] == arm) & (trials["phase"] == "search"), "end"].value_counts()
        rows.append((arm, str(int(ends.sum())), *(str(int(ends.get(end, 0))) for end in ENDS)))
    settings = _settings(evidence)
    return Section(
        title="What the searches did",
        text=(*(() if settings else ("No setting has been frozen yet.",)), *_first_rung(evidence)),
        tables=(
            Table(head=("search trials", "started", *ENDS), rows=tuple(rows)),
            *([Table(head=("setting in hand", *evidence.plan.arms), rows=settings)] if settings else []),
        ),
    )


FEWEST = 5
"""Random settings that a rank correlation takes."""
ENDS = frames.ENDS[:-1]
"""Without those that have not ended."""


def _first_rung(evidence: Evidence) -> tuple[str, ...]:
    """How well the first rung, which stops most trials, ranks settings: over the random ones, which nothing stopped."""
    if not evidence.plan.rungs:
        return ()
    rung, said = evidence.plan.rungs[0], list[str]()
    for arm in evidence.plan.arms:
        finished = evidence.history.full_length(arm, "slice")
        curves = [[e.val_score for e in evidence.history.epochs[t.id]] for t in finished]
        if len(curves) < FEWEST:
            said.append(f"{arm} has {counted(len(curves), 'finished setting')}, too few")
            continue
        first, last = (np.array([curve[at] for curve in curves]) for at in (rung - 1, -1))
        rho, low, high = rank_correlation(first, last)
        said.append(
            f"{arm} {rho:.2f} (95 % {low:.2f} to {high:.2f}, {len(curves)} settings)"
            if math.isfinite(rho)
            else f"{arm} none: all settings are alike at one of the two"
        )
    return (
        f"Rank correlation of epoch {rung}, the first rung, with the end, over the random settings: {'; '.join(said)}.",
    )


def _settings(evidence: Evidence) -> tuple[tuple[str, ...], ...]:
    """One row per parameter: its value in hand per arm, a dash where the arm has no such parameter."""
    chosen = [
        choice.config if (choice := in_hand(evidence.history, arm, evidence.look)) else {}
        for arm in evidence.plan.arms
    ]
    names = dict.fromkeys(name for config in chosen for name in config)
    spaces = [evidence.plan.spaces.get(arm, {}) for arm in evidence.plan.arms]
    each = list(zip(chosen, spaces, strict=True))
    return tuple((name, *(_value(c.get(name), s.get(name, {})) for c, s in each)) for name in names)


def _value(value: object, axis: Mapping[str, Any]) -> str:
    """The value, and for a number where in its range it lies."""
    shown = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    where = position(axis, value)
    return shown if where is None else f"{shown} ({100 * where:.0f} % of its range)"


PART = Part(order=70, build=section)
