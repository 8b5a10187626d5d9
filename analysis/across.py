"""``python -m analysis across RUN RUN ...``: one answer over the finished studies of several data sets (METHOD.md 9).

Every study keeps its own answer. Over them stand the mean difference, how much data sets differ, and what to expect on the next
data set of the kind. Refused where the studies do not ask the same question: other arms, recipe or metric.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis import summary
from analysis.answer import Answer
from analysis.results import Evidence, read
from analysis.statistics.random_effects import Pooled, pooled
from analysis.statistics.superiority import holm
from analysis.words import NEITHER
from study.protocol.errors import InputError
from study.protocol.metrics import METRICS, Metric, Name
from study.protocol.plan import Plan
from study.protocol.rundir import RunDir
from study.protocol.text import amount, counted, listed

FEWEST = 5
"""Data sets from which a mean over them is given."""
SAME = 0.5
"""Two data sets that share more of their images than this are one."""
OWN_AXES = ("batch_size", "augment")
"""Axes whose options depend on the images and on the machine's memory."""
SCOPE = (
    "The mean and the prediction hold for data sets of the kind that these are a sample of. Sets that were picked because they are at "
    "hand, or because one arm is known to do well on them, are no sample of anything wider."
)
FEW = f"Fewer than {FEWEST} data sets are too few to say more than each of them says: no mean over them is given."


@dataclass(frozen=True, kw_only=True)
class Row:
    """One study's answer for a pair of arms, first minus second in the order of the plan."""

    run: str
    data: str
    word: str
    ahead: str | None
    pairs: int
    delta: float | None
    """None, as the rest, where nothing is claimed about tuned architectures."""
    low: float | None
    high: float | None
    se: float | None
    df: int
    level: float
    p: float | None
    holm_p: float | None
    """``p`` adjusted over the data sets."""
    search: str
    """What one search could spend."""
    learnt: bool
    """Whether one arm at least is shown to be above guessing: else the difference says nothing about them."""

    @property
    def counts(self) -> bool:
        """Whether it enters the mean."""
        return self.learnt and self.delta is not None and self.se is not None

    @property
    def verdict(self) -> str:
        return f"{self.ahead} better" if self.ahead else self.word


@dataclass(frozen=True, kw_only=True)
class Across:
    """Two arms over all data sets."""

    first: str
    second: str
    rows: tuple[Row, ...]
    pooled: Pooled | None
    """None below FEWEST data sets with an answer."""
    sentence: str
    metric: Name


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Every pair of arms over all studies."""

    arms: tuple[str, ...]
    metric: Name
    pairs: tuple[Across, ...]
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        return " ".join(pair.sentence for pair in self.pairs)

    @property
    def scope(self) -> str:
        """What a mean holds for; empty where none is given."""
        return SCOPE if any(pair.pooled for pair in self.pairs) else ""

    @property
    def lines(self) -> list[str]:
        """All of it for a terminal."""
        return [*self.table(), *filter(None, (self.scope,)), *self.notes, self.headline]

    def table(self) -> list[str]:
        """Every study's answer on a line, for a terminal."""
        lines, metric = [], METRICS[self.metric]
        for pair in self.pairs:
            lines.append(f"{metric.minus(pair.first, pair.second)}, {metric.title}:")
            width = max(len(row.data) for row in pair.rows)
            for row in pair.rows:
                span = "nothing claimed"
                if row.delta is not None and row.low is not None and row.high is not None:
                    ends = f"{metric.number(row.low, sign=True)} to {metric.number(row.high, sign=True)}"
                    span = f"{metric.gap(row.delta, sign=True)} ({ends}, {counted(row.pairs, 'pair')}): {row.verdict}"
                lines.append(f"  {row.data:<{width}}  {span}")
        return lines


