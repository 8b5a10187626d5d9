"""How far a study is, from its folder alone: in another terminal, or on another machine.

Imports neither torch nor Ray nor Optuna, and writes nothing.
"""

import argparse
import fcntl
import shlex
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console, Group
from rich.text import Text

from study.progress import arm_table
from study.protocol import consistency, ledger
from study.protocol.accounting import budget, shrunk
from study.protocol.codec import parse
from study.protocol.errors import DONE, InputError
from study.protocol.history import History
from study.protocol.looks import finished
from study.protocol.plan import Plan
from study.protocol.records import setting
from study.protocol.rundir import LEDGER, PLAN, SERIES, RunDir
from study.protocol.standing import overspent, to_go
from study.protocol.text import duration
from study.storage.fetch import local

LIVELY_SECONDS = 60.0
"""Age of the last record up to which a study on another machine counts as running: it writes every ten seconds. On this
machine the ledger's lock shows it."""
State = Literal["measuring", "running", "stopped", "finished"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its folder shows it now."""

    state: State
    plan: Plan | None
    """None until the arms are measured."""
    history: History
    quiet: float
    """Seconds since the last record."""
    verdict: str
    """The report's headline, empty before there is one."""
    scope: str
    """What the verdict holds for and which of the nets in hand is better, empty while there is none."""


def command(given: argparse.Namespace, console: Console) -> int:
    home = local(given.run)
    if (home / SERIES).is_file():
        from study.commands import series

        console.print(series.overview(home))
    else:
        console.print(overview(RunDir(home), given.run))
    return DONE


def look(run: RunDir) -> Run:
    """Raises InputError when there is no study in the folder, LedgerError when its ledger is damaged."""
    if not run.ledger.exists():
        raise InputError(f"{run} holds no study (no {LEDGER})")
    run.check_files()
    plan, history = consistency.load(run) if run.plan.exists() else (None, ledger.read(run.ledger))
    quiet = max(0.0, time.time() - run.ledger.stat().st_mtime)
    done = finished(history)
    ours = run.holder().endswith(f" on {socket.gethostname()}")
    alive = _is_locked(run.ledger) or (quiet < LIVELY_SECONDS and not done and not ours)
    state: State = "finished" if done else "stopped" if not alive else "running" if plan else "measuring"
    verdict, scope = _verdict(run.verdict) if done else ("", "")
    return Run(state=state, plan=plan, history=history, quiet=quiet, verdict=verdict, scope=scope)


def _verdict(path: Path) -> tuple[str, str]:
    """The headline, and the sentences that go with it."""
    try:
        body = parse(path.read_text())
        told = [body["scope"], *(net["sentence"] for net in body["nets"])] if body["answer"] else []
        return str(body["headline"]), "\n".join(map(str, told))
    except (OSError, ValueError, TypeError, KeyError):  # not written yet, or not by us
        return "", ""


def overview(run: RunDir, name: str = "") -> Group:
    """One study: its state, its money and its arms. ``name`` is what its user calls it, a URI maybe."""
    name = name or str(run)
    seen = look(run)
    lines = [Text(f"{name}: {seen.state}, last record {duration(seen.quiet)} ago")]
    if seen.plan is None:
        if seen.history.trials:
            lines.append(Text(f"{PLAN} is gone: without it there is neither a report nor a way to go on"))
        return Group(*lines)
    plan, history = seen.plan, seen.history
    spent = {arm: history.spent(arm) for arm in plan.arms}
    total = budget(plan, history)
    had = sum(spent.values())
    ending = f", about {duration(to_go(plan, history, had))} to go" if seen.state == "running" else ""
    lines.append(Text(f"{duration(had)} of {total} spent{ending}; data {plan.data.spec}"))
    lines += [Text(line) for line in _running(plan, history)]
    lines += [
        Text(f"note: {warning}") for warning in (shrunk(plan, history), overspent(plan, history)) if warning
    ]
    ends = {
        "finished": "\n".join(filter(None, (seen.scope, seen.verdict))),
        "stopped": f"go on with: python study/run.py --resume {shlex.quote(name)}",
    }  # fmt: skip
    table = arm_table(plan, history, spent, share=total.seconds / len(plan.arms))
    return Group(*lines, table, Text(ends.get(seen.state, "")))


def _running(plan: Plan, history: History) -> list[str]:
    return [
        f"{trial.id}: epoch {len(history.epochs[trial.id])} of {trial.epochs}, "
        + (f"{plan.judged.value(score)}, " if (score := history.val_score(trial.id)) is not None else "")
        + setting(trial.config)
        for trial in history.open
    ]  # fmt: skip


def _is_locked(path: Path) -> bool:
    """Whether a process of this machine, or of one that shares its locks, has the ledger open to write."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False
