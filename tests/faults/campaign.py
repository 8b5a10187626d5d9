"""The fault campaign: break real studies at random moments and within random writes, resume them, compare with undisturbed ones.

    python -m tests.faults --seed 0 --minutes 9 --keep /tmp/campaign --to /tmp/faults.jsonl     # as often as wanted
    python -m tests.faults --table /tmp/faults.jsonl

Every study runs one trial at a time on a clock that counts epochs, so that only the faults can make a difference: trials,
configs, curves, choices, test scores and verdict must equal the undisturbed study's. A study is broken several times, at the
steps that an undisturbed one was seen to take (``drawing``, ``inside/writes.py``) and from outside (``kinds``). Its stages: a new
study announced with two looks, the second look, an arm added, the report alone, an export. ``two at a time`` and ``node
killed`` run on the wall clock with two trials side by side, and only their sums are checked. Ray, Optuna and torch are real.
"""

import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.drawing import Fault, drawn, ends_of, wishes
from faults.ground import (
    ARMS,
    LIMIT,
    Ground,
    Survived,
    balance,
    check_left_behind,
    check_same,
    check_sums,
    ended,
    on_the_clock,
    run_out,
    said,
    small_disk,
    so_far,
)
from faults.kinds import MEMORY_LEFT, OUTSIDE, TRAINING
from study.protocol import looks
from study.protocol.consistency import load
from study.protocol.errors import StudyError
from study.protocol.ledger import records
from study.protocol.records import Trial
from study.protocol.rundir import RunDir

NEW = (
    "--budget",
    "3cpu-minutes",
    "--data",
    "folder:images",
    "--epochs",
    "3",
    "--rope",
    "0.1",
    "--looks",
    "2",
)

_CALM = threading.RLock()


@dataclass(frozen=True)
class Stage:
    """A command that is broken, and what it begins from."""

    base: str
    """The stage before it, undisturbed; empty: from nothing."""
    flags: tuple[str, ...]
    pure: bool = False
    """No trial runs: the whole folder must be equal to the last byte."""


STAGES = {
    "study": Stage("", (*NEW, "--arms", ",".join(ARMS))),
    "second look": Stage("study", ("--budget", "MORE")),
    "added arm": Stage("study", ("--arms", ",".join((*ARMS, "tiny_resnext:cardinality=2")))),
    "report": Stage("study", (), pure=True),
    "export": Stage("study", ("-m", "study", "export", "RUN", ARMS[0]), pure=True),
}


# -- undisturbed studies


def undisturbed(ground: Ground, name: str) -> Path:
    """The stage's undisturbed run, made on first use, beside the ``trace`` of its steps."""
    stage, home = STAGES[name], ground.repo / f"undisturbed-{name.replace(' ', '-')}" / "run"
    with _CALM:
        _undisturbed(ground, stage, home)
    return home


def _undisturbed(ground: Ground, stage: Stage, home: Path) -> None:
    if not (trace := home.with_name("trace")).exists():
        shutil.rmtree(home.parent, ignore_errors=True)
        begin(ground, stage, home)
        run_out(ground, home, *words(ground, stage, home), writes=wishes(home, [], trace=home.with_name("t")))
        home.with_name("t").rename(trace)


def begin(ground: Ground, stage: Stage, home: Path) -> None:
    home.parent.mkdir()
    if stage.base:
        shutil.copytree(undisturbed(ground, stage.base), home)


def words(ground: Ground, stage: Stage, home: Path) -> tuple[str, ...]:
    """The flags of a session, which goes on with what was asked for if it is in the ledger already."""
    own, asked = str(home.relative_to(ground.repo)), stage.flags
    if not stage.base:
        return () if (home / "plan.json").exists() else (*asked, "--out", own)
    extended = b'"record":"Extension"' in whole(home).rpartition(b"\n")[0]  # a torn line is none
    named = {"RUN": lambda: own, "MORE": lambda: enough(undisturbed(ground, stage.base))}
    return () if extended else tuple(named.get(word, lambda word=word: word)() for word in asked)


def enough(run: Path) -> str:
    """The budget for a second look with two further pairs."""
    return str(looks.budget_for(*load(RunDir(run)), 2))


