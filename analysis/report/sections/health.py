"""Before you rely on it: everything in a study that was not as it should be."""

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from analysis.frames import how_it_ended
from analysis.report.section import Context, Part, Section, again
from analysis.results import Evidence, in_hand
from analysis.runs import apart
from analysis.statistics.intervals import Refused
from analysis.statistics.ranks import rank_correlation
from study.protocol import allocation
from study.protocol.accounting import budget, search_runs, searches, share, trained
from study.protocol.allocation import CONFIRM_FLOOR, MARGIN, REDUCTION, TUNING_RUNS_FLOOR
from study.protocol.history import History
from study.protocol.question import DataCard, pinned, starts, unmatched
from study.protocol.records import PHASES
from study.protocol.selection import best_first
from study.protocol.text import counted, duration, listed, percent

EQUAL_SPEND = 0.02
EDGE = 0.05
GOOD = 5
"""Best settings of an arm that are looked at: the longest trained, then the best on validation."""
AT_EDGE = 3
"""How many of these must lie at one end of a range to make an edge."""
OVERSHOOT = 0.02
LOST = 0.02
TRIALS_FLOOR = 9
"""Search trials below which it means nothing that none was stopped."""
FEWEST = 5
"""Random settings that a rank correlation takes."""
UNEVEN = 1.5
"""Ratio of the costs of one setting in two phases from which on the machine, not the setting, explains it."""


def section(context: Context) -> Section | None:
    """None when all was as it should be."""
    items = tuple(warnings(context.evidence))
    return Section(title="Before you rely on it", items=items, warns=True) if items else None


def warnings(evidence: Evidence) -> list[str]:
    """One sentence per problem, the gravest first."""
    known = [sentence for said in (copies, near_copies) if (sentence := said(evidence.plan.data))]
    checks = (_unlearnt, _records, _runs, _unranked, _fairness, _edges)
    return [*known, *(sentence for check in checks for sentence in check(evidence))]


def copies(data: DataCard) -> str:
    """Sentence on test images among the training images; empty when there are none."""
    if not data.copies:
        return ""
    return (
        f"{data.copies} of the {data.test} test images ({percent(data.copies / data.test)}) are training images too, pixel "
        "for pixel: a net may know them by heart, so they say nothing of new images and can shift a difference by as much."
    )


def near_copies(data: DataCard) -> str:
    """Sentence on test images that look like training images; empty when there are none."""
    if not data.near:
        return ""
    return (
        f"{data.near} of the {data.test} test images ({percent(data.near / data.test)}) look like a training image that was saved again in "
        "another size, format or quality: what they say of new images is in doubt."
    )


def _unlearnt(evidence: Evidence) -> list[str]:
    """Arms whose nets guess, and arms whose search made them worse."""
    guessing, sentences, metric = evidence.guessing, [], evidence.plan.judged
    better = "below" if metric.lower else "above"
    for arm, tuned in evidence.tuned.items():
        if tuned.trained and not tuned.learnt(guessing):
            mean = float(evidence.judge.sampling.mean(tuned.whole.mean(axis=0)))
            sentences.append(
                f"{arm}: its confirmation runs, {metric.value(mean)} on average, are not shown to be {better} "
                f"{metric.guess} ({metric.value(guessing)}): it learnt nothing that could be compared."
            )
        default, chosen = evidence.default.get(arm), in_hand(evidence.history, arm, evidence.look)
        if chosen is None or chosen.default or default is None or not (default.trained and tuned.trained):
            continue
        try:
            gain = apart(tuned, default)
        except Refused:
            continue
        if gain.high < 0:
            sentences.append(
                f"{arm}: the net in hand is {'behind' if metric.lower else 'below'} the default on the test images, by "
                f"{metric.gap_of(-gain.delta)} (95 %: {metric.number(-gain.high)} to {metric.number(-gain.low)}): the search lost "
                "what the default had."
            )
    return sentences


