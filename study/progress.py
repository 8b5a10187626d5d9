"""What a user sees while the study runs: a live table in a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from study.protocol.accounting import budget, share
from study.protocol.standing import phase, searches, states
from study.protocol.text import duration, percent

if TYPE_CHECKING:
    from study.scheduling.schedule import Schedule

LIVE_SECONDS = 0.5
PLAIN_SECONDS = 30.0


class View:
    """Call ``tick`` as often as you like; it draws when it is time."""

    def __init__(self, schedule: "Schedule", console: Console) -> None:
        self._schedule = schedule
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._next = 0.0
        self.tick()
        if self._live:
            self._live.stop()

    def tick(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (LIVE_SECONDS if self._live else PLAIN_SECONDS)
        if self._live:
            self._live.update(_table(self._schedule), refresh=True)
        else:
            self._console.print(_line(self._schedule), highlight=False)


def _money(schedule: "Schedule") -> tuple[float, float]:
    """Resource-seconds spent, and the wall seconds that the rest will take."""
    plan = schedule.plan
    spent = sum(schedule.slots.spent(arm) for arm in plan.arms)
    left = max(0.0, share(plan, schedule.ledger) * len(plan.arms) - spent) / (
        plan.machine.slots * plan.machine.fraction
    )
    return spent, left


def _table(schedule: "Schedule") -> Table:
    plan, ledger = schedule.plan, schedule.ledger
    spent, left = _money(schedule)
    table = Table(
        title=f"{duration(spent)} of {budget(plan, ledger)} spent, about {duration(left)} to go",
        caption="best so far: validation accuracy, optimistic until confirmed",
    )
    for column in (
        "arm",
        "phase",
        "spent",
        "share",
        "best so far",
        "full runs per search",
        "running",
        "finished",
        "stopped",
        "failed",
    ):
        table.add_column(column, justify="left" if column in ("arm", "phase") else "right")
    for arm in plan.arms:
        accuracy = ledger.best.get(arm)
        table.add_row(
            arm,
            phase(ledger, arm),
            duration(schedule.slots.spent(arm)),
            duration(plan.share),
            "-" if accuracy is None else percent(accuracy),
            searches(plan, ledger, arm) or "-",
            *(str(n) for n in states(ledger, arm).values()),
        )
    return table


def _line(schedule: "Schedule") -> str:
    plan, ledger = schedule.plan, schedule.ledger
    spent, left = _money(schedule)
    arms = []
    for arm in plan.arms:
        accuracy = ledger.best.get(arm)
        counts = ", ".join(f"{n} {state}" for state, n in states(ledger, arm).items() if n)
        had = searches(plan, ledger, arm)
        arms.append(
            f"{arm}: {phase(ledger, arm)}, {counts}"
            + (f", best {percent(accuracy)}" if accuracy else "")
            + (f", full runs per search {had}" if had else "")
        )
    return f"{duration(spent)} of {budget(plan, ledger)} spent, about {duration(left)} to go | " + " | ".join(
        arms
    )
