"""The headline: which architecture is better when each is tuned, read off paired searches (METHOD.md 4).

Search i of every arm is pair i: same first proposals, same fold, same share. What each search found was selected and
confirmed by itself, so d_i, the difference of the two finds' mean test scores, is one independent draw of the whole
procedure, and the interval runs over pairs. Differences are first minus second, where more is better; ``verdict`` judges the
two nets in hand beside it and never names an architecture.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from analysis.luck import Luck
from analysis.runs import Runs
from analysis.statistics.intervals import Estimate, Reals, Refused, one_image, rope_probabilities, t_interval
from analysis.statistics.superiority import holm
from analysis.verdict import Verdict, of_nets, take
from analysis.words import Doubts
from study.protocol.levels import FEWEST_PAIRS, Level
from study.protocol.metrics import Metric
from study.protocol.sampling import ALIKE, Sampling
from study.protocol.text import counted

Word = Literal["better", "better, size unclear", "practical tie", "open", "nothing claimed"]
SCOPE = (
    "Holds for new searches of the same share, new runs, and new images of the same kind. With a larger share the arms can "
    "rank otherwise."
)
GUARDED = "The search hardly beat the default; nothing is claimed about tuned architectures."
UNSEARCHED = "No search could be paid for; both nets have the default setting."
GUARD = 2
"""Full-length settings of each arm that must beat its default on validation before tuned architectures are compared."""


@dataclass(frozen=True, kw_only=True)
class Finds:
    """What the searches of one arm found, and whether they found anything."""

    arm: str
    runs: Mapping[int, Runs]
    """Per pair, the fresh runs of that search's find on the test images."""
    beat: int | None = None
    """Full-length settings that beat the default on validation; None if unknown."""
    defaults: int = 0
    """Searches that found nothing better than the default, which was confirmed instead."""
    searched: bool = True
    """Whether the share of a search paid for one trial at least."""
    tuned: bool = True
    """Whether the net in hand has another setting than the default."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``first`` against ``second``, each tuned."""

    word: Word
    sentence: str
    advice: str
    first: str
    second: str
    ahead: str | None
    """The arm that is better; None for any other word."""
    delta: float | None
    low: float | None
    high: float | None
    se: float | None
    df: int
    level: float
    """Confidence of this interval alone; above that in ``held`` when it is read with others."""
    held: str
    """The joint promise of all intervals that are read together: ``95 %``, ``94 % over both looks``."""
    rope: float
    pairs: int
    differences: tuple[float, ...]
    luck_sd: float | None
    p: float | None
    """Two-sided p of the t statistic over the pairs."""
    holm_p: float | None
    """The same adjusted over the comparisons of the study; None with two arms."""
    p_first: float | None
    """P(first better by more than the ROPE), t posterior with a flat prior; with p_tie and p_second it sums to 1. None
    where a run failed or a doubt stands: the posterior says little then."""
    p_tie: float | None
    p_second: float | None
    beat: tuple[int | None, int | None]
    """Per arm, full-length settings that beat the default on validation."""
    guard: str
    """Why nothing is claimed; empty when something is."""
    budget_per_search: float
    """Resource-seconds that one search could spend."""
    look: int
    doubt: str
    """Why the word is weaker than the interval alone would allow; empty when it is not."""


def over_pairs(
    first: Mapping[int, Runs], second: Mapping[int, Runs], *, confidence: float = 0.95
) -> tuple[Estimate, Luck]:
    """Mean of d_i with its t interval for new searches, new runs and new images.

    V = sd(d_i)^2 / R + max(0, Var_image(mean difference) - MSE / R) / n, with MSE the interaction of pairs and images
    (two-way layout without replication: what of an image's difference is one pair's alone), t with R - 1 degrees of
    freedom for all of it. sd^2 is never taken below MSE / n, the spread that the test images alone give pairs: two or three
    pairs that agree by chance prove no more. Raises Refused below two common pairs.
    """
    common = sorted(first.keys() & second.keys())
    pairs = len(common)
    if pairs < 2:
        few = f"{counted(pairs, 'pair')} of searches"
        raise Refused(f"{few} cannot show how searches differ: at least two are needed")
    table = np.stack([first[i].scores.mean(axis=0) - second[i].scores.mean(axis=0) for i in common])
    return _over(table, confidence, **first[common[0]].judge.how)