def position(axis: Mapping[str, Any], value: object) -> float | None:
    """Where a value lies in its range, 0 to 1 on the scale that was searched; None for a choice."""
    if "low" not in axis or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high, x = float(axis["low"]), float(axis["high"]), float(value)
    if axis.get("log"):
        low, high, x = math.log(low), math.log(high), math.log(max(x, low))
    return (x - low) / (high - low)


def edges(evidence: Evidence) -> list[tuple[str, str, float]]:
    """(arm, parameter, value) of every setting in hand in the outer twentieth of its range, with other good ones there.

    An optimum at the edge may lie beyond it (Cooper et al. 2021). By itself a setting lies there by chance in a quarter of
    the arms, so at least ``AT_EDGE`` of the arm's best ``GOOD`` must lie at the same end. A lower end of 0 is no edge.
    """
    history, spaces, found = evidence.history, evidence.plan.spaces, []
    for arm in evidence.plan.arms:
        choice = in_hand(history, arm, evidence.look)
        tried = [*history.of(arm, "search"), *history.of(arm, "slice")]
        good = [t.config for t in best_first(history, tried, most=GOOD)]
        for name, value in choice.config.items() if choice else ():
            axis = spaces.get(arm, {}).get(name, {})
            end = _end(axis, value)
            if end and sum(_end(axis, c.get(name)) == end for c in good) >= AT_EDGE:
                found.append((arm, name, float(value)))
    return found


def _end(axis: Mapping[str, Any], value: object) -> str:
    """``high`` or ``low`` for a value in the outer twentieth of its range, else empty."""
    where = position(axis, value)
    if where is None or EDGE <= where <= 1 - EDGE or (where < EDGE and axis["low"] == 0):
        return ""
    return "high" if where > 1 - EDGE else "low"


def _edges(evidence: Evidence) -> list[str]:
    found = edges(evidence)
    if not found:
        return []
    sentences = [
        f"{arm}: the chosen {name} of {value:.4g} lies at the edge of what was searched "
        f"({evidence.plan.spaces[arm][name]['low']:g} to {evidence.plan.spaces[arm][name]['high']:g}), as do others of the arm's "
        f"best {GOOD}, so a better one may lie beyond."
        for arm, name, value in found
    ]
    wider = ",".join(sorted({name for _, name, _ in found} | set(evidence.plan.widen)))
    return [*sentences, f"To search further for every arm alike: {again(evidence.plan, '--widen', wider)}"]


def _records(evidence: Evidence) -> list[str]:
    history, plan = evidence.history, evidence.plan
    sentences = [f"{history.torn[0].upper()}{history.torn[1:]}."] if history.torn else []
    looks = [opened.manifest for opened in history.opened]
    if len(looks) > len(set(looks)):
        sentences.append(
            f"The test set was opened {len(looks)} times, more than once in a look. A result that was seen before the last "
            "runs were chosen does not count as sealed."
        )
    if plan.earlier:
        sentences.append(
            f"The same test images were opened before, by {listed([e.run for e in plan.earlier])}. Where a study asked about the same "
            "arms, this one is held to half of that study's error rate."
        )
    for accepted in filter(None, (session.accepted for session in history.sessions)):
        sentences.append(
            f"The study went on with other code or versions than it began with, which was accepted: {accepted}. Runs "
            "from before and after may differ for that alone."
        )
    lost = sum(history.spent(arm, "lost") for arm in evidence.plan.arms)
    whole = budget(evidence.plan, history).seconds
    if lost > LOST * whole:
        sentences.append(
            f"Interruptions cost {duration(lost)}, {percent(lost / whole)} of the budget, for what they "
            "undid and for starting again: fewer confirmation runs were left for it, for every arm alike."
        )
    manifests = {m.sha256 for m in history.manifests}
    if any(opened.manifest not in manifests for opened in history.opened):
        sentences.append("The test set was opened for another manifest than one that is recorded.")
    return sentences


