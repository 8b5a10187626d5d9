"""What a search found, and which setting is confirmed.

Selection compares every search's find with the arm's default, image by image, on folds that the search never saw: the best
tuning score is the luckiest of many, and tuning must not lose to the default (METHOD.md 3).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search_spaces import Config
from study.protocol.accounting import left, run_cost, searches
from study.protocol.allocation import CONFIRM_CEILING, CONFIRM_EACH, CONFIRM_FLOOR, select_folds
from study.protocol.errors import FinalError
from study.protocol.history import History
from study.protocol.metrics import ACCURACY
from study.protocol.plan import Plan
from study.protocol.records import SCORED_PHASES, Choice, Manifest, Trial
from study.protocol.validation import Kept, Reader

AHEAD = 0.5
"""Standard errors by which a setting must lead the default to be taken (METHOD.md 3)."""
CHEAPER = 0.02
"""Part by which the epochs of one of two tied settings must be cheaper to count as cheaper."""
NEIGHBOURS = 3
"""Nearest settings whose scores tell which of two tied settings is safer."""
ENOUGH = 8
"""Settings that ``best_first`` returns: more than anyone looks at."""


def default_of(history: History, arm: str) -> Config:
    """The arm's default setting, from its baseline runs."""
    return history.of(arm, "baseline")[0].config


def found_by(plan: Plan, history: History, arm: str, pair: int) -> tuple[Trial | None, str]:
    """The trial whose setting a search found, and how a tie was broken; None if it found nothing beside the default.

    The find is the setting trained furthest, then the one with the best validation score; settings that ASHA stopped were
    rejected and do not count. A tie goes to the setting whose epochs are cheaper by more than 2 %, else to the one whose
    three nearest settings scored better at the first rung.
    """
    trials = [t for t in history.of(arm, "search") if t.pair == pair]
    default = default_of(history, arm)
    kept = [
        t for t in trials if t.id in history.outcomes and not history.outcomes[t.id].reason.startswith("asha")
    ]
    best = [t for t in best_first(history, kept, most=len(kept)) if t.config != default]
    if not best:
        return None, ""
    tied = [t for t in best if _standing(history, t) == _standing(history, best[0])]
    if len(tied) == 1:
        return best[0], ""
    costs = {t.id: _epoch_seconds(history, t) for t in tied}
    least = min(costs.values())
    cheap = [t for t in tied if costs[t.id] <= (1 + CHEAPER) * least]
    alike = plan.judged.value(_standing(history, best[0])[1])
    said = f"{len(tied)} settings of this search scored {alike} alike; taken was "
    if len(cheap) == 1:
        return cheap[0], f"{said}the cheapest."
    winner = max(cheap, key=lambda t: _around(plan, history, t, trials))  # of a tie the earliest
    return winner, f"{said}the one whose nearest settings scored best."


def find(plan: Plan, history: History, arm: str, pair: int) -> Config | None:
    """The setting that a search found, never the default; None if no other lasted."""
    trial, _ = found_by(plan, history, arm, pair)
    return None if trial is None else trial.config


def best_first(history: History, trials: Sequence[Trial], *, most: int = ENOUGH) -> list[Trial]:
    """The trials that did not fail, one per setting, the furthest trained and most accurate first."""
    lasting = [t for t in trials if (o := history.outcomes.get(t.id)) and o.state != "failed" and o.epochs]
    lasting.sort(key=lambda t: _standing(history, t), reverse=True)
    found: list[Trial] = []
    for trial in lasting:
        if all(trial.config != t.config for t in found):
            found.append(trial)
            if len(found) == most:
                break
    return found


def _standing(history: History, trial: Trial) -> tuple[int, float]:
    """How far a trial was trained, and its validation score at that point."""
    epochs = history.epochs[trial.id]
    return len(epochs), epochs[-1].val_score


def _epoch_seconds(history: History, trial: Trial) -> float:
    epochs = history.epochs[trial.id]
    return sum(e.train_seconds + e.eval_seconds for e in epochs) / len(epochs)


def _around(plan: Plan, history: History, trial: Trial, trials: Sequence[Trial]) -> float:
    """Mean score at the first rung, which all trials reached, of the settings nearest to the trial's."""
    rung = (plan.rungs or (1,))[0]
    others = [
        t for t in trials if t.config != trial.config and len(history.epochs[t.id]) >= rung
    ]  # fmt: skip
    space = plan.spaces.get(trial.arm, {})
    others.sort(key=lambda t: _distance(space, trial.config, t.config))
    scores = [history.epochs[t.id][rung - 1].val_score for t in others[:NEIGHBOURS]]
    return sum(scores) / len(scores) if scores else -math.inf


