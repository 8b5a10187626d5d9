"""A section of the report: what it shows, as plain values that both templates lay out alike.

Text and cells are already in words; ``facts`` has the numbers behind them, fractions and seconds, for ``verdict.json``.
"""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analysis.report import figures
from analysis.results import Evidence
from analysis.statistics.intervals import Estimate
from analysis.summary import Findings
from study.protocol.metrics import Metric
from study.protocol.plan import Plan
from study.protocol.text import level


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text; the first column names the row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn when it is asked for, and the name of its files."""

    name: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A small image of the test, as a data URI, and lines below it; without the image the lines alone."""

    source: str
    caption: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """Shown in the order of the fields. A question that cannot be answered is a text with the reason."""

    title: str
    drawing: Drawing | None = None
    text: tuple[str, ...] = ()
    """Paragraphs; `backticks` mark code."""
    commands: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    items: tuple[str, ...] = ()
    """A list."""
    warns: bool = False
    """Whether the list is set off as warnings."""
    note: str = ""
    """How to read it."""
    facts: dict[str, Any] = field(default_factory=dict)
    shown: bool = True
    """Whether the pages show it; its facts are in verdict.json in any case."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a section is made from."""

    run: Path
    evidence: Evidence
    found: Findings
    pictures: bool = True
    """Whether test images may be shown."""

    @property
    def metric(self) -> Metric:
        """What the study's nets are judged by."""
        return self.evidence.plan.judged

    @property
    def palette(self) -> dict[str, str]:
        """Arm -> its colour."""
        return figures.colours(self.evidence.plan.arms)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a file in ``sections/`` declares as ``PART``."""

    order: int
    """Its place in the report, from the top; leave gaps."""
    build: Callable[[Context], Section | None]
    """None where there is nothing to say."""
    key: str = ""
    """Of its facts in verdict.json; empty for none."""


def pairs(evidence: Evidence, found: Findings) -> list[tuple[str, str, float]]:
    """(first, second, confidence) of every pair of arms, in the order and signs of the answers when there are any."""
    if found.answers:
        return [(a.first, a.second, a.level) for a in found.answers]
    couples = list(itertools.combinations(evidence.plan.arms, 2))
    return [(a, b, 1 - 0.05 / len(couples)) for a, b in couples]


def against_leader(evidence: Evidence, found: Findings) -> list[tuple[str, str, float]]:
    """The leader against each other arm, in the order of the answers; two arms are their one pair.

    Other pairs are left out where each takes a paragraph or a table. Before there is an answer, the arm named first
    stands in for the leader. Levels are those of ``pairs``: together over all pairs.
    """
    couples = pairs(evidence, found)
    return [couple for couple in couples if couple[0] == couples[0][0]]


def rule(evidence: Evidence, found: Findings) -> tuple[str, ...]:
    """Which pairs ``against_leader`` shows, for the reader: one sentence, none for two arms."""
    couples = pairs(evidence, found)
    if len(couples) == 1:
        return ()
    who = "the arm with the highest mean" if found.answers else "the arm named first, since none leads yet"
    said = (
        f"Shown: {couples[0][0]}, {who}, against each other arm; a pair's intervals are at "
        f"{level(couples[0][2])}, so that those of all {len(couples)} pairs hold together."
    )
    return (said,)


def again(plan: Plan, flag: str = "", value: str = "") -> str:
    """The command that asks the plan's question again, with ``flag`` set to ``value`` if there is one.

    It spells out the length, which otherwise depends on how fast the machine was when it was measured.
    """
    command = plan.command
    for name, said in (("--epochs", str(plan.epochs)), (flag, value)):
        if name:
            command = re.sub(rf"\s{name}[ =]\S+", "", command) + f" {name} {said}"
    return command


def span(e: Estimate, metric: Metric) -> str:
    """``+0.31 pt (95 % interval −0.12 to +0.74)``."""
    return brief(e, metric).replace(": ", " interval ", 1)


def brief(e: Estimate, metric: Metric) -> str:
    """``+0.31 pt (95 %: −0.12 to +0.74)``."""
    low, high = (metric.number(end, sign=True) for end in (e.low, e.high))
    return f"{metric.gap(e.delta, sign=True)} ({level(e.confidence)}: {low} to {high})"


def sentence(refusal: Exception | str) -> str:
    """A refusal as a sentence of its own."""
    said = str(refusal)
    return f"{said[0].upper()}{said[1:]}{'' if said.endswith('.') else '.'}"


def plain(value: Any) -> Any:
    """The value for JSON: numbers that are not finite become None, numpy's become Python's."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
