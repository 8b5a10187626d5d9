"""Selection, what goes to confirmation, and what that may cost.

Every search's find is held against the arm's default on folds that the search never saw, image by image: a tuning score
is the luckiest of many, and tuned must not lose to default (METHOD.md 3).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search_spaces import Config
from study.protocol.errors import FinalError
from study.protocol.ledger import History
from study.protocol.plan import CONFIRM_CEILING, CONFIRM_EACH, CONFIRM_FLOOR, Budget, Plan
from study.protocol.records import Choice, Phase, Trial
from study.protocol.validation import Reader

RUNS_FLOOR = CONFIRM_FLOOR
"""So many runs of the net in hand are made even where a machine that became slower has left too little for them."""
AHEAD = 0.5
"""Standard errors by which a setting must lead the default to be taken (METHOD.md 3)."""
CHEAPER = 0.02
"""Of two settings that score alike one is cheaper when it is by more than this part."""
NEIGHBOURS = 3
"""Nearest settings whose scores tell which of two alike is the safer."""
SHRUNK = 0.5
"""Part of the planned search that must be left, or the study says at once that it is not."""
ENOUGH = 8
"""More settings than anyone looks at."""
SCORED_PHASES: tuple[Phase, ...] = ("baseline", "slice", "confirm")
"""Phases whose nets meet the test set, so that their weights are kept."""


def default_of(history: History, arm: str) -> Config:
    """The arm's default setting, as its baseline runs had it."""
    return history.of(arm, "baseline")[0].config


def found_by(plan: Plan, history: History, arm: str, pair: int) -> tuple[Trial | None, str]:
    """The trial whose setting a search found, and how a tie was broken; None when it found none beside the default.

    Found means furthest trained, then best validation accuracy; a setting that fell behind the best third at a rung was
    rejected by its search and is not found. Of settings that are alike in both, the one whose
    epochs are cheaper by more than 2 %, else the one whose three nearest settings scored better at the first rung.
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
    said = f"{len(tied)} settings of this search scored {100 * _standing(history, best[0])[1]:.2f} % alike; taken was "
    if len(cheap) == 1:
        return cheap[0], f"{said}the cheapest."
    winner = max(cheap, key=lambda t: _around(plan, history, t, trials))  # of equal ones the earliest
    return winner, f"{said}the one whose nearest settings scored best."


def find(plan: Plan, history: History, arm: str, pair: int) -> Config | None:
    """The setting that a search found, which is not the default; None when none lasted."""
    trial, _ = found_by(plan, history, arm, pair)
    return None if trial is None else trial.config


def best_first(history: History, trials: Sequence[Trial], *, most: int = ENOUGH) -> list[Trial]:
    """One trial per setting of those that did not fail, furthest trained and most accurate first."""
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
    """How far a trial was trained, and its validation accuracy there."""
    epochs = history.epochs[trial.id]
    return len(epochs), epochs[-1].val_accuracy


def _epoch_seconds(history: History, trial: Trial) -> float:
    epochs = history.epochs[trial.id]
    return sum(e.train_seconds + e.eval_seconds for e in epochs) / len(epochs)


def _around(plan: Plan, history: History, trial: Trial, trials: Sequence[Trial]) -> float:
    """Mean accuracy, at the first rung, of the settings nearest to the trial's: all trials came that far."""
    rung = (plan.rungs or (1,))[0]
    others = [
        t for t in trials if t.config != trial.config and len(history.epochs[t.id]) >= rung
    ]  # fmt: skip
    space = plan.spaces.get(trial.arm, {})
    others.sort(key=lambda t: _distance(space, trial.config, t.config))
    scores = [history.epochs[t.id][rung - 1].val_accuracy for t in others[:NEIGHBOURS]]
    return sum(scores) / len(scores) if scores else -math.inf


