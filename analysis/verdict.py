"""From two settings' fresh runs to one of four words: the nets in hand, and predictions that came from elsewhere.

The table of ``METHOD.md`` section 4: better / better, size unclear / practical tie / inconclusive, judged by the
crossed interval (Q2) against a region of practical equivalence (ROPE) fixed before the run. It holds for two settings
and never names an architecture: that is ``answer``'s. Accuracies and differences are fractions; only sentences speak
in points (pt).
"""

import bisect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis import levels
from analysis.levels import Level, spanned
from analysis.luck import MOST_IMAGES, POWER
from analysis.statistics.intervals import (
    Correct,
    Estimate,
    crossed,
    half_width,
    mean_accuracy,
    permutation_p,
    rope_probabilities,
    welch,
)
from study.protocol.allocation import CONFIRM_CEILING
from study.protocol.text import listed, percent, points, rough

Word = Literal["better", "better, size unclear", "practical tie", "inconclusive"]


SCOPE = (
    "Holds for the settings of these nets, retrained with fresh seeds, on new images of the same kind. It is no answer for "
    "the architectures: another search finds other settings."
)
ALONE = levels.of()
SAME_COST = 0.02
"""Full runs whose costs differ by less than this are called equally dear."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """One arm's runs of one frozen setting on the test images."""

    arm: str
    correct: Correct
    """Shape (k, n): run s is right on image i. A failed run is a row of guesses, never left out."""
    full_run: float | None
    """Resource-seconds that the epochs of one full run of this setting take, start-up left out; None when not known."""
    failed: tuple[int, ...] = ()
    """Rows of guesses that stand for a failed run."""

    @property
    def accuracies(self) -> tuple[float, ...]:
        return tuple(float(a) for a in self.correct.mean(axis=1))

    @property
    def guessed(self) -> int:
        return len(self.failed)

    @property
    def trained(self) -> bool:
        """Whether any of the runs left a net: guesses alone are no runs of the setting."""
        return self.guessed < len(self.correct)

    @property
    def whole(self) -> Correct:
        """Without the failed ones."""
        return np.delete(self.correct, self.failed, axis=0)

    @property
    def mean(self) -> float:
        return float(self.correct.mean())

    def learnt(self, guessing: float) -> bool:
        """Whether the runs that did not fail are above ``guessing``, as surely as their number can show."""
        if len(self.whole) < 2:
            return self.trained and float(self.whole.mean()) > guessing
        return mean_accuracy(self.whole).low > guessing


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``first`` against ``second``: differences are first minus second."""

    word: Word
    sentence: str
    advice: str
    """What to do with it: the cheaper arm of a tie, what it would take to decide."""
    scope: str
    first: str
    second: str
    ahead: str | None
    """The arm that the word speaks for; None for a tie or an open question."""
    delta: float
    low: float
    high: float
    confidence: float
    """Of this interval alone; above what ``held`` says when it is read with others."""
    held: str
    """``95 %``, ``94 % over both looks``: what is promised of all that is read together."""
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
    """Sentence: what keeps the word below what the interval alone would say; empty when nothing does."""

    @property
    def has_chances(self) -> bool:
        """Whether the three probabilities mean anything."""
        return not (self.failed_first or self.failed_second or self.doubt)


def judge(
    first: Runs,
    second: Runs,
    *,
    rope: float,
    level: Level = ALONE,
    guessing: float = 0.0,
    copies: int = 0,
) -> Verdict:
    """The verdict on two settings.

    ``guessing``: share of the most frequent class, which a net that learnt nothing can reach too. ``copies``: test images
    that are training images too. Raises Refused below two runs per arm: one run cannot show how runs vary.
    """
    confidence = level.confidence
    interval = crossed(first.correct, second.correct, confidence=confidence)
    local = welch(first.correct.mean(axis=1), second.correct.mean(axis=1), confidence=confidence)
    low, high = interval.low, interval.high
    word, doubt, remedy = worded(low, high, rope), "", ""
    if copies:
        share = copies / first.correct.shape[1]
        # Nets may know these by heart, one arm's better than the other's: that can shift the difference by their share.
        careful = worded(low - share, high + share, rope)
        if careful != word:
            word, remedy = careful, "Take the copies out of test/, or out of train/, and ask again."
            doubt = (
                f"{copies} of the {first.correct.shape[1]} test images are training images too, which alone can "
                f"make up {points(share)} pt."
            )
    idle = [runs.arm for runs in (first, second) if not runs.learnt(guessing)]
    if len(idle) == 2 or (idle and not word.startswith("better")):
        word = "inconclusive"
        who = "Neither of them is" if len(idle) == 2 else f"{idle[0]} is not"
        doubt = f"{who} shown to be above guessing the most frequent class ({percent(guessing)})."
        remedy = "A net that learnt nothing says nothing of its architecture: train longer (--epochs), or look at the images and labels."
    ahead = (first.arm if interval.delta > 0 else second.arm) if word.startswith("better") else None
    more_runs, images_needed = (
        _takes(first, second, interval, rope, POWER) if word == "inconclusive" and not doubt else (None, None)
    )
    cheaper = _cheaper(first, second)
    p_second, p_tie, p_first = rope_probabilities(interval, rope)
    return Verdict(
        word=word,
        sentence=_sentence(word, first.arm, second.arm, interval, rope, level)
        + (f" {doubt}" if doubt else "")
        + _failures(first, second, interval),
        advice=remedy
        or (
            _what_would_decide(first, second, interval, rope)
            if word == "inconclusive"
            else _advice(word, first, second, cheaper)
        ),
        scope=SCOPE,
        first=first.arm,
        second=second.arm,
        ahead=ahead,
        delta=interval.delta,
        low=low,
        high=high,
        confidence=confidence,
        held=level.told,
        se=interval.se,
        df=interval.df,
        rope=rope,
        p_first=p_first,
        p_tie=p_tie,
        p_second=p_second,
        k_first=len(first.correct),
        k_second=len(second.correct),
        failed_first=first.guessed,
        failed_second=second.guessed,
        n=first.correct.shape[1],
        mean_first=first.mean,
        mean_second=second.mean,
        this_test_set=local,
        permutation_p=permutation_p(first.correct.mean(axis=1), second.correct.mean(axis=1)),
        more_runs=more_runs,
        images_needed=images_needed,
        cheaper=cheaper,
        doubt=doubt,
    )


def worded(low: float, high: float, rope: float) -> Word:
    """The table's word for an interval."""
    if low > rope or high < -rope:
        return "better"
    if (low > 0 and high > rope) or (high < 0 and low < -rope):
        return "better, size unclear"
    return "practical tie" if -rope <= low and high <= rope else "inconclusive"


