"""Studies in simulated time, broken within the writes of plan and ledger: real Schedule, Ledger and Plan, no Ray and no training.

The code that writes is the same as in a real study, and a fault costs a tenth of a second instead of many.
"""

import os
import random
import shutil
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from support.schedules import ARMS, a_plan, an_arm, diverges, drive

from faults.campaign import compared_trials, whole
from faults.drawing import drawn, ends_of, wishes
from faults.ground import Survived, check_decisions
from faults.inside import writes
from study.protocol import looks
from study.protocol.budget import Budget
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.protocol.records import Extension, Scored, TestOpened
from study.protocol.selection import to_be_scored
from study.scheduling.schedule import Schedule

STAGES = {f"played {kind}": kind for kind in ("second look", "added arm")}


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
    except Exception:  # noqa: BLE001  # the parent only sees that it ended
        traceback.print_exc()
    finally:
        os._exit(code)


def session(home: Path, kind: str) -> None:
    """Play the study on, to the end of its second look or of its added arm."""
    if not (home / "plan.json").exists():
        a_plan(minutes=6, slots=1).save(home / "plan.json")
    plan, now = Plan.load(home / "plan.json"), [0.0]
    with Ledger(home / "ledger.jsonl") as ledger:
        for _ in range(2):
            whole = plan.extended(ledger.extension)
            arms = {name: ARMS.get(name, ARMS["tiny_resnet"]) for name in whole.arms}
            drive(Schedule(whole, ledger, arms, clock=lambda: now[0]), now, diverges)
            score(whole, ledger)
            if ledger.extension is None:
                ledger.add(further(kind, plan, ledger))


def further(kind: str, plan: Plan, ledger: Ledger) -> Extension:
    if kind == "second look":
        return looks.second_look(plan, ledger, looks.budget_for(plan, ledger, 2))
    name = "third"
    return an_arm(
        replace(
            plan,
            arms=(*plan.arms, name),
            audits={**plan.audits, name: plan.audits["tiny_resnet"]},
            probe_cost={**plan.probe_cost, name: 10.0},
            budget=Budget(seconds=3 * plan.share, resource="cpu"),
        )
    )


def score(plan: Plan, ledger: Ledger) -> None:
    """As the test set's one opening does it, without nets."""
    manifest = ledger.manifests[-1].sha256
    if ledger.opened[-1:] == [] or ledger.opened[-1].manifest != manifest:
        nets = tuple(t.id for arm in plan.arms for t in to_be_scored(ledger, arm))
        ledger.add(TestOpened(manifest=manifest, trials=nets))
    for net in ledger.opened[-1].trials:
        if net not in ledger.scores:
            ledger.add(Scored(trial=net, test_accuracy=0.9))


def undisturbed(folder: Path, kind: str) -> Path:
    home = folder / f"played-{kind.replace(' ', '-')}" / "run"
    if not (trace := home.with_name("trace")).exists():
        home.mkdir(parents=True)
        assert apart(partial(session, home, kind), wishes(home, [], trace))
    return home


def one_study(folder: Path, kind: str, number: str, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Break one study ``count`` times. What came of it, for the table."""
    calm, dice = undisturbed(folder, kind), random.Random(number)
    home = folder / f"played-{kind.replace(' ', '-')}-{number.replace('/', '-')}" / "run"
    home.mkdir(parents=True)
    came, since, error = list[tuple[str, str]](), 0, ""
    try:
        for fault in drawn(calm, count, dice, ["writes"]):
            before, (ends, marks) = whole(home), ends_of([fault], since, home.with_name("marks"))
            if apart(partial(session, home, kind), wishes(home, ends)):
                break  # it has ended before
            if not (mark := marks[id(fault)]).exists():
                raise Survived(f"{fault.kind}: the study stopped by itself")
            came.append((f"played {fault.kind}", mark.read_text()))
            since = fault.at
            if not whole(home).startswith(before.rpartition(b"\n")[0]):
                raise Survived("the ledger lost lines that it had")
        if not apart(partial(session, home, kind), wishes(home, [])):
            raise Survived("it does not go on")
        check_decisions(home, calm)
    except Survived as failure:
        error = str(failure)
        say(f"played {number}: NOT SURVIVED: {error}")
    row = {"stage": f"played: {kind}", "seed": number, "faults": came, "error": error, "verdict": None}
    row |= compared_trials(home, calm)
    if not error:
        shutil.rmtree(home.parent)
    return row