def _distance(space: Mapping[str, Mapping[str, Any]], a: Config, b: Config) -> float:
    """Squared distance in the space scaled to sides of 1; two options of a choice are 1 apart."""
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
    """The pair and the fold of the selection run that is due; ``found`` has what each search found."""
    ran = {(t.pair, t.fold) for t in history.of(arm, "select")}
    for pair, config in found.items():
        for fold in plan.select_folds(pair) if config is not None else ():
            if (pair, fold) not in ran:
                return pair, fold
    return None


def choose(plan: Plan, history: History, arm: str, pair: int, correct: Reader) -> Choice:
    """What one search of the arm sends to confirmation; how many runs follow, ``settle`` says.

    What it found is taken when it leads the default, on the same folds, by half a standard error of that lead:
    se^2 = Var(d_i) / (m n) + 2 v / m for m folds of n images, d_i the difference on image i, and v the variance of
    one run (METHOD.md 3). Where a fold's file is missing, its images are taken to be independent, which makes
    the standard error larger. Raises FinalError when neither setting trains to the end.
    """
    trial, ties = found_by(plan, history, arm, pair)
    tuned = [t for t in history.of(arm, "select") if t.pair == pair]
    folds = plan.select_folds(pair)
    baseline = history.of(arm, "baseline")
    default = [t for t in baseline if t.fold in folds]
    variance = run_variance(plan, history)
    lead = lead_se = None
    tuned_lasts, default_lasts = _all_finished(history, tuned), _all_finished(history, baseline)
    default_any = any(history.finished(t.id) for t in baseline)
    if tuned_lasts and default_lasts:
        lead, lead_se = _lead(plan, history, tuned, default, variance, correct)
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
        val_accuracy=_mean(history, runs),
        lead=lead,
        lead_se=lead_se,
        run_variance=variance,
        runs=0,
        ties=ties,
    )


def _nothing_lasts(history: History, arm: str) -> FinalError:
    ends = [history.outcomes.get(t.id) for phase in ("search", "baseline") for t in history.of(arm, phase)]
    reasons = [o.reason for o in ends if o is not None and o.state == "failed"]
    why = f" The last failure: {reasons[-1]}" if reasons else ""
    return FinalError(
        f"arm {arm} has no setting that trains to the end, so there is nothing to confirm.{why}"
    )


def _lead(
    plan: Plan,
    history: History,
    tuned: Sequence[Trial],
    default: Sequence[Trial],
    variance: float,
    correct: Reader,
) -> tuple[float, float]:
    """Mean lead over the folds, and its standard error."""
    of_fold = {t.fold: t for t in default}
    leads, spread = [], []
    for run in tuned:
        other = of_fold[run.fold]
        accuracies = [history.val_accuracy(t.id) or 0.0 for t in (run, other)]
        a, b = (correct(t.id) for t in (run, other))
        leads.append(accuracies[0] - accuracies[1])
        if a is None or b is None or len(a) != len(b):
            spread.append(sum(x * (1 - x) for x in accuracies))
        else:
            spread.append(float(np.var(a.astype(np.int8) - b.astype(np.int8), ddof=1)))
    rounds = len(leads)
    images = sum(spread) / rounds / (rounds * plan.val_images)
    return sum(leads) / rounds, math.sqrt(images + 2 * variance / rounds)


def run_variance(plan: Plan, history: History) -> float:
    """Of one run's accuracy, beyond the sampling of its fold's images: from the defaults' runs, pooled over the arms."""
    squares, freedom, sampling = 0.0, 0, []
    for arm in plan.arms:
        runs = [history.val_accuracy(t.id) for t in history.full_length(arm, "baseline")]
        scores = [a for a in runs if a is not None]
        if len(scores) > 1:
            squares += float(np.var(scores)) * len(scores)
            freedom += len(scores) - 1
        sampling += [a * (1 - a) / plan.val_images for a in scores]
    return max(0.0, squares / freedom - sum(sampling) / len(sampling)) if freedom else 0.0