def _runs(evidence: Evidence) -> list[str]:
    history, plan, sentences = evidence.history, evidence.plan, []
    for arm in plan.arms:
        confirmed = list(evidence.finds.get(arm, {}).values())
        for group, name in (
            ([r for r in [evidence.default.get(arm)] if r], "baseline"),
            (confirmed, "confirmation"),
        ):
            if failed_runs := sum(r.guessed for r in group):
                sentences.append(
                    f"{arm}: {failed_runs} of {sum(len(r.correct) for r in group)} {name} runs failed. A failed run counted as "
                    "guessing the most frequent class; leaving it out would flatter the arm."
                )
        tuned, default = evidence.tuned.get(arm), evidence.default.get(arm)
        if tuned is not None and len(tuned.correct) < CONFIRM_FLOOR:
            sentences.append(
                f"{arm}: only {counted(len(tuned.correct), 'confirmation run')} of the net in hand; under {CONFIRM_FLOOR} is thin."
            )
        if not evidence.open and (default is None or len(default.correct) < evidence.plan.folds):
            count = 0 if default is None else len(default.correct)
            sentences.append(f"{arm}: {count} of {evidence.plan.folds} baseline runs are there.")
        sentences += _undecided(evidence, arm)
        ends = [history.outcomes.get(t.id) for t in history.of(arm, "search")]
        if failed := sum(end is not None and end.state == "failed" for end in ends):
            sentences.append(
                f"{arm}: {failed} of {len(ends)} search trials failed; their cost is in its share."
            )
    return sentences


def _undecided(evidence: Evidence, arm: str) -> list[str]:
    """Early stopping had hardly anything to go by: trials that tie at a rung, in score and loss, are all promoted."""
    history, rungs = evidence.history, evidence.plan.rungs
    met = [t.id for t in history.of(arm, "search") if rungs and len(history.epochs[t.id]) >= rungs[0]]
    seen = [history.epochs[t][rungs[0] - 1] for t in met]
    different = len({(e.val_score, e.val_loss) for e in seen})
    stopped = sum(how_it_ended(history.outcomes.get(t)) == "stopped by ASHA" for t in met)
    if len(met) < TRIALS_FLOOR or different > len(met) / 2 or stopped > len(met) / REDUCTION:
        return []
    sentence = (
        f"{arm}: ASHA, which means to stop two thirds at each rung, stopped {stopped} of {len(met)} search trials: on "
        f"{evidence.plan.val_images} validation images {'all trials scored the same' if different == 1 else f'the trials had only {different} different scores'} at its "
        "first rung, and trials that tie in score and loss are all promoted."
    )
    return [sentence]


def first_rung(evidence: Evidence) -> list[tuple[str, str, bool | None]]:
    """How well the first rung, which stops most trials, ranks settings: over the random ones, which nothing stopped.

    Per arm its rank correlation with the end in words, and whether that is shown to be above 0, None where too few settings
    were finished to ask; empty without rungs.
    """
    found: list[tuple[str, str, bool | None]] = []
    for arm in evidence.plan.arms if evidence.plan.rungs else ():
        finished = evidence.history.full_length(arm, "slice")
        curves = [[e.val_score for e in evidence.history.epochs[t.id]] for t in finished]
        if len(curves) < FEWEST:
            found.append((arm, f"has {counted(len(curves), 'finished setting')}, too few", None))
            continue
        first, last = (np.array([curve[at] for curve in curves]) for at in (evidence.plan.rungs[0] - 1, -1))
        rho, low, high = rank_correlation(first, last)
        said = f"{rho:.2f} (95 % {low:.2f} to {high:.2f}, {len(curves)} settings)"
        if math.isnan(rho):
            said = "none: all settings are alike at one of the two"
        found.append((arm, said, low > 0))
    return found