class Breaking:
    """One study and its sessions, of which every fault that ends the driver begins another."""

    def __init__(self, ground: Ground, stage: Stage, home: Path, dice: random.Random) -> None:
        self._ground, self._stage, self._home, self._dice = ground, stage, home, dice
        self._session: subprocess.Popen[str] | None = None
        self._marks: dict[int, Path] = {}
        """By the steps of the faults that this session brings about itself."""
        self._since = 0
        self._written = b""
        self._base = {training: so_far(home, training=training) for training in (True, False)}
        """Epochs and records of the stage before."""
        self._begun = self._base

    def run(self, faults: Sequence[Fault]) -> Iterator[tuple[str, str]]:
        """Yields the kind and what happened of every fault that came, and then runs the study to its end."""
        try:
            yield from self._run(faults)
        finally:
            if self._session:
                self._session.kill()

    def _run(self, faults: Sequence[Fault]) -> Iterator[tuple[str, str]]:
        for number, fault in enumerate(faults):
            session = self._session = self._session or self._start(faults[number:])
            self._wait(session, fault)
            if (mark := self._marks.get(id(fault))) and mark.exists():
                yield fault.kind, mark.read_text()
            elif mark or session.poll() is not None:
                break  # it has ended before
            else:
                with suppress(LookupError):
                    yield fault.kind, OUTSIDE[fault.kind](session, self._home, self._dice)
            if fault.ends_driver:
                self._end(session)
                self._since = fault.at
        if self._session is None:
            self._session = self._start([])
        ended(self._session)

    def _start(self, faults: Sequence[Fault]) -> subprocess.Popen[str]:
        home, ground = self._home, self._ground
        if not self._stage.base and home.exists() and not (home / "plan.json").exists():
            shutil.rmtree(home, ignore_errors=True)  # nothing had begun, and no study goes on there
        ends, self._marks = ends_of(faults, self._since, home.with_name("marks"))
        self._written = whole(home)
        self._begun = {training: so_far(home, training=training) for training in (True, False)}
        return ground.session(
            home,
            *words(ground, self._stage, home),
            memory=MEMORY_LEFT if faults and faults[0].kind == "memory full" else 0.0,
            writes=wishes(home, ends),
        )

    def _wait(self, session: subprocess.Popen[str], fault: Fault) -> None:
        """Until the fault came, or may come from outside, or the session is over."""
        mark, until = self._marks.get(id(fault)), time.monotonic() + LIMIT
        while session.poll() is None and not (mark.exists() if mark else self._reached(fault)):
            if time.monotonic() > until:
                session.kill()
                raise Survived(f"{fault.kind}: neither a fault nor an end within {LIMIT:.0f} s")
            time.sleep(0.01)
        if mark is None:
            time.sleep(self._dice.uniform(0, 0.3))

    def _reached(self, fault: Fault) -> bool:
        """Whether its moment has come, and this session has made some progress."""
        training = fault.kind in TRAINING
        moment = max(self._base[training] + fault.moment, self._begun[training] + 1)
        return so_far(self._home, training=training) >= moment

    def _end(self, session: subprocess.Popen[str]) -> None:
        output, _ = session.communicate(timeout=LIMIT)
        if "Traceback" in output:
            raise Survived(output[-1500:])
        if not whole(self._home).startswith(self._written.rpartition(b"\n")[0]):
            raise Survived("the ledger lost lines that it had")
        self._session = None


def whole(home: Path) -> bytes:
    ledger = home / "ledger.jsonl"
    return ledger.read_bytes() if ledger.exists() else b""


# -- the campaign


