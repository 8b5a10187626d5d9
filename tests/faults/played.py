"""Studies in simulated time, broken within the writes of plan and ledger: real Schedule, Ledger and Plan, no Ray and no training.

The code that writes is the same as in a real study, and a fault costs a tenth of a second instead of many.
"""

import os
import random
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from support.schedules import ARMS, a_plan, diverges, drive

from faults.campaign import compared_trials, whole
from faults.drawing import drawn, ends_of, wishes
from faults.ground import Survived, check_decisions
from faults.inside import writes
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.scheduling.schedule import Schedule


def apart(act: Callable[[], None], wish: str) -> bool:
    """Do it in a process of its own that counts its writes; False if that was killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from Python 3.12 on
        child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    code = 1
    try:
        os.environ[writes.VARIABLE] = wish
        writes.watch("driver")
        act()
        code = 0
    finally:
        os._exit(code)


def session(home: Path) -> None:
    """Play the study on, to its end."""
    if not (home / "plan.json").exists():
        a_plan(minutes=6, slots=1).save(home / "plan.json")
    now = [0.0]
    with Ledger(home / "ledger.jsonl") as ledger:
        plan = Plan.load(home / "plan.json")
        drive(Schedule(plan, ledger, ARMS, clock=lambda: now[0]), now, diverges)


def undisturbed(folder: Path) -> Path:
    home = folder / "played" / "run"
    if not (trace := home.with_name("trace")).exists():
        home.mkdir(parents=True)
        assert apart(partial(session, home), wishes(home, [], trace))
    return home


def one_study(folder: Path, number: str, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Break one study ``count`` times. What came of it, for the table."""
    calm, dice = undisturbed(folder), random.Random(number)
    home = folder / f"played-{number.replace('/', '-')}" / "run"
    home.mkdir(parents=True)
    came, since, error = list[tuple[str, str]](), 0, ""
    try:
        for fault in drawn(calm, count, dice, ["writes"]):
            before, (ends, marks) = whole(home), ends_of([fault], since, home.with_name("marks"))
            if apart(partial(session, home), wishes(home, ends)):
                break  # it has ended before
            if not (mark := marks[id(fault)]).exists():
                raise Survived(f"{fault.kind}: the study stopped by itself")
            came.append((f"played {fault.kind}", mark.read_text()))
            since = fault.at
            if not whole(home).startswith(before.rpartition(b"\n")[0]):
                raise Survived("the ledger lost lines that it had")
        if not apart(partial(session, home), wishes(home, [])):
            raise Survived("it does not go on")
        check_decisions(home, calm)
    except Survived as failure:
        error = str(failure)
        say(f"played {number}: NOT SURVIVED: {error}")
    row = {"stage": "played", "seed": number, "faults": came, "error": error, "verdict": None}
    row |= compared_trials(home, calm)
    if not error:
        shutil.rmtree(home.parent)
    return row