def join(runs: Sequence[Path], *, partial: bool = False) -> Joined:
    """Read the finished studies in ``runs`` and join them; with ``partial``, those that have an answer, if two do.

    Raises InputError where a study has no answer, or where two do not ask the same question.
    """
    if len(runs) < 2:
        raise InputError(
            "one study is its own report: give two or more finished studies, each on another data set"
        )
    studies = [(run, read(run)) for run in runs]
    for (run, evidence), (other, base) in zip(studies[1:], itertools.repeat(studies[0]), strict=False):
        _check_same_question(run, evidence.plan, other, base.plan)
    _check_other_images(studies)
    found, left = [], list[str]()
    for run, evidence in studies:
        try:
            found.append((run, evidence, _answers(run, evidence)))
        except InputError as error:
            if not partial or len(left) + 3 > len(studies):
                raise
            left.append(f"Left out: {error}.")
    arms, metric = studies[0][1].plan.arms, studies[0][1].plan.judged
    couples = list(itertools.combinations(arms, 2))
    confidence = 1 - 0.05 / len(couples)
    pairs = tuple(_pair(first, second, found, confidence, metric) for first, second in couples)
    return Joined(arms=arms, metric=metric.name, pairs=pairs, notes=(*_notes(found, len(couples)), *left))


def _answers(run: Path, evidence: Evidence) -> dict[frozenset[str], Answer]:
    answers = summary.find(evidence).answers
    if not answers:
        lack = "; ".join(evidence.open) or "its runs cannot be compared"
        raise InputError(
            f"{run} has no answer yet: {lack}. Finish it (python study/run.py --resume {run}) or leave it out"
        )
    return {frozenset((a.first, a.second)): a for a in answers}


def _check_same_question(run: Path, plan: Plan, other: Path, base: Plan) -> None:
    if set(plan.arms) != set(base.arms):
        raise InputError(
            f"{run} compares {listed(list(plan.arms))}, {other} {listed(list(base.arms))}: only studies of the same arms can be joined"
        )
    if plan.metric != base.metric:
        raise InputError(
            f"{run} is judged by {plan.judged.title}, {other} by {base.judged.title}: only studies of the same --metric can be joined"
        )
    if plan.recipe != base.recipe:
        raise InputError(
            f"{run} trains by the recipe {plan.recipe}, {other} by {base.recipe}: only studies of the same --recipe can be joined"
        )
    for arm in base.arms:
        ours, theirs = plan.spaces.get(arm, {}), base.spaces.get(arm, {})
        odd = sorted(
            axis
            for axis in ours.keys() | theirs.keys()
            if axis not in OWN_AXES and ours.get(axis) != theirs.get(axis)
        )
        if odd:
            raise InputError(
                f"{run} and {other} searched {arm} over other ranges of {listed(odd)}: only studies with the same recipe and "
                "the same --widen can be joined"
            )


def _check_other_images(studies: Sequence[tuple[Path, Evidence]]) -> None:
    for (a, one), (b, two) in itertools.combinations(studies, 2):
        ours, theirs = one.plan, two.plan
        if ours.data.fingerprint == theirs.data.fingerprint or (
            ours.test_source and ours.test_source == theirs.test_source
        ):
            raise InputError(
                f"{a} and {b} are about the same images: a data set counts once. To spend more on one, resume it with a larger --budget"
            )
        if not (ours.weights or theirs.weights) and (shared := _shared(a, b)) > SAME:
            raise InputError(
                f"{a} and {b} share {100 * shared:.0f} % of their images, if in other parts: a data set counts once"
            )


def _shared(one: Path, other: Path) -> float:
    """Share of the smaller set's training images that are in both, by the lists that the studies left; 0 where one left none that can be read."""
    try:
        a, b = (np.load(RunDir(run).images, allow_pickle=False) for run in (one, other))
        return len(np.intersect1d(a, b)) / min(len(a), len(b))
    except Exception:  # noqa: BLE001  # foreign bytes: numpy has a dozen ways to fail
        return 0.0


def _pair(
    first: str,
    second: str,
    found: Sequence[tuple[Path, Evidence, dict[frozenset[str], Answer]]],
    confidence: float,
    metric: Metric,
) -> Across:
    rows = [_row(run, e.plan, answers[frozenset((first, second))], first) for run, e, answers in found]
    known = [row.p for row in rows if row.p is not None and row.counts]
    adjusted = iter(holm(known)) if known else iter(())
    rows = [
        replace(row, holm_p=float(next(adjusted))) if row.p is not None and row.counts else row
        for row in rows
    ]
    counted_rows = [row for row in rows if row.counts]
    joint = None
    if len(counted_rows) >= FEWEST:
        columns = (
            [row.delta for row in counted_rows],
            [row.se for row in counted_rows],
            [row.df for row in counted_rows],
        )
        joint = pooled(*(np.array(column, dtype=np.float64) for column in columns), confidence=confidence)
    return Across(
        first=first,
        second=second,
        rows=tuple(rows),
        pooled=joint,
        sentence=_sentence(first, second, joint, len(counted_rows), metric),
        metric=metric.name,
    )


