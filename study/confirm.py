"""Selection re-runs, what goes to confirmation, and what that may cost.

Selection is fixed-budget best-arm identification by sequential halving (Karnin et al. 2013) on new
splits and seeds, since a tuning score is the luckiest of many (method.md 3, "Selection noise").
"""

import math
from collections.abc import Iterable

from search_spaces import Config
from study.ledger import History
from study.plan import CONFIRM_CEILING, CONFIRM_FLOOR, Plan
from study.records import Choice, Phase, Trial

RUNS_FLOOR = CONFIRM_FLOOR
"""So many runs are made even where a machine that became slower has left too little for them."""
ENOUGH = 8
"""More distinct settings than selection can ever ask for."""
SCORED_PHASES: tuple[Phase, ...] = ("baseline", "slice", "select", "confirm")
"""Phases some of whose nets meet the test set, so that their weights are kept."""


class StudyError(RuntimeError):
    """The study cannot go on now; the message says why and what would help."""


class GivenUpError(StudyError):
    """The study can never be finished as it was asked for."""


def candidates(plan: Plan, history: History, arm: str) -> list[Config]:
    """The settings that enter selection: what each island found by itself, then the best others.

    Found means furthest trained, then best validation accuracy. An island none of whose trials lasted
    offers the arm's default. The others come from the random slice first, without repeating a setting.
    """
    chosen: list[Config] = []
    default = [t.config for t in history.of(arm, "baseline")]
    for island in range(plan.islands):
        trials = [t for t in history.of(arm, "search") if t.island == island]
        chosen += ([t.config for t in best_first(history, trials)] or default)[:1]
    others = best_first(history, history.of(arm, "slice"))[:1] + best_first(
        history, history.of(arm, "search")
    )
    for config in (t.config for t in others):
        if len(chosen) < plan.candidates and config not in chosen:
            chosen.append(config)
    return chosen


def best_first(history: History, trials: list[Trial]) -> list[Trial]:
    """One trial per setting of those that did not fail, furthest trained and most accurate first."""
    lasting = [t for t in trials if (o := history.outcomes.get(t.id)) and o.state != "failed" and o.epochs]
    lasting.sort(
        key=lambda t: (len(history.epochs[t.id]), history.epochs[t.id][-1].val_accuracy), reverse=True
    )
    found: list[Trial] = []
    for trial in lasting:
        if all(trial.config != t.config for t in found):
            found.append(trial)
            if len(found) == ENOUGH:
                break
    return found


def next_candidate(
    plan: Plan, history: History, arm: str, entered: list[Config]
) -> tuple[int, Config] | None:
    """Which of the ``candidates`` that entered, by position, is run next; None when none is due now.

    One run of every candidate; then ``plan.extra_runs`` of each of the two best settings.
    """
    first = _first_runs(history, arm, entered)
    for position, config in enumerate(entered):
        if first[position] is None:
            return position, config
    if any(trial is not None and trial.id not in history.outcomes for trial in first):
        return None
    for config in _finalists(history, arm, entered):
        if repeat(history, arm, config) < entered.count(config) + plan.extra_runs:
            return entered.index(config), config
    return None


def repeat(history: History, arm: str, config: Config) -> int:
    """How many selection runs of this setting there are."""
    return len(_runs(history, arm, config))


