"""All runs of a folder, one line each."""

import argparse
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from study.commands.status import look
from study.protocol.accounting import budget
from study.protocol.errors import DONE, InputError, StudyError
from study.protocol.rundir import RunDir, runs_in
from study.protocol.text import duration

SCOPE = (
    "A verdict on architectures holds for searches of the budget that it names; python -m study status RUN gives it in "
    "full."
)


def command(given: argparse.Namespace, console: Console) -> int:
    console.print(listing(given.folder))
    return DONE


def listing(folder: Path) -> Group:
    """All runs in ``folder``, those of its series among them, the oldest first, unreadable ones included. Raises InputError when there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the one that holds the runs, as in runs")
    table, judged = Table(), False
    for column in ("run", "state", "arms", "data", "spent", "verdict"):
        table.add_column(column, justify="right" if column == "spent" else "left")
    for home in runs_in(folder):
        name = str(home.relative_to(folder))
        try:
            run = look(RunDir(home))
        except (StudyError, OSError) as error:
            table.add_row(name, "unreadable", "", "", "", Text(str(error)))
            continue
        plan, judged = run.plan, judged or bool(run.scope)
        table.add_row(
            name, run.state, Text(", ".join(plan.arms) if plan else "-"), Text(plan.data.spec if plan else "-"),
            f"{duration(sum(run.history.spent(a) for a in plan.arms))} of {budget(plan, run.history)}" if plan else "-",
            Text(run.verdict or "-"),
        )  # fmt: skip
    return Group(table, *([Text(SCOPE)] if judged else []))