def _row(run: Path, plan: Plan, a: Answer, first: str) -> Row:
    sign = 1.0 if a.first == first else -1.0
    claimed = a.word != "nothing claimed" and a.delta is not None
    ends = sorted((sign * a.low, sign * a.high)) if a.low is not None and a.high is not None else []
    return Row(
        run=run.name,
        data=plan.data.spec,
        word=a.word,
        ahead=a.ahead,
        pairs=a.pairs,
        delta=sign * a.delta if claimed and a.delta is not None else None,
        low=ends[0] if claimed and ends else None,
        high=ends[1] if claimed and ends else None,
        se=a.se if claimed else None,
        df=a.df,
        level=a.level,
        p=a.p if claimed else None,
        holm_p=None,
        search=amount(a.budget_per_search, plan.budget.resource),
        learnt=not a.doubt.startswith(NEITHER),
    )


def _sentence(first: str, second: str, joint: Pooled | None, sets: int, metric: Metric) -> str:
    if joint is None:
        return f"{first} against {second}: {counted(sets, 'data set')} with an answer about the architectures. {FEW}"
    e = joint.mean
    ahead, behind, sign = (first, second, 1) if e.delta >= 0 else (second, first, -1)
    low, high = sorted((sign * e.low, sign * e.high))
    span = (
        f"({100 * e.confidence:.4g} %: {metric.number(low, sign=True)} to {metric.number(high, sign=True)})"
    )
    next_low, next_high = sorted((sign * joint.next_low, sign * joint.next_high))
    ahead_of = (
        f"{ahead} is better than {behind} on the average data set when each is tuned: by {metric.gap_of(sign * e.delta)} {span}"
        if low > 0
        else f"Which architecture is better on the average data set is open: {metric.minus(ahead, behind)} is {metric.gap_of(sign * e.delta, sign=True)} {span}"
    )
    further = f"on the next data set of the kind expect {metric.number(next_low, sign=True)} to {metric.gap(next_high, sign=True)}"
    return f"{ahead_of}, over {sets} data sets; {further}."


def _notes(
    found: Sequence[tuple[Path, Evidence, dict[frozenset[str], Answer]]], couples: int
) -> tuple[str, ...]:
    notes = []
    silent = sorted(
        {run.name for run, _, answers in found for a in answers.values() if a.word == "nothing claimed"}
    )
    if silent:
        notes.append(
            f"{listed(silent)} claims nothing about a pair of tuned architectures: it stands in the table and does not enter its mean."
        )
    margins = sorted({e.plan.margin for _, e, _ in found})
    if len(margins) > 1:
        notes.append(f"The studies had other margins ({listed(margins)}): their words do not mean the same.")
    shares = [a.budget_per_search for _, _, answers in found for a in answers.values()]
    if max(shares) > 2 * min(shares) > 0:
        resource = found[0][1].plan.budget.resource
        notes.append(
            f"The searches had {amount(min(shares), resource)} to {amount(max(shares), resource)}: arms can rank otherwise with "
            "more, so part of the difference between data sets may be budget."
        )
    notes += _doubts(found)
    copies = [run.name for run, e, _ in found if e.plan.earlier]
    if copies:
        notes.append(f"{listed(copies)} looked at test images that an earlier study had looked at.")
    if couples > 1:
        notes.append(
            f"The intervals over data sets hold together for all {couples} pairs of arms, by Bonferroni."
        )
    return tuple(notes)


def _doubts(found: Sequence[tuple[Path, Evidence, dict[frozenset[str], Answer]]]) -> Iterator[str]:
    """What each study itself says against its answers."""
    for run, _, answers in found:
        claimed = [a for a in answers.values() if a.word != "nothing claimed"]
        for doubt in dict.fromkeys(a.doubt for a in claimed if a.doubt):
            end = " Its difference does not enter the mean." if doubt.startswith(NEITHER) else ""
            yield f"{run.name}: {doubt}{end}"
        if any(a.p_first is None and not a.doubt for a in claimed):
            yield f"{run.name}: runs failed, and count as guessing."
