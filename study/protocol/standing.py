"""Where each arm stands, from the ledger: for the live view, ``python -m study status`` and the loggers."""

from typing import get_args

from study.protocol.ledger import History
from study.protocol.plan import Plan
from study.protocol.records import PHASES, State
from study.protocol.selection import planned_search, search_runs


def phase(history: History, arm: str) -> str:
    """The latest phase that the arm has an open trial of, or had its last trial in."""
    running = next((p for p in reversed(PHASES) if history.running(arm, p)), None)
    return running or next((t.phase for t in reversed(history.trials.values()) if t.arm == arm), "-")


def searches(plan: Plan, history: History, arm: str) -> str:
    """Full runs that each search of the arm had so far, and may have: ``1.2, 0.9, 1.0 of 4.1``; empty before."""
    had = search_runs(plan, history).get(arm, [])
    if not had:
        return ""
    return f"{', '.join(f'{runs:.1f}' for runs in had)} of {planned_search(plan, history, arm):.1f}"


def states(history: History, arm: str) -> dict[str, int]:
    """How many of the arm's trials are in each state."""
    running = sum(len(history.running(arm, phase)) for phase in PHASES)
    return {"running": running} | {state: history.ends[arm, state] for state in get_args(State)}
