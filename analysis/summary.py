"""The findings of a study as plain values: the estimators applied to the evidence, before any layout."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from analysis import answer, further, verdict
from analysis.answer import Answer, Finds
from analysis.luck import Luck
from analysis.results import Evidence, beat_default, choices, had_none, in_hand
from analysis.runs import Runs, apart
from analysis.statistics.intervals import Estimate, Refused
from analysis.statistics.tunability import Interval, binomial
from analysis.verdict import Verdict, judge, of_nets
from study.protocol import accounting, levels, looks
from study.protocol.accounting import searches
from study.protocol.levels import Level
from study.protocol.metrics import Metric
from study.protocol.records import Config
from study.protocol.text import amount, counted, listed


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference reported beside the answer: first minus second, more is better."""

    label: str
    arm: str
    """Whose colour it has, empty for none."""
    tuned: bool
    estimate: Estimate

    @property
    def short(self) -> str:
        """The label on one line, without the kind of contrast."""
        return self.label.replace("\n", " ").removeprefix("default: ")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """``answers`` is empty when there is none; ``headline`` then says why."""

    headline: str
    scope: str
    """What the answers hold for."""
    answers: tuple[Answer, ...]
    """One per pair of arms; the leader, by its finds' mean, against each other arm comes first."""
    nets: tuple[Verdict, ...]
    """The nets in hand, in the pairs and signs of the answers; a pair with too few runs is left out."""
    lucks: tuple[Luck, ...]
    """The luck of the pairs of searches, for each answer that has an interval."""
    gains: tuple[Contrast, ...]
    """Net in hand minus default, per arm whose search found something better."""
    defaults: tuple[Contrast, ...]
    """Default against default, in the pairs and signs of the answers."""
    unchanged: tuple[str, ...]
    """Arms whose net in hand has the default setting: no find beat it."""


def find(evidence: Evidence) -> Findings:
    """The answer as far as the evidence supports it; an unanswerable question is left out, not NaN."""
    answers: list[Answer] = []
    nets: list[Verdict] = []
    lucks: list[Luck] = []
    if evidence.open:
        said = f"No answer yet: {'; '.join(evidence.open)}."
    else:
        try:
            found = [_finds(evidence, arm) for arm in _arms(evidence)]
            for first, second in _couples(found):
                net = _nets(evidence, first.arm, second.arm)
                answers.append(_answer(evidence, first, second, net, lucks))
                nets += [net] if net else []
            answers = answer.with_holm(answers)
            share = amount(search_share(evidence, *_arms(evidence)), evidence.plan.budget.resource)
            said = headline(
                answers,
                nets,
                evidence.plan.judged,
                search=share,
                look=evidence.look,
                failed=answer.failed(found),
            )
        except Refused as refusal:
            answers, nets, lucks = [], [], []
            said = f"No answer: {refusal}."
    unchanged = tuple(arm for arm in evidence.plan.arms if _unchanged(evidence, arm))
    tuned, default, sign = evidence.tuned, evidence.default, evidence.plan.judged.against
    gains = [
        _contrast(f"{arm}:\nnet in hand {sign} default", arm, tuned.get(arm), default.get(arm), tuned=True)
        for arm in evidence.plan.arms
        if arm not in unchanged
    ]
    defaults = [
        _contrast(
            f"default: {a.first}\n{sign} {a.second}",
            "",
            default.get(a.first),
            default.get(a.second),
            tuned=False,
        )
        for a in answers
    ]
    return Findings(
        headline=said
        + (f" A further look is under way: {evidence.under_way}." if evidence.under_way else ""),
        scope=verdict.SCOPE if answers and all(a.guard for a in answers) else answer.SCOPE,
        answers=tuple(answers),
        nets=tuple(nets),
        lucks=tuple(lucks),
        gains=tuple(filter(None, gains)),
        defaults=tuple(filter(None, defaults)),
        unchanged=unchanged,
    )