def judge_all(
    arms: list[Runs],
    *,
    rope: float,
    level: Callable[[str, str], Level] | None = None,
    guessing: float = 0.0,
    copies: int = 0,
) -> list[Verdict]:
    """Every pair of arms; the leader (highest mean) against each other arm comes first.

    ``level`` of two arms, by default simultaneously at 95 % (Bonferroni). Raises Refused below two arms or below two runs of an arm.
    """
    leader = max(arms, key=lambda runs: runs.mean, default=None)
    arms = [runs for runs in arms if runs is leader] + [runs for runs in arms if runs is not leader]
    couples = list(itertools.combinations(arms, 2))
    together = levels.of(couples=len(couples))
    return [
        judge(
            a,
            b,
            rope=rope,
            level=level(a.arm, b.arm) if level else together,
            guessing=guessing,
            copies=copies,
        )
        for a, b in couples
    ]


def _of_runs(arm: str, failed: int, runs: int) -> str:
    return f"{failed} of {runs} {arm} runs"


def of_nets(v: Verdict) -> str:
    """The sentence where the two settings are what two searches found: it speaks of two nets."""
    a, b = (v.first, v.second) if v.delta >= 0 else (v.second, v.first)
    low, high = (v.low, v.high) if v.delta >= 0 else (-v.high, -v.low)
    told = f"{points(abs(v.delta))} pt ({spanned(v.held, low, high)})"
    if v.word.startswith("better"):
        open_still = f"; whether that is more than the {points(v.rope)} pt you said matters is open"
        less = "" if v.word == "better" else open_still
        said = f"Of the two nets tuned here, {a}'s is better than {b}'s by {told}{less}."
    elif v.word == "practical tie":
        said = f"The two nets tuned here are equal within {points(v.rope)} pt: {a}'s minus {b}'s is {told}."
    else:
        said = f"Which of the two nets tuned here is better is open: {a}'s minus {b}'s is {told}."
    return said + (f" {v.doubt}" if v.doubt else "")