def _distance(space: Mapping[str, Mapping[str, Any]], a: Config, b: Config) -> float:
    """Squared distance with every axis scaled to length 1; two options of a choice are 1 apart."""
    total = 0.0
    for name, axis in space.items():
        if name not in a or name not in b:
            total += (name in a) != (name in b)
        elif "options" in axis:
            total += a[name] != b[name]
        else:
            low, high, x, y = (float(v) for v in (axis["low"], axis["high"], a[name], b[name]))
            gap = math.log(x / y) / math.log(high / low) if axis["log"] else (x - y) / (high - low)
            total += gap**2
    return total


def next_selection(
    plan: Plan, history: History, arm: str, found: Mapping[int, Config | None]
) -> tuple[int, int] | None:
    """Pair and fold of the selection run that is due; ``found`` holds each search's find."""
    ran = {(t.pair, t.fold) for t in history.of(arm, "select")}
    for pair, config in found.items():
        for fold in select_folds(plan, pair) if config is not None else ():
            if (pair, fold) not in ran:
                return pair, fold
    return None


def choose(plan: Plan, history: History, arm: str, pair: int, kept: Reader) -> Choice:
    """What one search of the arm sends to confirmation; ``settle`` adds the number of runs.

    The find is taken if it leads the default, on the same folds, by half a standard error of that lead:
    se^2 = Var(d_i) / (m n) + 2 v / m for m folds of n images, where d_i is the difference on image i and v the variance of
    one run (METHOD.md 3). If a fold's file is missing, its images count as independent, which makes the standard error
    larger. Raises FinalError if neither setting trains to the end.
    """
    trial, ties = found_by(plan, history, arm, pair)
    tuned = [t for t in history.of(arm, "select") if t.pair == pair]
    folds = select_folds(plan, pair)
    baseline = history.of(arm, "baseline")
    default = [t for t in baseline if t.fold in folds]
    variance = run_variance(plan, history, kept)
    lead = lead_se = None
    tuned_lasts, default_lasts = _all_finished(history, tuned), _all_finished(history, baseline)
    default_any = any(history.finished(t.id) for t in baseline)
    if tuned_lasts and default_lasts:
        lead, lead_se = _lead(plan, history, tuned, default, variance, kept)
        takes = lead > 0 and lead >= AHEAD * lead_se
    elif default_any or any(history.finished(t.id) for t in tuned):
        takes = tuned_lasts or not default_any
    else:
        raise _nothing_lasts(history, arm)
    runs = tuned if takes else default
    return Choice(
        pair=pair,
        config=trial.config if takes and trial is not None else default_of(history, arm),
        default=not takes,
        trials=tuple(t.id for t in runs),
        val_accuracy=_mean([history.val_accuracy(t.id) for t in runs if history.finished(t.id)]),
        lead=lead,
        lead_se=lead_se,
        run_variance=variance,
        runs=0,
        ties=ties,
        score=None
        if plan.judged is ACCURACY
        else _mean(
            [history.val_score(t.id) for t in runs if history.finished(t.id)], otherwise=plan.judged.worst
        ),
    )


def _nothing_lasts(history: History, arm: str) -> FinalError:
    ends = [history.outcomes.get(t.id) for phase in ("search", "baseline") for t in history.of(arm, phase)]
    reasons = [o.reason for o in ends if o is not None and o.state == "failed"]
    why = f" The last failure: {reasons[-1]}" if reasons else ""
    return FinalError(
        f"arm {arm} has no setting that trains to the end, so there is nothing to confirm.{why}"
    )


def _lead(
    plan: Plan, history: History, tuned: list[Trial], default: list[Trial], variance: float, kept: Reader
) -> tuple[float, float]:
    """Mean lead over the folds, and its standard error."""
    of_fold = {t.fold: t for t in default}
    leads, images = [], []
    for run in tuned:
        other = of_fold[run.fold]
        scores = [_score(history, t) for t in (run, other)]
        leads.append(scores[0] - scores[1])
        a, b = (kept(t.id) for t in (run, other))
        if a is None or b is None or len(a.scores) != len(b.scores):
            images.append(
                sum(_of_images(plan, kept(t.id), x) for t, x in zip((run, other), scores, strict=True))
            )
        else:
            images.append(a.sampling.variance(a.scores.astype(np.float64) - b.scores))
    rounds = len(leads)
    return sum(leads) / rounds, math.sqrt(sum(images) / rounds**2 + 2 * variance / rounds)