def _over(
    table: Reals, confidence: float, sampling: Sampling = ALIKE, step: float = 1.0
) -> tuple[Estimate, Luck]:
    """``table``: the difference of every pair on every image, shape (R, n)."""
    pairs, images = table.shape
    d = sampling.mean(table)
    delta = float(d.mean())
    interaction = sampling.interaction(table)
    spread = max(float(d.var(ddof=1)), interaction, one_image(sampling, images, step))
    lasting, lasting_se = 0.0, 0.0
    if images > 1:
        image = table.mean(axis=0)
        seen = images * sampling.variance(image)
        lasting = max(0.0, seen - images * interaction / pairs)
        apart = (image - image.mean()) ** 2
        tails = float((apart**2).mean() / max(apart.mean() ** 2, 1e-300)) - 1
        chance = 2 * (images * interaction / pairs) ** 2 / ((pairs - 1) * (images - 1))
        lasting_se = math.sqrt(seen**2 * max(0.0, tails) / images + chance)
    luck = Luck(
        differences=tuple(map(float, d)),
        sd=math.sqrt(spread),
        lasting=lasting,
        images=images,
        lasting_se=lasting_se,
    )
    return t_interval(delta, luck.variance(pairs), float(pairs - 1), confidence), luck


def judge(
    first: Finds,
    second: Finds,
    *,
    rope: float,
    level: Level,
    search: str,
    nets: Verdict | None = None,
    budget_per_search: float = 0.0,
    look: int = 1,
    guessing: float = 0.0,
    copies: int = 0,
) -> Answer:
    """The answer for two arms, without the advice that ``advised`` gives.

    ``search``: one search's share in words (``1.2 gpu-hours``). ``guessing``: the score without looking at images. ``copies``:
    test images that are training images too.
    """
    common = sorted(first.runs.keys() & second.runs.keys())
    base = Answer(
        word="nothing claimed", sentence="", advice="", first=first.arm, second=second.arm, ahead=None, delta=None,
        low=None, high=None, se=None, df=max(0, len(common) - 1), level=level.confidence, held=level.label, rope=rope,
        pairs=len(common), differences=(), luck_sd=None, p=None, holm_p=None, p_first=None, p_tie=None, p_second=None,
        beat=(first.beat, second.beat), guard="", budget_per_search=budget_per_search, look=look, doubt="",
    )  # fmt: skip
    told = of_nets(nets, tuned=first.tuned or second.tuned) if nets else ""
    if not (first.searched or second.searched):
        return replace(base, guard=UNSEARCHED, sentence=_joined(UNSEARCHED, told))
    if len(common) < FEWEST_PAIRS:
        few = "One search per arm says" if len(common) == 1 else f"{len(common)} searches per arm say"
        guard = f"{few} nothing about which architecture is better when each is tuned: another search may find other settings."
        return replace(base, guard=guard, sentence=_joined(guard, told))
    interval, luck = over_pairs(first.runs, second.runs, confidence=level.confidence)
    found = replace(
        base,
        delta=interval.delta,
        low=interval.low,
        high=interval.high,
        se=interval.se,
        differences=luck.differences,
        luck_sd=luck.sd,
        p=float(2 * stats.t.sf(abs(interval.delta) / interval.se, interval.df)),
    )
    if idle := [f for f in (first, second) if f.beat is not None and f.beat < GUARD]:
        return _guarded(found, idle, told)
    unlearnt = [f.arm for f in (first, second) if not _learnt(f, guessing)]
    judge = first.runs[common[0]].judge
    doubts = Doubts(guessing=guessing, copies=copies, images=luck.images, idle=unlearnt, judge=judge)
    return _claimed(found, (first, second), interval, level, search, doubts, told)


def advised(found: Answer, first: Finds, second: Finds, outlook: Callable[[bool], str]) -> Answer:
    """The answer with what to do next, unless it says so already.

    ``outlook``: what more pairs would do and cost, given whether an arm is ahead and only the size is open. It is a forecast,
    and asked for only where the answer needs one.
    """
    if found.advice or found.word == "better":
        return found
    if found.word == "practical tie":
        return replace(found, advice=take(first.arm, second.arm, _cost(first), _cost(second)))
    return replace(found, advice=outlook(found.word == "better, size unclear"))


def _cost(finds: Finds) -> float | None:
    """Mean resource-seconds of a full run of its finds; None where one is unknown."""
    costs = [cost for r in finds.runs.values() if (cost := r.full_run) is not None]
    return sum(costs) / len(costs) if len(costs) == len(finds.runs) else None