def one_study(
    ground: Ground, name: str, number: str, count: int, kinds: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Break one study ``count`` times. What came of it, for the table."""
    dice, stage = random.Random(number), STAGES[name]
    calm = undisturbed(ground, name)
    faults = drawn(calm, count, dice, kinds)
    home = ground.repo / f"{name.replace(' ', '-')}-{number.replace('/', '-')}" / "run"
    begin(ground, stage, home)
    home.mkdir(exist_ok=True)
    came: list[tuple[str, str]] = []
    error = ""
    try:
        with small_disk(home) if any(f.kind == "disk full" for f in faults) else nullcontext():
            for kind, what in Breaking(ground, stage, home, dice).run(faults):
                came.append((kind, what))
                say(f"{name} {number}: {kind}: {what}")
        if stage.pure:
            check_bytes(home, calm)
        else:
            check_same(home, calm)
        check_left_behind(home, calm)
    except (Survived, subprocess.TimeoutExpired) as failure:
        error = str(failure)
        say(f"{name} {number}: NOT SURVIVED: {error}")
    row = {"stage": name, "seed": number, "faults": came, "error": error, **compared(home, calm)}
    if not error:
        shutil.rmtree(home.parent)
    return row


def compared(home: Path, calm: Path) -> dict[str, Any]:
    """For the table, also of a study that did not survive."""
    try:
        found = compared_trials(home, calm)
        found["difference"] = max(found["difference"], abs(on_the_clock(home)))
        return found | {"verdict": said(home) == said(calm)}
    except (StudyError, OSError, ValueError, KeyError) as error:
        nothing = {"lost": None, "doubled": None, "difference": None, "verdict": False}
        return nothing | {"error": f"unreadable: {error!r}"}


def compared_trials(home: Path, calm: Path) -> dict[str, Any]:
    """Trials lost and doubled, and the spend that nobody held."""
    ours, theirs = (
        [r.id for r in records(run / "ledger.jsonl") if isinstance(r, Trial)] for run in (home, calm)
    )
    doubled = len(ours) - len(set(ours))
    return {"lost": len(set(theirs) - set(ours)), "doubled": doubled, "difference": abs(balance(home))}


def check_bytes(home: Path, calm: Path) -> None:
    """Every file but those that name processes. Of an export, not what it measured of its ONNX net, which hangs on the order of
    additions, nor the order in which safetensors writes what a file says of itself."""

    def content(path: Path) -> bytes:
        return re.sub(rb'"differs_from_torch_by": .*|"__metadata__":\{[^}]*\}', b"", path.read_bytes())

    for path in sorted(calm.rglob("*")):
        there = home / path.relative_to(calm)
        if path.name in (".claimed", "ray.log") or not (path.is_file() and there.exists()):
            continue
        if content(there) != content(path):
            raise Survived(f"{path.relative_to(calm)} has other bytes")


def node_killed(ground: Ground, home: Path, dice: random.Random) -> str:
    """Two nodes of Ray's test cluster; the second is killed during a trial."""
    from support.nodes import two_nodes

    with two_nodes() as (address, kill):
        session = ground.session(home, "--address", address, clocked=False)
        moment, until = dice.randrange(2, 30), time.monotonic() + LIMIT
        while session.poll() is None and time.monotonic() < until and so_far(home, training=True) < moment:
            time.sleep(0.05)
        kill()
        ended(session)
    return f"after {moment} epochs the second node killed"


def two_at_a_time(ground: Ground, home: Path, dice: random.Random) -> str:
    """Several kills in one study on the wall clock."""
    done = []
    for fault in dice.sample(["driver killed", "SIGTERM", "ledger torn", "checkpoint torn"], 2):
        session = ground.session(home, clocked=False)
        time.sleep(dice.uniform(12, 25))
        if session.poll() is None:
            done.append(OUTSIDE[fault](session, home, dice))
        session.communicate()
    run_out(ground, home, clocked=False)
    return ", ".join(done)


SIDE_BY_SIDE = {"two at a time": two_at_a_time, "node killed": node_killed}


def on_the_wall_clock(ground: Ground, kind: str, number: str, say: Callable[[str], None]) -> dict[str, Any]:
    home = ground.begin(f"{kind}-{number}".replace(" ", "-").replace("/", "-"), slots=2)
    row: dict[str, Any] = {
        "stage": kind,
        "seed": number,
        "error": "",
        "lost": None,
        "doubled": None,
        "verdict": None,
    }
    try:
        row["faults"] = [(kind, SIDE_BY_SIDE[kind](ground, home, random.Random(number)))]
        check_sums(home)
    except (Survived, subprocess.TimeoutExpired) as failure:
        row |= {"error": str(failure), "faults": [(kind, "")]}
    row["difference"] = abs(balance(home))
    say(f"{kind} {number}: {row['faults'][0][1]} {row['error']}")
    return row
