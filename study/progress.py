"""What a user sees while the study runs: a live table in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.protocol.accounting import budget, share
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.standing import phase, searches, states, to_go
from study.protocol.text import duration

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
            self._live.update(_live_table(self._schedule), refresh=True)
        else:
            self._console.print(_line(self._schedule), highlight=False)


def arm_table(plan: Plan, history: History, spent: Mapping[str, float], *, share: float) -> Table:
    """One row per arm: its phase, its money, its best score, its trials. ``spent`` and ``share`` in resource-seconds."""
    table = Table(
        caption=f"best so far: validation {plan.judged.kind}, optimistic until confirmed; {_guessing(plan)}"
    )
    counted = tuple(states(history, plan.arms[0]))
    for column in ("arm", "phase", "spent", "share", "best so far", "full runs per search", *counted):
        table.add_column(column, justify="left" if column in ("arm", "phase") else "right")
    for arm in plan.arms:
        best = history.best.get(arm)
        table.add_row(
            Text(arm),
            phase(history, arm),
            duration(spent[arm]),
            duration(share),
            "-" if best is None else plan.judged.value(best),
            searches(plan, history, arm) or "-",
            *(str(n) for n in states(history, arm).values()),
        )
    return table


def _guessing(plan: Plan) -> str:
    """What every score is to be held against."""
    return f"{plan.judged.guess} reaches {plan.judged.value(plan.guess)}"


def _money(schedule: "Schedule") -> tuple[dict[str, float], str]:
    """Resource-seconds spent per arm, and a sentence on money and time."""
    plan, ledger = schedule.plan, schedule.ledger
    spent = {arm: schedule.slots.spent(arm) for arm in plan.arms}
    total = sum(spent.values())
    left = to_go(plan, ledger, total)
    return spent, f"{duration(total)} of {budget(plan, ledger)} spent, about {duration(left)} to go"


def _live_table(schedule: "Schedule") -> Table:
    spent, title = _money(schedule)
    plan, ledger = schedule.plan, schedule.ledger
    table = arm_table(plan, ledger, spent, share=share(plan, ledger))
    table.title = title
    return table


def _line(schedule: "Schedule") -> str:
    plan, ledger = schedule.plan, schedule.ledger
    arms = []
    for arm in plan.arms:
        best = ledger.best.get(arm)
        counts = ", ".join(f"{n} {state}" for state, n in states(ledger, arm).items() if n)
        had = searches(plan, ledger, arm)
        arms.append(
            f"{arm}: {phase(ledger, arm)}, {counts}"
            + (f", best {plan.judged.value(best)}" if best is not None else "")
            + (f", full runs per search {had}" if had else "")
        )
    return " | ".join([_money(schedule)[1], *arms, _guessing(plan)])