def choose(plan: Plan, history: History, arm: str) -> Choice:
    """The setting that goes to confirmation: best mean over its selection runs, ties to the cheaper.

    The rest of the arm's share says how many fresh-seed runs follow, at the cost that its selection
    runs had. Raises GivenUpError when no finalist trained to the end.
    """
    entered = candidates(plan, history, arm)
    runs = [_runs(history, arm, config) for config in _finalists(history, arm, entered)]
    lasting = [trials for trials in runs if any(history.finished(t.id) for t in trials)]
    if not lasting:
        ends = [history.outcomes.get(t.id) for t in history.of(arm, "search")]
        reasons = [o.reason for o in ends if o is not None and o.state == "failed"]
        why = f" The last failure: {reasons[-1]}" if reasons else ""
        raise GivenUpError(
            f"arm {arm} has no setting that trains to the end, so there is nothing to confirm.{why}"
        )
    best = max(lasting, key=lambda trials: (_mean(history, trials), -_cost(history, trials)))
    names = tuple(t.id for t in best)
    affordable = math.floor(
        left(plan, history, arm, spent=history.spent(arm)) / run_cost(plan, history, names)
    )
    islands = _first_runs(history, arm, entered)[: plan.islands]
    return Choice(
        config=best[0].config,
        trials=names,
        val_accuracy=_mean(history, best),
        runs=min(CONFIRM_CEILING, max(RUNS_FLOOR, affordable)),
        islands=tuple(t.id for t in islands if t is not None),
    )


def to_be_scored(history: History, arm: str) -> list[Trial]:
    """The arm's nets that meet the test set: defaults, slice, the islands' own runs, confirmation."""
    assert history.manifest is not None
    islands = history.manifest.choices[arm].islands
    return [
        trial
        for phase in SCORED_PHASES
        for trial in history.full_length(arm, phase)
        if phase != "select" or trial.id in islands
    ]


def left(plan: Plan, history: History, arm: str, *, spent: float) -> float:
    """Resource-seconds of the arm's share that are neither spent nor owed to the scoring of trained nets."""
    owed = plan.islands + sum(len(history.of(arm, p)) for p in SCORED_PHASES if p != "select")
    own = spent - history.spent(arm, "lost")
    return (
        plan.share
        - own
        - lost_share(plan, history)
        - startup(plan, history, arm)
        - owed * plan.test_cost(arm)
    )


def unspent(plan: Plan, history: History) -> dict[str, float]:
    """Arm -> resource-seconds that would have paid for more runs than any study confirms with."""
    over = {arm: left(plan, history, arm, spent=history.spent(arm)) for arm in plan.arms}
    runs = {arm: history.full_length(arm, "confirm") for arm in plan.arms}
    return {
        arm: seconds
        for arm, seconds in over.items()
        if len(runs[arm]) >= CONFIRM_CEILING and seconds >= run_cost(plan, history, [runs[arm][-1].id])
    }


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


def run_cost(plan: Plan, history: History, trials: Iterable[str]) -> float:
    """Resource-seconds of one more run like these, its test score included; at the latest price if dearer."""
    chosen = [history.trials[t] for t in trials]
    latest = history.full_length(chosen[0].arm, "confirm")[-1:]
    return max(_cost(history, group) for group in (chosen, latest or chosen)) + plan.test_cost(chosen[0].arm)


def _first_runs(history: History, arm: str, entered: list[Config]) -> list[Trial | None]:
    """The first selection run of every candidate, by position."""
    first: list[Trial | None] = [None] * len(entered)
    for trial in history.of(arm, "select")[: len(entered)]:
        first[trial.island] = trial
    return first


def _finalists(history: History, arm: str, entered: list[Config]) -> list[Config]:
    """The two settings with the best mean over the first round, in which every candidate ran once."""
    first = _first_runs(history, arm, entered)
    settings: list[Config] = []
    for config in entered:
        if config not in settings:
            settings.append(config)

    def score(config: Config) -> float:
        return _mean(history, [t for t in first if t is not None and t.config == config])

    return sorted(settings, key=score, reverse=True)[:2]


def _runs(history: History, arm: str, config: Config) -> list[Trial]:
    return [t for t in history.of(arm, "select") if t.config == config]


def _mean(history: History, trials: list[Trial]) -> float:
    """Mean validation accuracy of the runs that finished, -inf when any failed: it would fail again."""
    scores = [history.val_accuracy(t.id) for t in trials if history.finished(t.id)]
    known = [s for s in scores if s is not None]
    return sum(known) / len(known) if known and len(known) == len(trials) else -math.inf


def _cost(history: History, trials: list[Trial]) -> float:
    costs = [history.outcomes[t.id].cost for t in trials if history.finished(t.id)]
    return sum(costs) / len(costs)
