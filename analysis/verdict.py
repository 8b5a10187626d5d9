"""From two settings' fresh runs to one of four words: the nets in hand, and predictions that came from elsewhere.

The crossed interval (Q2) is judged against a region of practical equivalence (ROPE) fixed before the run. The verdict
holds for two settings and never names an architecture: that is ``answer``'s. Scores and differences are as the metric
has them, more is better; only sentences speak in points or nats.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from analysis.luck import POWER
from analysis.more_runs import takes, what_would_decide
from analysis.runs import Runs, apart
from analysis.statistics.intervals import Estimate, crossed, permutation_p, rope_probabilities, welch
from analysis.words import Doubts, Word
from study.protocol import levels
from study.protocol.levels import Level, spanned
from study.protocol.metrics import METRICS, Metric, Name
from study.protocol.text import listed

SCOPE = (
    "Holds for the settings of these nets, retrained with fresh seeds, on new images of the same kind. It is no answer for "
    "the architectures: another search finds other settings."
)
ALONE = levels.of()
SAME_COST = 0.02
"""Full runs whose costs differ by less than this are called equally dear."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``first`` against ``second``: differences are first minus second."""

    word: Word
    sentence: str
    advice: str
    """What to do: take the cheaper arm of a tie, or what it takes to decide."""
    scope: str
    first: str
    second: str
    ahead: str | None
    """The arm that is better; None for a tie or an open question."""
    delta: float
    low: float
    high: float
    confidence: float
    """Of this interval alone; above that in ``held`` when it is read with others."""
    held: str
    """The joint promise of all intervals that are read together: ``95 %``, ``94 % over both looks``."""
    se: float
    df: float
    rope: float
    p_first: float
    """P(first is better by more than the ROPE), t posterior with a flat prior; with p_tie, p_second it sums to 1."""
    p_tie: float
    p_second: float
    k_first: int
    k_second: int
    failed_first: int
    """Of ``k_first``: rows of guesses. With any, the mean has two humps and the t posterior says little."""
    failed_second: int
    n: int
    """Test images."""
    mean_first: float
    mean_second: float
    this_test_set: Estimate
    """Welch on run accuracies: other runs, this test set only."""
    permutation_p: float
    more_runs: int | None
    """Inconclusive only: runs per arm to add until a gap of the margin shows (estimate). None: no number would do."""
    images_needed: int | None
    """Inconclusive only: test images on which CONFIRM_CEILING runs per arm, or as many as there are, would show it.
    None: that many runs or fewer do on these, or no number of images would."""
    cheaper: str | None
    """The arm whose full run costs less, None when they cost the same or it is not known."""
    doubt: str
    """Why the word is weaker than the interval alone would allow; empty when it is not."""
    metric: Name = "accuracy"

    @property
    def has_chances(self) -> bool:
        """Whether the three probabilities mean anything."""
        return not (self.failed_first or self.failed_second or self.doubt)


def judge(
    first: Runs, second: Runs, *, rope: float, level: Level = ALONE, guessing: float = 0.0, copies: int = 0
) -> Verdict:
    """The verdict on two settings.

    ``guessing``: the score without looking at images. ``copies``: test images that are training images too. Raises Refused
    below two runs per arm: one run cannot show how runs vary.
    """
    interval = apart(first, second, confidence=level.confidence)
    means = [np.array(runs.means) for runs in (first, second)]
    idle = [runs.arm for runs in (first, second) if not runs.learnt(guessing)]
    doubts = Doubts(
        guessing=guessing, copies=copies, images=first.correct.shape[1], idle=idle, judge=first.judge
    )
    word, doubt, remedy = doubts.hold_back(interval.low, interval.high, rope)
    sentence = _sentence(word, first.arm, second.arm, interval, rope, level, first.judge.metric)
    cheaper = _cheaper(first, second)
    is_open = word == "inconclusive"
    more_runs, images = takes(first, second, interval, rope, POWER) if is_open and not doubt else (None, None)
    p_second, p_tie, p_first = rope_probabilities(interval, rope)
    return Verdict(
        word=word,
        sentence=" ".join(filter(None, (sentence, doubt, _failures(first, second, interval)))),
        advice=remedy
        or (
            what_would_decide(first, second, rope, more_runs, images)
            if is_open
            else _advice(word, first, second, cheaper)
        ),
        scope=SCOPE,
        first=first.arm, second=second.arm,
        ahead=(first.arm if interval.delta > 0 else second.arm) if word.startswith("better") else None,
        delta=interval.delta, low=interval.low, high=interval.high, confidence=level.confidence, held=level.label,
        se=interval.se, df=interval.df, rope=rope, p_first=p_first, p_tie=p_tie, p_second=p_second,
        k_first=len(first.correct), k_second=len(second.correct),
        failed_first=first.guessed, failed_second=second.guessed,
        n=doubts.images, mean_first=first.mean, mean_second=second.mean,
        this_test_set=welch(*means, confidence=level.confidence),
        permutation_p=permutation_p(*means),
        more_runs=more_runs, images_needed=images, cheaper=cheaper, doubt=doubt, metric=first.judge.metric.name,
    )  # fmt: skip