def in_hand(choices: Sequence[Choice]) -> int:
    """The pair whose find has the best validation mean; of equal ones the earliest."""
    return max(choices, key=lambda choice: (choice.val_accuracy, -choice.pair)).pair


def runs_floor(plan: Plan, *, hand: bool) -> int:
    """Confirmation runs that a find gets whatever they cost."""
    return RUNS_FLOOR if hand or plan.pairs == 1 else CONFIRM_EACH


def settle(
    plan: Plan, history: History, arm: str, choices: Sequence[Choice], hand: int
) -> tuple[Choice, ...]:
    """The choices of a look with the confirmation runs that the rest of the arm's share pays for.

    All finds get the same number as far as the money goes, the net in hand the first of what is over; each at the cost that
    its selection runs had.
    """
    runs = {c.pair: runs_floor(plan, hand=c.pair == hand) for c in choices}
    cost = {c.pair: run_cost(plan, history, arm, c) for c in choices}
    money = left(plan, history, arm, spent=history.spent(arm)) - sum(runs[p] * cost[p] for p in runs)
    order = sorted(runs, key=lambda pair: (pair != hand, pair))
    while True:
        pair = min(order, key=lambda p: runs[p])  # of equal ones the net in hand
        if runs[pair] >= CONFIRM_CEILING or money < cost[pair]:
            break
        runs[pair] += 1
        money -= cost[pair]
    return tuple(dataclasses.replace(c, runs=runs[c.pair]) for c in choices)


def to_be_scored(history: History, arm: str) -> list[Trial]:
    """The arm's nets that meet the test set at this look: defaults, random settings, confirmation of every find."""
    before = {t for opened in history.opened for t in opened.trials}
    return [
        trial
        for phase in SCORED_PHASES
        for trial in history.full_length(arm, phase)
        if trial.id not in before
    ]


def share(plan: Plan, history: History) -> float:
    """Resource-seconds per arm, all looks together."""
    extension = history.extension
    return extension.budget_seconds / len(plan.arms) if extension and extension.pairs else plan.share


def budget(plan: Plan, history: History) -> Budget:
    """Of the whole study, all looks together."""
    return Budget(seconds=share(plan, history) * len(plan.arms), resource=plan.budget.resource)


def left(plan: Plan, history: History, arm: str, *, spent: float) -> float:
    """Resource-seconds of the arm's share that are neither spent nor owed to the scoring of trained nets."""
    owed = sum(
        t.id not in history.scores
        and ((end := history.outcomes.get(t.id)) is None or end.state == "finished")
        for phase in SCORED_PHASES
        for t in history.of(arm, phase)
    )
    own = spent - history.spent(arm, "lost")
    return (
        share(plan, history)
        - own
        - lost_share(plan, history)
        - startup(plan, history, arm)
        - owed * plan.test_cost(arm)
    )


def unspent(plan: Plan, history: History) -> dict[str, float]:
    """Arm -> resource-seconds that would have paid for more runs than any study confirms with."""
    over = {arm: left(plan, history, arm, spent=history.spent(arm)) for arm in plan.arms}
    return {
        arm: seconds
        for arm, seconds in over.items()
        if (choices := history.choices(arm))
        and all(len(history.confirmed(arm, c.pair)) >= CONFIRM_CEILING for c in choices)
        and seconds >= max(run_cost(plan, history, arm, c) for c in choices)
    }


def search_runs(plan: Plan, history: History) -> dict[str, list[float]]:
    """Arm -> full runs that each of its searches really had, the restored default not counted; empty before the search."""
    tuning = history.tuning
    if tuning is None:
        return {}
    pairs = plan.pairs + (history.extension.pairs if history.extension else 0)
    return {
        arm: [history.spent(arm, "search", pair=pair) / tuning.full_run[arm] for pair in range(pairs)]
        for arm in plan.arms
        if arm in tuning.full_run
    }