def run_variance(plan: Plan, history: History, kept: Reader) -> float:
    """Variance of one run's score beyond the sampling of its fold's images: from the default's runs, pooled over the arms."""
    squares, freedom, sampling = 0.0, 0, []
    for arm in plan.arms:
        runs = [t for t in history.full_length(arm, "baseline") if history.epochs[t.id]]
        scores = [_score(history, t) for t in runs]
        if len(scores) > 1:
            squares += float(np.var(scores)) * len(scores)
            freedom += len(scores) - 1
        sampling += [_of_images(plan, kept(t.id), x) for t, x in zip(runs, scores, strict=True)]
    return max(0.0, squares / freedom - sum(sampling) / len(sampling)) if freedom else 0.0


def _score(history: History, trial: Trial) -> float:
    return history.epochs[trial.id][-1].val_score


def _of_images(plan: Plan, kept: Kept | None, score: float) -> float:
    """Variance of a run's score that its fold's images make: x (1 - x) / n where an image is right or wrong and each counts
    alike; else from the images, and without a file as large as it may be."""
    if kept is None or plan.judged is ACCURACY:
        return (
            plan.judged.spread(score)
            / plan.val_images
            * (len(plan.data.classes) if plan.judged.by_class else 1)
        )
    return kept.sampling.variance(kept.scores)


def in_hand(choices: Sequence[Choice]) -> int:
    """The pair whose find has the best mean validation score; of a tie the earliest."""
    return max(choices, key=lambda choice: (choice.val_score, -choice.pair)).pair


def runs_floor(plan: Plan, history: History, *, hand: bool) -> int:
    """Confirmation runs that a find gets whatever they cost, even on a machine that became slower."""
    return CONFIRM_FLOOR if hand or searches(plan, history) == 1 else CONFIRM_EACH


def settle(
    plan: Plan, history: History, arm: str, choices: Sequence[Choice], hand: int
) -> tuple[Choice, ...]:
    """The choices of a look, with the confirmation runs that the rest of the arm's share pays for.

    All finds get the same number as far as the money goes, and the net in hand gets the first run beyond that; each run is
    priced as the find's selection runs were.
    """
    runs = {c.pair: runs_floor(plan, history, hand=c.pair == hand) for c in choices}
    cost = {c.pair: run_cost(plan, history, arm, c) for c in choices}
    money = left(plan, history, arm, spent=history.spent(arm)) - sum(runs[p] * cost[p] for p in runs)
    order = sorted(runs, key=lambda pair: (pair != hand, pair))
    while True:
        pair = min(order, key=lambda p: runs[p])  # of a tie the net in hand
        if runs[pair] >= CONFIRM_CEILING or money < cost[pair]:
            break
        runs[pair] += 1
        money -= cost[pair]
    return tuple(dataclasses.replace(c, runs=runs[c.pair]) for c in choices)


def manifest(
    plan: Plan, history: History, arms: Sequence[str], pairs: Sequence[int], kept: Reader
) -> Manifest:
    """What the searches of a look send to confirmation, with each arm's net in hand among all pairs so far."""
    choices, hands = {}, {}
    for arm in arms:
        new = [choose(plan, history, arm, pair, kept) for pair in pairs]
        hands[arm] = in_hand([*history.choices(arm), *new])
        choices[arm] = settle(plan, history, arm, new, hands[arm])
    return Manifest.of(choices, hands, look=len(history.manifests) + 1)


def to_be_scored(history: History, arm: str) -> list[Trial]:
    """The arm's nets that meet the test set at this look: defaults, random settings, and the confirmation runs of every find."""
    before = {t for opened in history.opened for t in opened.trials}
    return [
        trial
        for phase in SCORED_PHASES
        for trial in history.full_length(arm, phase)
        if trial.id not in before
    ]


def _all_finished(history: History, trials: Sequence[Trial]) -> bool:
    return bool(trials) and all(history.finished(t.id) for t in trials)


def _mean(scores: Sequence[float | None], *, otherwise: float = 0.0) -> float:
    """Of what is known; ``otherwise`` without any."""
    known = [s for s in scores if s is not None]
    return sum(known) / len(known) if known else otherwise