def of_nets(v: Verdict, *, tuned: bool = True) -> str:
    """The sentence for the finds of two searches: it is about two nets and names no architecture.

    ``tuned``: whether either of them has another setting than its default.
    """
    two = "two nets tuned here" if tuned else "two nets"
    a, b = (v.first, v.second) if v.delta >= 0 else (v.second, v.first)
    low, high = (v.low, v.high) if v.delta >= 0 else (-v.high, -v.low)
    metric = METRICS[v.metric]
    difference = metric.minus(f"{a}'s", f"{b}'s")
    shown = f"{metric.gap_of(abs(v.delta))} ({spanned(v.held, metric, low, high)})"
    if v.word.startswith("better"):
        open_still = f"; whether that is more than the {metric.gap(v.rope)} you said matters is open"
        less = "" if v.word == "better" else open_still
        said = f"Of the {two}, {a}'s is better than {b}'s by {shown}{less}."
    elif v.word == "practical tie":
        said = f"The {two} are equal within {metric.gap(v.rope)}: {difference} is {shown}."
    else:
        said = f"Which of the {two} is better is open: {difference} is {shown}."
    return said + (f" {v.doubt}" if v.doubt else "")


def _sentence(
    word: Word, first: str, second: str, e: Estimate, rope: float, level: Level, metric: Metric
) -> str:
    if e.delta < 0:  # every sentence speaks from the arm that is ahead
        first, second = second, first
        e = replace(e, delta=-e.delta, low=-e.high, high=-e.low)
    span = f"({level.span(metric, e.low, e.high, sign=False)})"
    margin, gap = metric.gap(rope), metric.gap_of(e.delta)
    match word:
        case "better":
            return (
                f"{first} is better than {second} by {gap} {span}, more than the {margin} you said matters."
            )
        case "better, size unclear":
            return (
                f"{first} is ahead of {second} by {gap} {span}; "
                f"whether that is more than the {margin} you said matters is open."
            )
        case "practical tie":
            less = f", {first} ahead by less than that" if e.low > 0 else ""
            return f"{first} and {second} are equal within {margin}{less}: the difference is {gap} {span}."
        case "inconclusive":
            return (
                f"This study cannot tell {first} from {second}: "
                f"the difference is {gap} {span}, the margin that matters {margin}."
            )


def _failures(first: Runs, second: Runs, e: Estimate) -> str:
    """Which runs failed, and whether they make the interval wide: without them, at most half as wide."""
    shown = [f"{r.guessed} of {len(r.correct)} {r.arm} runs" for r in (first, second) if r.guessed]
    if not shown:
        return ""
    if min(len(r.whole) for r in (first, second)) < 2:
        return f"{listed(shown)} failed."
    without = crossed(first.whole, second.whole, **first.judge.how, confidence=e.confidence)
    alone = without.high - without.low < (e.high - e.low) / 2
    return f"{listed(shown)} failed{'; that alone makes the interval this wide' if alone else ''}."


def take(one: str, other: str, cost: float | None, other_cost: float | None) -> str:
    """Which of two tied arms to take, by the resource-seconds of their full runs; empty where these are unknown."""
    if cost is None or other_cost is None:
        return ""
    cheaper = _less(one, other, cost, other_cost)
    return (
        f"Take {cheaper}: {_saving(cost, other_cost)}."
        if cheaper
        else "Their full runs cost the same: take either."
    )


def _advice(word: Word, first: Runs, second: Runs, cheaper: str | None) -> str:
    if first.full_run is None or second.full_run is None:
        return ""
    if word == "practical tie":
        return take(first.arm, second.arm, first.full_run, second.full_run)
    if cheaper is None:
        return "Their full runs cost the same."
    return f"{cheaper} is the cheaper one: {_saving(first.full_run, second.full_run)}."


def _saving(cost: float, other: float) -> str:
    cheap, dear = sorted((cost, other))
    return f"its full run costs {100 * (1 - cheap / dear):.0f} % less"


def _cheaper(first: Runs, second: Runs) -> str | None:
    if first.full_run is None or second.full_run is None:
        return None
    return _less(first.arm, second.arm, first.full_run, second.full_run)


def _less(one: str, other: str, cost: float, other_cost: float) -> str | None:
    if math.isclose(cost, other_cost, rel_tol=SAME_COST):
        return None
    return one if cost < other_cost else other