def _sentence(word: Word, first: str, second: str, e: Estimate, rope: float, level: Level) -> str:
    if e.delta < 0:  # every sentence speaks from the arm that is ahead
        first, second = second, first
        e = Estimate(delta=-e.delta, low=-e.high, high=-e.low, se=e.se, df=e.df, confidence=e.confidence)
    span = f"({level.span(e.low, e.high, sign=False)})"
    margin = points(rope)
    match word:
        case "better":
            return (
                f"{first} is better than {second} by {points(e.delta)} pt {span}, "
                f"more than the {margin} pt you said matters."
            )
        case "better, size unclear":
            return (
                f"{first} is ahead of {second} by {points(e.delta)} pt {span}; "
                f"whether that is more than the {margin} pt you said matters is open."
            )
        case "practical tie":
            less = f", {first} ahead by less than that" if e.low > 0 else ""
            return (
                f"{first} and {second} are equal within {margin} pt{less}: "
                f"the difference is {points(e.delta)} pt {span}."
            )
        case "inconclusive":
            return (
                f"This study cannot tell {first} from {second}: "
                f"the difference is {points(e.delta)} pt {span}, the margin that matters {margin} pt."
            )


def _failures(first: Runs, second: Runs, e: Estimate) -> str:
    """Which runs failed, and whether the interval owes its width to them: half of it or less without."""
    told = [_of_runs(r.arm, r.guessed, len(r.correct)) for r in (first, second) if r.guessed]
    if not told:
        return ""
    if min(len(r.whole) for r in (first, second)) < 2:
        return f" {listed(told)} failed."
    without = crossed(first.whole, second.whole, confidence=e.confidence)
    alone = without.high - without.low < (e.high - e.low) / 2
    return f" {listed(told)} failed{'; that alone makes the interval this wide' if alone else ''}."


def _advice(word: Word, first: Runs, second: Runs, cheaper: str | None) -> str:
    if first.full_run is None or second.full_run is None:
        return ""
    dear, cheap = sorted((first.full_run, second.full_run), reverse=True)
    saving = f"its full run costs {100 * (1 - cheap / dear):.0f} % less" if cheaper else ""
    if word == "practical tie":
        return f"Take {cheaper}: {saving}." if cheaper else "Their full runs cost the same: take either."
    if cheaper is None:
        return "Their full runs cost the same."
    return f"{cheaper} is the cheaper one: {saving}."


def _what_would_decide(first: Runs, second: Runs, e: Estimate, rope: float) -> str:
    """One sentence, for a true difference of the margin: what was measured is no size to plan for (post-hoc power)."""
    have = min(len(first.correct), len(second.correct))
    more, images = _takes(first, second, e, rope, POWER)
    if more == 0:
        told = "these runs would do"
    elif more is None:
        told = "no number of runs on this test set would do"
    else:
        told = f"about {rough(have + more)} runs per arm would do"
    if more is None or have + more > CONFIRM_CEILING:
        most = f"with {max(have, CONFIRM_CEILING)} runs per arm"
        told += (
            f"; {most}, no number of test images would"
            if images is None
            else f"; {most}, about {rough(images)} test images would"
        )
    return (
        f"With {100 * POWER:.0f} % power for a true gap of the margin, {points(rope)} pt: {told} (estimates)."
    )


def _takes(
    first: Runs, second: Runs, e: Estimate, target: float, power: float
) -> tuple[int | None, int | None]:
    """Runs to add per arm until a gap of ``target`` shows with this power; None where no number would do.

    Where that is more than a study makes, also the test images on which as many as it makes would show it.
    """
    have, size = min(len(first.correct), len(second.correct)), first.correct.shape[1]

    def enough(runs: float, images: int) -> bool:
        shown = half_width(
            first.correct, second.correct, runs=runs, images=images, confidence=e.confidence, power=power
        )
        return shown < target

    more = _fewest(lambda more: enough(have + more, size), at_least=0) if enough(math.inf, size) else None
    if more is not None and have + more <= CONFIRM_CEILING:
        return more, None
    most = max(have, CONFIRM_CEILING)
    return more, _fewest(lambda images: enough(most, images), at_least=2) if enough(
        most, MOST_IMAGES
    ) else None


def _fewest(enough: Callable[[int], bool], *, at_least: int) -> int:
    high = at_least + 1
    while not enough(high):
        high *= 2
    return bisect.bisect_left(range(high + 1), True, lo=at_least, key=enough)


def _cheaper(first: Runs, second: Runs) -> str | None:
    if first.full_run is None or second.full_run is None:
        return None
    if math.isclose(first.full_run, second.full_run, rel_tol=SAME_COST):
        return None
    return first.arm if first.full_run < second.full_run else second.arm