def _guarded(found: Answer, idle: Sequence[Finds], told: str) -> Answer:
    """Nothing is claimed: the searches of the ``idle`` arms found too little."""
    said = {f.beat: [g.arm for g in idle if g.beat == f.beat] for f in idle}
    beat = "; ".join(
        f"{'only one' if number else 'no'} setting of {' or '.join(arms)} beat its default"
        for number, arms in said.items()
    )
    why = f"At full length and on validation, {beat}; at least two of each must."
    return replace(
        found,
        guard=f"{GUARDED} {why}",
        advice=(
            "Larger searches would either beat the default or show that nothing does: a new study with a larger --budget or "
            "shorter --epochs, or with wider ranges (--widen)."
        ),
        sentence=_joined(GUARDED, why, told),
    )


def _claimed(
    found: Answer,
    finds: tuple[Finds, Finds],
    interval: Estimate,
    level: Level,
    search: str,
    doubts: Doubts,
    told: str,
) -> Answer:
    """The word for the interval, as far as the doubts let it stand, with its sentence."""
    judged, doubt, remedy = doubts.hold_back(interval.low, interval.high, found.rope)
    word: Word = "open" if judged == "inconclusive" else judged
    lost = failed(finds)
    said = _sentence(word, found, interval, level, search, doubts.judge.metric)
    p_second, p_tie, p_first = rope_probabilities(interval, found.rope)
    known = not (doubt or lost)
    return replace(
        found,
        word=word,
        ahead=(found.first if interval.delta > 0 else found.second) if word.startswith("better") else None,
        sentence=_joined(said, doubt, lost, told if word == "open" else ""),
        advice=remedy,
        p_first=p_first if known else None,
        p_tie=p_tie if known else None,
        p_second=p_second if known else None,
        doubt=doubt,
    )


def with_holm(answers: Sequence[Answer]) -> list[Answer]:
    """Holm's p beside each, over the comparisons that have one; untouched with two arms."""
    known = [a.p for a in answers if a.p is not None]
    if len(answers) < 2 or not known:
        return list(answers)
    adjusted = iter(holm(known))
    return [replace(a, holm_p=next(adjusted) if a.p is not None else None) for a in answers]


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def failed(finds: Iterable[Finds]) -> str:
    """How many confirmation runs of each arm failed: a sentence for each that has any, else empty."""
    counts = {
        f.arm: (sum(r.guessed for r in f.runs.values()), sum(len(r.correct) for r in f.runs.values()))
        for f in finds
    }
    return " ".join(f"{lost} of {runs} {arm} runs failed." for arm, (lost, runs) in counts.items() if lost)


def _learnt(finds: Finds, guessing: float) -> bool:
    """Whether the finds that trained are shown to be above guessing."""
    runs = [r for r in finds.runs.values() if r.trained]
    whole = np.array([float(r.judge.sampling.mean(r.whole.mean(axis=0))) for r in runs])
    if len(whole) < 2:
        return bool(len(whole)) and float(whole.mean()) > guessing
    half = float(stats.t.ppf(0.975, len(whole) - 1)) * float(whole.std(ddof=1)) / math.sqrt(len(whole))
    return float(whole.mean()) - half > guessing


def _sentence(word: Word, found: Answer, e: Estimate, level: Level, search: str, metric: Metric) -> str:
    first, second = found.first, found.second
    if e.delta < 0:  # every sentence speaks from the arm that is ahead
        first, second = second, first
        e = replace(e, delta=-e.delta, low=-e.high, high=-e.low)
    shown = f"({level.span(metric, e.low, e.high)}, {found.pairs} pairs of searches)"
    margin = metric.gap(found.rope)
    tuned = f"when each is tuned with a search of {search}"
    match word:
        case "better":
            return (
                f"{first} is better than {second} {tuned}: by {metric.gap_of(e.delta)} {shown}, more than the "
                f"{margin} you said matters."
            )
        case "better, size unclear":
            return (
                f"{first} is better than {second} {tuned}: by {metric.gap_of(e.delta)} {shown}; whether that is more than the "
                f"{margin} you said matters is open."
            )
        case "practical tie":
            less = f", {first} ahead by less than that" if e.low > 0 else ""
            return (
                f"{first} and {second} are equal within {margin} {tuned}{less}: the difference is "
                f"{metric.gap_of(e.delta, sign=True)} {shown}."
            )
        case _:
            return (
                f"Which architecture is better is open: {tuned}, {metric.minus(first, second)} is "
                f"{metric.gap_of(e.delta, sign=True)} {shown}."
            )
