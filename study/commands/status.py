"""How far a study is, told from its folder alone: from another terminal, or another machine.

Imports neither torch nor Ray nor Optuna, and writes nothing.
"""

import fcntl
import json
import shlex
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from study.protocol import consistency, ledger
from study.protocol.accounting import budget, shrunk
from study.protocol.budget import PlanError
from study.protocol.history import History, LedgerError
from study.protocol.plan import FILE, Plan
from study.protocol.records import setting
from study.protocol.standing import phase, searches, states
from study.protocol.text import duration, percent

LIVELY_SECONDS = 60.0
"""A study of another machine whose ledger was written within this time runs: a sign of life is written every
ten seconds. On this machine the ledger's lock tells."""
VERDICT = "verdict.json"
HOLDS = (
    "A verdict on architectures holds for searches of the budget that it names; python -m study status RUN says it in "
    "full."
)
State = Literal["measuring", "running", "stopped", "finished"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its folder shows it now."""

    home: Path
    state: State
    plan: Plan | None
    """None until the arms are measured."""
    history: History
    quiet: float
    """Seconds since the last record."""
    verdict: str
    """The report's headline, empty before there is one."""
    scope: str
    """What the verdict holds for and what another search would give, empty while there is none."""


def look(home: Path) -> Run:
    """Raises PlanError when there is no study in ``home``, LedgerError when its ledger is damaged."""
    path = home / ledger.FILE
    if not path.exists():
        raise PlanError(f"{home} holds no study (no {ledger.FILE})")
    plan, history = consistency.load(home) if (home / FILE).exists() else (None, ledger.read(path))
    quiet = max(0.0, time.time() - path.stat().st_mtime)
    looks = 2 if history.extension else 1
    done = len(history.opened) == looks and set(history.opened[-1].trials) <= history.scores.keys()
    ours = ledger.holder(path).endswith(f" on {socket.gethostname()}")
    alive = _is_written(path) or (quiet < LIVELY_SECONDS and not done and not ours)
    state: State = "finished" if done else "stopped" if not alive else "running" if plan else "measuring"
    verdict, scope = _verdict(home / VERDICT) if done else ("", "")
    return Run(
        home=home, state=state, plan=plan, history=history, quiet=quiet, verdict=verdict, scope=scope
    )  # fmt: skip


def _verdict(path: Path) -> tuple[str, str]:
    """The headline, and what is said beside it: what it holds for, and which of the nets in hand is better."""
    try:
        body = json.loads(path.read_text())
        told = [body["scope"], *(net["sentence"] for net in body["nets"])] if body["answer"] else []
        return str(body["headline"]), "\n".join(map(str, told))
    except (OSError, ValueError, TypeError, KeyError):  # not written yet, or not by us
        return "", ""


def overview(home: Path, name: str = "") -> Group:
    """One study: its state, its money and its arms. ``name`` is what its user calls it, if not by its folder: a URI."""
    name = name or str(home)
    run = look(home)
    said = [Text(f"{name}: {run.state}, last record {duration(run.quiet)} ago")]
    if run.plan is None:
        if run.history.trials:
            said.append(Text(f"{FILE} is gone: without it there is neither a report nor a way to go on"))
        return Group(*said)
    plan, history = run.plan, run.history
    spent = sum(history.spent(arm) for arm in plan.arms)
    total = budget(plan, history)
    left = max(0.0, total.seconds - spent) / (plan.machine.slots * plan.machine.fraction)
    ending = f", about {duration(left)} to go" if run.state == "running" else ""
    said.append(Text(f"{duration(spent)} of {total} spent{ending}; data {plan.data.spec}"))
    table = Table(caption="best so far: validation accuracy, optimistic until confirmed")
    counted = tuple(states(history, plan.arms[0]))
    for column in ("arm", "phase", "spent", "share", "best so far", "full runs per search", *counted):
        table.add_column(column, justify="left" if column in ("arm", "phase") else "right")
    for arm in plan.arms:
        accuracy = history.best.get(arm)
        table.add_row(
            arm, phase(history, arm), duration(history.spent(arm)), duration(total.seconds / len(plan.arms)),
            "-" if accuracy is None else percent(accuracy), searches(plan, history, arm) or "-", *(str(n) for n in states(history, arm).values()),
        )  # fmt: skip
    said += [Text(line) for line in _running(history)]
    if warning := shrunk(plan, history):
        said.append(Text(f"note: {warning}"))
    ends = {
        "finished": "\n".join(filter(None, (run.scope, run.verdict))),
        "stopped": f"go on with: python study/run.py --resume {shlex.quote(name)}",
    }  # fmt: skip
    return Group(*said, table, Text(ends.get(run.state, "")))


def _running(history: History) -> list[str]:
    return [
        f"{trial.id}: epoch {len(history.epochs[trial.id])} of {trial.epochs}, "
        + (f"{percent(accuracy)}, " if (accuracy := history.val_accuracy(trial.id)) is not None else "")
        + setting(trial.config)
        for trial in history.open
    ]  # fmt: skip


def listing(folder: Path) -> Group:
    """All runs in ``folder``, the oldest first. One that cannot be read is said to be so.

    Raises PlanError when there is no such folder.
    """
    if not folder.is_dir():
        raise PlanError(f"{folder} is no folder: give the one that holds the runs, as in runs")
    table, judged = Table(), False
    for column in ("run", "state", "arms", "data", "spent", "verdict"):
        table.add_column(column, justify="right" if column == "spent" else "left")
    for home in sorted(path.parent for path in folder.glob(f"*/{ledger.FILE}")):
        try:
            run = look(home)
        except (PlanError, LedgerError, OSError) as error:
            table.add_row(home.name, "unreadable", "", "", "", Text(str(error)))
            continue
        plan, judged = run.plan, judged or bool(run.scope)
        table.add_row(
            home.name, run.state, ", ".join(plan.arms) if plan else "-", Text(plan.data.spec if plan else "-"),
            f"{duration(sum(run.history.spent(a) for a in plan.arms))} of {budget(plan, run.history)}" if plan else "-",
            Text(run.verdict or "-"),
        )  # fmt: skip
    return Group(table, *([Text(HOLDS)] if judged else []))


def _is_written(path: Path) -> bool:
    """Whether a process of this machine, or of one that shares its locks, has the ledger open to write."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False