def _unranked(evidence: Evidence) -> list[str]:
    unsure = [f"{arm} {words}" for arm, words, shown in first_rung(evidence) if shown is False]
    if evidence.open or not unsure:
        return []
    sentence = (
        f"ASHA stops most trials after epoch {evidence.plan.rungs[0]}, and it is not shown that this epoch ranks settings as the end "
        f"does: over the random settings the rank correlation is not above 0 beyond doubt ({'; '.join(unsure)}). The searches may "
        "have stopped good settings."
    )
    return [sentence]


def _fairness(evidence: Evidence) -> list[str]:
    plan, history = evidence.plan, evidence.history
    sentences = [warning] if (warning := unmatched(plan.audits)) else []
    sentences += [*starts(plan.weights, plan.arms, plan.data.size), *pinned(plan.spaces)]
    extension = history.extension
    if extension is not None and not extension.pairs and evidence.look >= extension.look:
        sentences.append(
            f"{extension.arms[0]} was added later and ran alone, the others side by side: what differed on the machine then is "
            "part of its costs, and so of what its share bought."
        )
    for arm in plan.arms:
        seconds, last = history.spent(arm), plan.machine.slots * allocation.epoch_cost(plan, arm)
        own = share(plan, history)
        if seconds > own + max(OVERSHOOT * own, last):
            over = percent(seconds / own - 1, 1)
            sentences.append(f"{arm} spent {duration(seconds)}, {over} over its share.")
    searched = {arm: history.spent(arm, "search", "slice") for arm in plan.arms}
    last = plan.machine.slots * max((_dearest_report(history, arm) for arm in plan.arms), default=0.0)
    gap = max(searched.values()) - min(searched.values())
    if not evidence.open and gap > max(EQUAL_SPEND * max(searched.values()), last):
        each = listed([f"{arm} {duration(seconds)}" for arm, seconds in searched.items()])
        sentences.append(f"The arms did not get the same search: {each}.")
    tuning = history.tuning
    for arm in plan.arms:
        sentences += _uneven(evidence, arm)
        full = tuning.full_run.get(arm, 0.0) if tuning else 0.0
        # the defaults that the searches begin with are paid by the baseline
        if (
            tuning
            and full
            and (runs := tuning.per_arm / full + searches(plan, history)) < TUNING_RUNS_FLOOR / MARGIN
        ):
            sentences.append(
                f"{arm}: its searches were worth {runs:.1f} full runs together, the default's included; under {TUNING_RUNS_FLOOR} "
                "they are too few to call it a search."
            )
        if not evidence.open and (bare := [r for r in search_runs(plan, history).get(arm, []) if r < 1]):
            sentences.append(
                f"{arm}: {len(bare)} of its searches had less than one full run beside the default ({', '.join(f'{r:.1f}' for r in bare)}): "
                "too little to find anything."
            )
    return sentences


def _uneven(evidence: Evidence, arm: str) -> list[str]:
    """One setting's full runs took much longer in one phase than in another: the machine had other work."""
    costs: dict[str, dict[str, list[float]]] = {}
    for phase in PHASES:
        for trial in evidence.history.full_length(arm, phase):
            own = costs.setdefault(json.dumps(trial.config, sort_keys=True), {})
            own.setdefault(phase, []).append(trained(evidence.plan, evidence.history, trial))
    worst, sentences = UNEVEN, []
    for own in costs.values():
        ranked = sorted((median(seconds), phase) for phase, seconds in own.items())
        (low, before), (high, after) = ranked[0], ranked[-1]
        if high > worst * low:
            worst = high / low
            said = (
                f"{arm}: the epochs of a full run of one setting took {duration(low)} in {before} and {duration(high)} in "
                f"{after} (medians), {worst:.1f} times as long: other load on the machine, so its costs are rough."
            )
            sentences = [said]
    return sentences


def _dearest_report(history: History, arm: str) -> float:
    """Largest cost between two reports of a search trial: by how much a decision to stop may come too late."""
    curves = [[0.0, *(e.cost for e in history.epochs[t.id])] for t in history.of(arm, "search")]
    return max((after - before for costs in curves for before, after in pairwise(costs)), default=0.0)


PART = Part(order=10, build=section)
