"""The costs of a study's runs and its remaining budget: every arm's share, over all looks (METHOD.md 3)."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from study.protocol import allocation
from study.protocol.allocation import CONFIRM_CEILING
from study.protocol.budget import Budget
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import SCORED_PHASES, Choice, Trial, Tuning
from study.protocol.text import counted

SHRUNK = 0.5
"""Part of the planned search below which the study says at once that the search has shrunk."""
SEARCH_FLOOR = 1.0
"""Full runs that a search has beside the default's; where the planned ones would have less, there are fewer."""


def share(plan: Plan, history: History) -> float:
    """Resource-seconds per arm, all looks together."""
    extension = history.extension
    return extension.budget_seconds / len(plan.arms) if extension and extension.pairs else plan.share


def budget(plan: Plan, history: History) -> Budget:
    """The budget of the whole study, all looks together."""
    return Budget(seconds=share(plan, history) * len(plan.arms), resource=plan.budget.resource)


def left(plan: Plan, history: History, arm: str, *, spent: float) -> float:
    """Resource-seconds of the arm's share that are neither spent nor owed to scoring trained nets."""
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
        - owed * allocation.test_cost(plan, arm)
    )


def unspent(plan: Plan, history: History) -> dict[str, float]:
    """Arm -> resource-seconds left over because every find has as many confirmation runs as a study makes."""
    over = {arm: left(plan, history, arm, spent=history.spent(arm)) for arm in plan.arms}
    return {
        arm: seconds
        for arm, seconds in over.items()
        if (choices := history.choices(arm))
        and all(len(history.confirmed(arm, c.pair)) >= CONFIRM_CEILING for c in choices)
        and seconds >= max(run_cost(plan, history, arm, c) for c in choices)
    }


def search_runs(plan: Plan, history: History) -> dict[str, list[float]]:
    """Arm -> full-run equivalents that each of its searches used, the restored default excluded; empty before the search."""
    tuning = history.tuning
    if tuning is None:
        return {}
    return {
        arm: [
            history.spent(arm, "search", pair=pair) / tuning.full_run[arm] for pair in numbers(plan, history)
        ]
        for arm in plan.arms
        if arm in tuning.full_run
    }


def searches(plan: Plan, history: History) -> int:
    """Paired searches per arm of the first look: as planned, until the tuning share is fixed."""
    return (history.tuning.pairs if history.tuning else 0) or plan.pairs


def numbers(plan: Plan, history: History) -> list[int]:
    """The pairs of searches of all looks."""
    further = history.extension.pairs if history.extension else 0
    return [*range(searches(plan, history)), *range(plan.pairs, plan.pairs + further)]


def planned_search(plan: Plan, history: History, arm: str) -> float:
    """Full-run equivalents that each search of the arm may use: as planned, until the tuning share is fixed."""
    tuning = history.tuning
    if tuning is None or arm not in tuning.full_run:
        return allocation.tuning_runs(plan) / plan.pairs
    return search_share(plan, history, arm) / tuning.full_run[arm]


def unsearched(plan: Plan, history: History, arm: str) -> bool:
    """Whether the share of a search does not pay for the first rung of one trial."""
    first = (plan.rungs or (plan.epochs,))[0]
    return planned_search(plan, history, arm) < first / plan.epochs


def tuning_share(plan: Plan, history: History, arms: Sequence[str]) -> Tuning:
    """The tuning share of these arms once their baseline runs are timed; an added arm gets what the others got."""
    full_run = {arm: measured_run(plan, history, arm) for arm in arms}
    if history.tuning is not None:
        return dataclasses.replace(history.tuning, full_run={**history.tuning.full_run, **full_run})
    per_arm, pairs, dearest = 0.0, 0, max(full_run.values())
    for pairs, reserved in _ways(plan):
        per_arm = max(0.0, min(_left_for_tuning(plan, history, arm, full_run[arm], reserved) for arm in arms))
        if per_arm >= pairs * SEARCH_FLOOR * dearest:
            break
    return Tuning(
        per_arm=per_arm,
        slice_runs=allocation.slice_runs(per_arm / dearest),
        full_run=full_run,
        pairs=pairs if pairs < plan.pairs else 0,
    )


def _ways(plan: Plan) -> Iterator[tuple[int, int]]:
    """Paired searches per arm and the runs set apart for their finds: as planned first, then ever less."""
    yield plan.pairs, allocation.select_runs(plan) + allocation.confirm_reserved(plan)
    for pairs in (plan.pairs, *(p for p in (*allocation.PAIRS, 1) if p < plan.pairs)):
        yield pairs, allocation.reserve_floor(pairs)


def _left_for_tuning(plan: Plan, history: History, arm: str, full_run: float, reserved: int) -> float:
    """What baseline, selection and confirmation leave of the arm's share."""
    test = allocation.test_cost(plan, arm)
    return (
        plan.share
        - history.spent(arm, "probe", "baseline")
        - startup(plan, history, arm)
        - plan.folds * test
        - allocation.MARGIN * reserved * (full_run + test)
    )


def measured_run(plan: Plan, history: History, arm: str) -> float:
    """Resource-seconds of one run on a running worker: the baseline runs' mean epochs plus their smallest overhead."""
    runs = history.full_length(arm, "baseline")
    if not runs:  # every one failed: only the measurement before the study is left
        return plan.epochs * allocation.epoch_cost(plan, arm)
    epochs = [trained(plan, history, t) for t in runs]
    return sum(epochs) / len(epochs) + min(overhead(plan, history, t) for t in runs)


