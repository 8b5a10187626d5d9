"""Where each arm stands, by the ledger: for the live view, ``python -m study status`` and the loggers."""

from typing import get_args

from study.protocol.accounting import planned_search, search_runs
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import PHASES, State


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