def headline(
    answers: list[Answer], nets: list[Verdict], metric: Metric, *, search: str, look: int, failed: str = ""
) -> str:
    """The one sentence for the terminal: the answer, or the leader against each other arm.

    ``search``: a search's share in words; ``look``: the latest one; ``failed``: which runs did, if any.
    """
    if len(answers) == 1:
        return answers[0].sentence
    leader = answers[0].first
    against = [a for a in answers if a.first == leader]
    if all(a.guard for a in against):
        beat = {arm: n for a in answers for arm, n in zip((a.first, a.second), a.beat, strict=True)}
        why = listed([f"{counted(n, 'setting')} of {arm}" for arm, n in beat.items() if n is not None])
        few = "" if against[0].guard.startswith(answer.GUARDED) else against[0].guard
        return " ".join(
            [
                few or f"{answer.GUARDED} At full length and on validation, {why} beat the default.",
                *(v.sentence for v in nets if v.first == leader),
            ]
        )
    groups: dict[str, list[str]] = {}
    held = list(dict.fromkeys(a.held for a in against))
    for a in against:
        groups.setdefault(_SHORT[a.word], []).append(_beside(a, metric, look, alone=len(held) > 1))
    said = "; ".join(f"{word} {listed(names)}" for word, names in groups.items())
    doubts = "".join(f" {d}" for d in (*dict.fromkeys(a.doubt for a in against), failed) if d)
    return (
        f"Of {len(against) + 1} arms, each tuned with a search of {search}, {leader} has the highest mean: {said}"
        f"{f' ({held[0]})' if len(held) == 1 else ''}.{doubts}"
    )


def _beside(a: Answer, metric: Metric, look: int, *, alone: bool) -> str:
    """The other arm, with the leader's lead over it; ``alone``: with the level of its interval too."""
    if a.delta is None or a.low is None or a.high is None:
        return a.second
    ends = f"{metric.number(a.low, sign=True)} to {metric.number(a.high, sign=True)}"
    early = ", decided at the first look" if a.look < look else ""
    return f"{a.second} ({metric.gap(a.delta, sign=True)}, {f'{a.held}: ' if alone else ''}{ends}{early})"


_SHORT = {
    "better": "better by more than the margin than",
    "better, size unclear": "better, by an open margin, than",
    "practical tie": "equal within the margin to",
    "open": "open against",
    "nothing claimed": "nothing claimed against",
}


def level_of(evidence: Evidence, first: str, second: str, *, look: int = 0) -> Level:
    """The level of the answer on two arms, by default at the latest look that is complete (METHOD.md 6)."""
    plan, history = evidence.plan, evidence.history
    return levels.of_pair(
        plan,
        first,
        second,
        first=searches(plan, history),
        look=look or evidence.look,
        extension=history.extension,
    )


def _couples(found: list[Finds]) -> list[tuple[Finds, Finds]]:
    """Every pair of arms, the one with the highest mean over its finds first."""
    leader = max(found, key=lambda f: float(np.mean([r.mean for r in f.runs.values()])))
    ordered = [leader, *(f for f in found if f is not leader)]
    return list(itertools.combinations(ordered, 2))


def _arms(evidence: Evidence) -> list[str]:
    """The arms of this look: one that is being added has no finds yet."""
    asked = {arm for m in evidence.history.manifests if m.look <= evidence.look for arm in m.choices}
    return [arm for arm in evidence.plan.arms if arm in asked]


def _finds(evidence: Evidence, arm: str, look: int = 0) -> Finds:
    """By default those of the latest look that is complete. Raises Refused where no run trained."""
    found = choices(evidence.history, arm, look or evidence.look)
    runs = {c.pair: r for c in found if (r := evidence.finds.get(arm, {}).get(c.pair))}
    if not runs:
        raise Refused(f"no confirmation run of {arm} left a score")
    if not any(r.trained for r in runs.values()):
        number = sum(len(r.correct) for r in runs.values())
        said = f"all {number} confirmation runs" if number > 1 else "the only confirmation run"
        raise Refused(f"{said} of {arm} failed, so there is no trained net to compare")
    return Finds(
        arm=arm,
        runs=runs,
        beat=beat_default(evidence.history, arm, {c.pair for c in found}),
        defaults=sum(choice.default for choice in found),
        searched=not had_none(evidence, arm),
        tuned=not _unchanged(evidence, arm),
    )


