"""What the searches did: how their trials ended, and the settings in hand."""

from collections.abc import Mapping
from typing import Any

from analysis import frames
from analysis.report.section import Context, Part, Section, Table
from analysis.report.sections.health import first_rung, position
from analysis.results import Evidence, in_hand


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


ENDS = frames.ENDS[:-1]
"""Without those that have not ended."""


def _first_rung(evidence: Evidence) -> tuple[str, ...]:
    if not (found := first_rung(evidence)):
        return ()
    said = "; ".join(f"{arm} {words}" for arm, words, _ in found)
    rung = evidence.plan.rungs[0]
    return (
        f"Rank correlation of epoch {rung}, the first rung, with the end, over the random settings: {said}.",
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