def search_share(plan: Plan, history: History, arm: str) -> float:
    """Resource-seconds that one search of the arm may spend: an equal part of what the random settings leave."""
    tuning = history.tuning
    if tuning is None or arm not in tuning.full_run:
        return math.inf
    running = history.running(arm, "slice")
    done = history.spent(arm, "slice") - sum(history.booked[t.id] for t in running)
    to_come = tuning.slice_runs - len(history.of(arm, "slice")) + len(running)
    return max(0.0, tuning.per_arm - done - to_come * tuning.full_run[arm]) / searches(plan, history)


def shrunk(plan: Plan, history: History) -> str:
    """A notice that full runs cost more than measured and left fewer searches than planned, or less than half of them; else empty."""
    tuning = history.tuning
    if tuning is None:
        return ""
    runs, planned = tuning.per_arm / max(tuning.full_run.values()), allocation.tuning_runs(plan)
    pairs = searches(plan, history)
    if runs >= SHRUNK * planned and pairs == plan.pairs:
        return ""
    if all(unsearched(plan, history, arm) for arm in plan.arms):
        said = f"nothing is left for a search, planned at {planned:.1f} full runs per arm"
    elif pairs < plan.pairs:
        said = (
            f"each arm has {counted(pairs, 'search', 'searches')} of {runs / pairs:.1f} full runs instead of {plan.pairs} of "
            f"{planned / plan.pairs:.1f}"
        )
    else:
        said = (
            f"the search has shrunk to {runs:.1f} full runs per arm instead of {planned:.1f}, {runs / pairs:.1f} for each of "
            f"{counted(pairs, 'search', 'searches')}"
        )
    too_few = len(numbers(plan, history)) < min(allocation.PAIRS) <= plan.pairs
    nets = "; that says nothing about architectures, only about the nets in hand" if too_few else ""
    return (
        f"full runs cost {dearer(plan, history):.1f} times what was measured, so {said}{nets}. A new study with "
        f"--budget {searching_budget(plan, history)} or shorter --epochs would have what was planned"
    )


def dearer(plan: Plan, history: History) -> float:
    """How many times what was measured before the study a full run costs, of the arm that is off by most; 1 until that is known."""
    runs = history.tuning.full_run if history.tuning else {}
    return max((cost / allocation.full_run(plan, arm) for arm, cost in runs.items()), default=1.0)


def repriced(plan: Plan, history: History) -> Plan:
    """The plan at what full runs turned out to cost, where that is more: for what a new study would take."""
    times = max(1.0, dearer(plan, history))
    slower = {
        arm: dataclasses.replace(
            audit,
            images_per_second=audit.images_per_second / times,
            eval_images_per_second=audit.eval_images_per_second / times,
        )
        for arm, audit in plan.audits.items()
    }
    return dataclasses.replace(plan, audits=slower)


def searching_budget(plan: Plan, history: History) -> Budget:
    """What a new study would take to have the search that was planned, at the costs that were measured since."""
    assert history.tuning is not None
    more = allocation.tuning_runs(plan) * max(history.tuning.full_run.values()) - history.tuning.per_arm
    return Budget.whole_minutes(
        max(plan.budget.seconds + 1.1 * more * len(plan.arms), dearer(plan, history) * plan.budget.seconds),
        plan.budget.resource,
    )


def lost_share(plan: Plan, history: History) -> float:
    """Every arm's equal part of what interruptions undid: chance decides which trial is hit, and must favour no arm.

    Only confirmation runs pay for it, so that the search decides as it would have without interruption.
    """
    return sum(history.spent(arm, "lost") for arm in plan.arms) / len(plan.arms)


def startup(plan: Plan, history: History, arm: str) -> float:
    """Resource-seconds to set apart for workers yet to start: the most seen so far."""
    extra = [overhead(plan, history, t) for t in history.full_length(arm, "baseline")]
    return max(allocation.startup(plan), sum(extra) - len(extra) * min(extra, default=0.0))


def overhead(plan: Plan, history: History, trial: Trial) -> float:
    """Resource-seconds that a full-length trial held beyond its epochs."""
    return history.outcomes[trial.id].cost - trained(plan, history, trial)


def trained(plan: Plan, history: History, trial: Trial) -> float:
    """Resource-seconds of a trial's epochs alone."""
    return sum(e.train_seconds + e.eval_seconds for e in history.epochs[trial.id]) * plan.machine.fraction


def run_cost(plan: Plan, history: History, arm: str, choice: Choice) -> float:
    """Resource-seconds of one more run of this find, its test score included; at the latest price if that is higher."""
    trials = [history.trials[t] for t in choice.trials if history.finished(t)]
    if choice.default or not trials:  # the baseline's first runs waited for their workers
        usual = history.tuning.full_run[arm] if history.tuning else allocation.full_run(plan, arm)
    else:
        usual = sum(history.outcomes[t.id].cost for t in trials) / len(trials)
    latest = [t for t in history.confirmed(arm, choice.pair) if history.finished(t.id)][-1:]
    return max(usual, *(history.outcomes[t.id].cost for t in latest), 0.0) + allocation.test_cost(plan, arm)


def confirmation_left(plan: Plan, history: History, arm: str) -> float:
    """Resource-seconds of the confirmation runs that the arm's finds have yet to start."""
    return sum(
        (choice.runs - len(history.confirmed(arm, choice.pair))) * run_cost(plan, history, arm, choice)
        for choice in history.choices(arm)
    )