def _answer(
    evidence: Evidence, first: Finds, second: Finds, net: Verdict | None, lucks: list[Luck]
) -> Answer:
    """The answer on two arms. What the first look decided is final: a second look judges open answers, and whether a lead
    exceeds the margin; that an arm is ahead it cannot take back."""
    now, decided = level_of(evidence, first.arm, second.arm), None
    luck: Luck | None = None
    extension = evidence.history.extension
    if evidence.look > 1 and extension is not None and extension.pairs:
        early = [_finds(evidence, arm, 1) for arm in (first.arm, second.arm)]
        level = replace(now, alpha=level_of(evidence, first.arm, second.arm, look=1).alpha)
        found, luck = _judged(evidence, early[0], early[1], net, level)
        if found.word in looks.FINAL and luck is not None:
            lucks.append(luck)
            return _final(found)
        decided = found if found.word == "better, size unclear" else None
    found, later = _judged(evidence, first, second, net, now)
    if decided is not None and luck is not None and (found.word == "open" or found.ahead == _behind(decided)):
        lucks.append(luck)
        return _final(decided)
    lucks += [later] if later else []
    return found


def _behind(found: Answer) -> str:
    return found.second if found.ahead == found.first else found.first


def _final(found: Answer) -> Answer:
    """What the first look decided, at a second."""
    return replace(found, look=1, sentence=f"{found.sentence} The first look decided this, which is final.")


def _judged(
    evidence: Evidence, first: Finds, second: Finds, net: Verdict | None, level: Level
) -> tuple[Answer, Luck | None]:
    """The answer at a level, and the luck of its pairs of searches if there are enough."""
    plan, luck = evidence.plan, None
    searched = first.searched or second.searched
    if searched and len(first.runs.keys() & second.runs.keys()) >= levels.FEWEST_PAIRS:
        _, luck = answer.over_pairs(first.runs, second.runs, confidence=level.confidence)
    share = search_share(evidence, first.arm, second.arm)
    found = answer.judge(
        first,
        second,
        rope=plan.rope,
        level=level,
        search=amount(share, plan.budget.resource),
        nets=net,
        budget_per_search=share,
        look=evidence.look,
        guessing=evidence.guessing,
        copies=plan.data.copies,
    )

    def outlook(ahead: bool) -> str:
        return further.what_would_decide(evidence, luck, first.arm, second.arm, ahead=ahead)

    return answer.advised(found, first, second, outlook), luck


def search_share(evidence: Evidence, *arms: str) -> float:
    """b: resource-seconds that one search of each of these arms could spend, without random settings."""
    shares = [accounting.search_share(evidence.plan, evidence.history, arm) for arm in arms]
    return min(shares) if all(map(math.isfinite, shares)) else 0.0


def _nets(evidence: Evidence, first: str, second: str) -> Verdict | None:
    """The verdict on two arms' nets in hand; None where an arm has none that trained, or too few runs."""
    a, b = evidence.tuned.get(first), evidence.tuned.get(second)
    if a is None or b is None or not (a.trained and b.trained):
        return None
    plan, level, extension = evidence.plan, level_of(evidence, first, second), evidence.history.extension
    if extension is not None and extension.pairs:
        level = levels.of_nets(level, plan, first, second, look=evidence.look)
    try:
        found = judge(a, b, rope=plan.rope, level=level, guessing=evidence.guessing, copies=plan.data.copies)
    except Refused:
        return None
    return replace(
        found,
        sentence=of_nets(found, tuned=not (_unchanged(evidence, first) and _unchanged(evidence, second))),
    )


def _unchanged(evidence: Evidence, arm: str) -> bool:
    """Whether the arm's net in hand has the default setting."""
    choice = in_hand(evidence.history, arm, evidence.look)
    return choice is not None and choice.default


def default_setting(evidence: Evidence, arm: str) -> Config | None:
    """The setting of the arm's baseline runs, None before the first."""
    baseline = evidence.history.of(arm, "baseline")
    return baseline[0].config if baseline else None


def failure_rates(evidence: Evidence) -> dict[str, Interval]:
    """Per arm the share of its confirmation runs that failed; empty when none of any arm did."""
    counts = {
        arm: (sum(r.guessed for r in found.values()), sum(len(r.correct) for r in found.values()))
        for arm, found in evidence.finds.items()
    }
    if not any(failed for failed, _ in counts.values()):
        return {}
    return {arm: binomial(failed, runs) for arm, (failed, runs) in counts.items()}


def _contrast(
    label: str, arm: str, first: Runs | None, second: Runs | None, *, tuned: bool
) -> Contrast | None:
    if first is None or second is None or not (first.trained and second.trained):
        return None
    try:
        estimate = apart(first, second)
    except Refused:
        return None
    return Contrast(label=label, arm=arm, tuned=tuned, estimate=estimate)
