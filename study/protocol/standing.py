"""Where each arm and the budget stand, by the ledger: for the live view, ``python -m study status``, the report and the loggers."""

from typing import get_args

from study.protocol import allocation
from study.protocol.accounting import budget, numbers, planned_search, search_runs
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import PHASES, State
from study.protocol.selection import runs_floor
from study.protocol.text import amount, percent

OVER = 0.05
"""Part of the budget by which a study exceeds it before it says so: a last run may end a little late."""


def phase(history: History, arm: str) -> str:
    """The latest phase with a running trial of the arm, else the phase of its last trial."""
    running = next((p for p in reversed(PHASES) if history.running(arm, p)), None)
    return running or next((t.phase for t in reversed(history.trials.values()) if t.arm == arm), "-")


def searches(plan: Plan, history: History, arm: str) -> str:
    """Full-run equivalents that each search of the arm used, of those it may use: ``1.2, 0.9, 1.0 of 4.1``; empty before."""
    had = search_runs(plan, history).get(arm, [])
    if not had:
        return ""
    return f"{', '.join(f'{runs:.1f}' for runs in had)} of {planned_search(plan, history, arm):.1f}"


def states(history: History, arm: str) -> dict[str, int]:
    """How many of the arm's trials are in each state, running ones included."""
    running = sum(len(history.running(arm, phase)) for phase in PHASES)
    return {"running": running} | {state: history.ends[arm, state] for state in get_args(State)}


def owed(plan: Plan, history: History, arm: str) -> float:
    """Resource-seconds, at the latest price, of the runs that the arm makes whatever is left of its share and has yet to end:
    each find's fewest confirmation runs."""
    if history.tuning is None or arm not in history.tuning.full_run:
        return 0.0
    hand = history.in_hand(arm) if history.choices(arm) else None
    runs = sum(
        max(0, runs_floor(plan, history, hand=pair == hand) - _ended(history, arm, pair))
        for pair in numbers(plan, history)
    )
    begun = sum(history.booked[t.id] for t in history.running(arm, "confirm"))
    return max(0.0, runs * _price(plan, history, arm) - begun)


def _ended(history: History, arm: str, pair: int) -> int:
    return sum(t.id in history.outcomes for t in history.confirmed(arm, pair))


def _price(plan: Plan, history: History, arm: str) -> float:
    """Of one more full run of the arm and its test score: that of its last one, or what the baseline's cost if that is more."""
    assert history.tuning is not None
    last = [*history.full_length(arm, "select")[-1:], *history.full_length(arm, "confirm")[-1:]][-1:]
    usual = history.tuning.full_run[arm]
    return max(usual, *(history.outcomes[t.id].cost for t in last), 0.0) + allocation.test_cost(plan, arm)


def to_go(plan: Plan, history: History, spent: float) -> float:
    """Seconds until the last trial ends, once ``spent`` resource-seconds of the study's are: what the budget leaves, or the runs
    that are owed in any case if they take longer."""
    left = max(budget(plan, history).seconds - spent, sum(owed(plan, history, arm) for arm in plan.arms))
    return left / (plan.machine.slots * plan.machine.fraction)


def overspent(plan: Plan, history: History) -> str:
    """A notice that the study exceeds its budget, or will, and why; else empty."""
    whole = budget(plan, history)
    total = sum(history.spent(arm) + owed(plan, history, arm) for arm in plan.arms)
    if history.tuning is None or total <= (1 + OVER) * whole.seconds:
        return ""
    times = max(
        _price(plan, history, arm) / allocation.full_run(plan, arm) for arm in history.tuning.full_run
    )
    return (
        f"the study takes about {amount(total, whole.resource)} of {whole}, {percent(total / whole.seconds, 0)}: full runs came to cost {times:.1f} times "
        "what was measured, and selection and the fewest confirmation runs of every find are made whatever they cost"
    )