def planned_search(plan: Plan, history: History, arm: str) -> float:
    """Full runs that each search of the arm may have, once that is known; before, as it was planned."""
    tuning = history.tuning
    if tuning is None or arm not in tuning.full_run:
        return plan.tuning_runs / plan.pairs
    return max(0.0, tuning.per_arm / tuning.full_run[arm] - tuning.slice_runs) / plan.pairs


def shrunk(plan: Plan, history: History) -> str:
    """What is to be said when full runs cost more than was measured and half of the planned search is gone; else empty."""
    tuning = history.tuning
    if tuning is None:
        return ""
    dearest = max(tuning.full_run.values())
    runs, planned = tuning.per_arm / dearest, plan.tuning_runs
    if runs >= SHRUNK * planned:
        return ""
    more = (planned * dearest - tuning.per_arm) * len(plan.arms)
    enough = math.ceil((plan.budget.seconds + 1.1 * more) / 60)
    times = max(cost / plan.full_run(arm) for arm, cost in tuning.full_run.items())
    return (
        f"the search has shrunk: full runs cost {times:.1f} times what was measured, so that {runs:.1f} of them per arm are "
        f"left for it instead of {planned:.1f}, {runs / plan.pairs:.1f} for each of {plan.pairs} "
        f"{'searches' if plan.pairs > 1 else 'search'}. A new study with --budget "
        f"{Budget(seconds=60.0 * enough, resource=plan.budget.resource)} or shorter --epochs would have what was planned"
    )


def lost_share(plan: Plan, history: History) -> float:
    """Every arm's equal part of what interruptions undid: whose trial it hit is chance and favours no arm.

    Confirmation runs alone pay for it, so that the search decides as it would have undisturbed.
    """
    return sum(history.spent(arm, "lost") for arm in plan.arms) / len(plan.arms)


def startup(plan: Plan, history: History, arm: str) -> float:
    """Resource-seconds to set apart for workers that have yet to start: the most that was seen so far."""
    extra = [overhead(plan, history, t) for t in history.full_length(arm, "baseline")]
    return max(plan.startup, sum(extra) - len(extra) * min(extra, default=0.0))


def overhead(plan: Plan, history: History, trial: Trial) -> float:
    """What a full-length trial held beyond its epochs."""
    return history.outcomes[trial.id].cost - trained(plan, history, trial)


def trained(plan: Plan, history: History, trial: Trial) -> float:
    """Resource-seconds of a trial's epochs alone."""
    return sum(e.train_seconds + e.eval_seconds for e in history.epochs[trial.id]) * plan.machine.fraction


def run_cost(plan: Plan, history: History, arm: str, choice: Choice) -> float:
    """Resource-seconds of one more run of this find, its test score included; at the latest price if dearer."""
    trials = [history.trials[t] for t in choice.trials if history.finished(t)]
    if choice.default or not trials:  # the first runs waited for their workers
        usual = history.tuning.full_run[arm] if history.tuning else plan.full_run(arm)
    else:
        usual = _cost(history, trials)
    latest = [t for t in history.confirmed(arm, choice.pair) if history.finished(t.id)][-1:]
    return max(usual, *(history.outcomes[t.id].cost for t in latest), 0.0) + plan.test_cost(arm)


def _all_finished(history: History, trials: Sequence[Trial]) -> bool:
    return bool(trials) and all(history.finished(t.id) for t in trials)


def _mean(history: History, trials: Sequence[Trial]) -> float:
    """Mean validation accuracy of the runs that finished; 0 when none did."""
    scores = [history.val_accuracy(t.id) for t in trials if history.finished(t.id)]
    known = [s for s in scores if s is not None]
    return sum(known) / len(known) if known else 0.0


def _cost(history: History, trials: Sequence[Trial]) -> float:
    return sum(history.outcomes[t.id].cost for t in trials) / len(trials)
