"""Selection re-runs, the manifest, and the one opening of the sealed test set.

Selection is fixed-budget best-arm identification by sequential halving (Karnin et al. 2013) on new
splits and seeds, since a tuning score is the luckiest of many (method.md 3, "Selection noise").
"""

import math
from collections.abc import Iterable

from search_spaces import Config
from study.ledger import History
from study.plan import CONFIRM_CEILING, Plan
from study.records import Choice, Trial, setting

RUNS_FLOOR = 2
"""Fewer runs than this have no spread, and so no interval over new runs."""


class StudyError(RuntimeError):
    """The study cannot be finished; the message says why and what would help."""


def candidates(plan: Plan, history: History, arm: str) -> list[Config]:
    """The arm's settings that enter selection, best validation accuracy first, no setting twice.

    Full-length search trials come first, then those that got furthest.
    """
    reached: dict[str, tuple[tuple[int, float], Config]] = {}
    for trial in history.of(arm, "search"):
        epochs = history.epochs[trial.id]
        outcome = history.outcomes.get(trial.id)
        if not epochs or outcome is None or outcome.state == "failed":
            continue
        rank = (len(epochs), epochs[-1].val_accuracy)
        key = setting(trial.config)
        if key not in reached or rank > reached[key][0]:
            reached[key] = (rank, trial.config)
    ordered = sorted(reached.values(), key=lambda item: item[0], reverse=True)
    return [config for _, config in ordered[: plan.candidates]]


def repeat(history: History, arm: str, config: Config) -> int:
    """How many selection runs of this setting there are."""
    return len(_runs(history, arm, config))


def next_candidate(plan: Plan, history: History, arm: str) -> Config | None:
    """The setting whose selection run comes next; None when none is due now.

    Four candidates: one run each, then two more of the best two. Two candidates: two runs each.
    """
    first, second = (1, 2) if plan.candidates > 2 else (2, 0)
    entered = candidates(plan, history, arm)
    due = _due(history, arm, entered, first)
    if (
        due is not None
        or not second
        or history.running(arm, "select")
        and not _decided(history, arm, entered)
    ):
        return due
    finalists = sorted(entered, key=lambda c: _mean(history, _runs(history, arm, c)[:first]), reverse=True)[
        :2
    ]
    return _due(history, arm, finalists, first + second)


def choose(plan: Plan, history: History, arm: str) -> Choice:
    """The setting that goes to confirmation: best mean over its selection runs, ties to the cheaper.

    Only settings with the most runs count. The rest of the arm's share says how many fresh-seed runs
    follow, at the cost that its selection runs had. Raises StudyError when no selection run finished.
    """
    runs = {setting(c): _runs(history, arm, c) for c in candidates(plan, history, arm)}
    most = max((len(trials) for trials in runs.values()), default=0)
    finalists = [t for t in runs.values() if len(t) == most and any(history.finished(r.id) for r in t)]
    if not finalists:
        failed = [
            o.reason
            for t in history.of(arm, "search")
            if (o := history.outcomes.get(t.id)) and o.state == "failed"
        ]
        why = f" The last failure: {failed[-1]}" if failed else ""
        raise StudyError(
            f"arm {arm} has no setting that trains to the end, so there is nothing to confirm.{why}"
        )
    best = max(finalists, key=lambda trials: (_mean(history, trials), -_cost(history, trials)))
    names = tuple(t.id for t in best)
    affordable = math.floor(
        left(plan, history, arm, spent=history.spent(arm)) / run_cost(plan, history, names)
    )
    return Choice(
        config=best[0].config,
        trials=names,
        val_accuracy=_mean(history, best),
        runs=min(CONFIRM_CEILING, max(RUNS_FLOOR, affordable)),
    )


def left(plan: Plan, history: History, arm: str, *, spent: float) -> float:
    """Resource-seconds of the arm's share that are neither spent nor owed to the scoring of trained nets."""
    owed = len(history.full_length(arm, "baseline")) + len(history.of(arm, "confirm"))
    return plan.share - spent - startup(plan, history, arm) - owed * plan.test_cost(arm)


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


def run_cost(plan: Plan, history: History, trials: Iterable[str]) -> float:
    """Resource-seconds of one more run like these, its test score included; at the latest price if dearer."""
    chosen = [history.trials[t] for t in trials]
    latest = history.full_length(chosen[0].arm, "confirm")[-1:]
    return max(_cost(history, group) for group in (chosen, latest or chosen)) + plan.test_cost(chosen[0].arm)


def _runs(history: History, arm: str, config: Config) -> list[Trial]:
    return [t for t in history.of(arm, "select") if t.config == config]


def _due(history: History, arm: str, configs: list[Config], runs: int) -> Config | None:
    """The first of these settings with the fewest runs, while that is below ``runs``."""
    fewest = min(configs, key=lambda c: repeat(history, arm, c), default=None)
    return fewest if fewest is not None and repeat(history, arm, fewest) < runs else None


def _decided(history: History, arm: str, entered: list[Config]) -> bool:
    """Whether the first run of every candidate has ended, so that the finalists are known."""
    return all(_runs(history, arm, c)[0].id in history.outcomes for c in entered)


def _mean(history: History, trials: list[Trial]) -> float:
    """Mean validation accuracy of the runs that finished, -inf when any failed: it would fail again."""
    scores = [history.val_accuracy(t.id) for t in trials if history.finished(t.id)]
    known = [s for s in scores if s is not None]
    return sum(known) / len(known) if known and len(known) == len(trials) else -math.inf


def _cost(history: History, trials: list[Trial]) -> float:
    costs = [history.outcomes[t.id].cost for t in trials if history.finished(t.id)]
    return sum(costs) / len(costs)
