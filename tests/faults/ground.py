"""The ground of the campaign: a copy of the repository with images and a plan, studies on it, and how they compare."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from support.pictures import make_images

from search_spaces import load
from study.data.prepare import prepare
from study.protocol.budget import Budget
from study.protocol.history import History
from study.protocol.ledger import read, records
from study.protocol.plan import Plan
from study.protocol.question import Audit, Machine
from study.protocol.records import Resumed
from study.protocol.settings import VARIABLE
from study.scheduling.spaces import describe, searched

if TYPE_CHECKING:
    from study.execution.profile import Survey

ROOT = Path(__file__).parents[2]
CLOCKED = str(Path(__file__).with_name("clocked.py"))
INSIDE = str(Path(__file__).with_name("inside"))
ARMS = ("tiny_resnet", "tiny_resnext")
LIMIT = 300.0
"""Seconds allowed for a session."""
HURRY = {
    "report_seconds": 0.05,
    "checkpoint_seconds": 0.2,
    "silence_floor": 25.0,
    "beat_seconds": 0.5,
    "confirm_ceiling": 2,
    "disk_seconds": 0.5,
    "disk_floor": 8 * 2**20,
    "nodes_seconds": 0.5,
}
"""Shorter intervals, so that a study of seconds meets the events of one of hours. Lost time costs confirmation runs; with
this ceiling a find gets only those that it gets whatever they cost, and verdicts stay comparable."""
SPEED = Audit(
    params=1, macs=1, images_per_second=480 / 0.9, eval_images_per_second=1200.0, peak_bytes=1, startup_seconds=0.1
)  # fmt: skip
BATCHES = (32, 64)
PROBE = 0.1
PLAIN = 'import sys; sys.path.insert(0, ""); import study.run; sys.exit(study.run.main(sys.argv[1:]))'

SESSIONS: list[subprocess.Popen[str]] = []
"""All that were started, for a campaign that is stopped."""


class Survived(AssertionError):
    """A study did not survive a fault as promised."""


@dataclass(frozen=True)
class Ground:
    """A copy of the repository with images and a plan, for running and breaking studies."""

    repo: Path

    budget: float
    """Core-seconds of a study; on the campaign's clock, epochs."""

    settings: Mapping[str, float] = field(default_factory=lambda: HURRY)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, VARIABLE: json.dumps(dict(self.settings))}

    def begin(self, name: str, *, slots: int) -> Path:
        """A run directory that holds only its plan."""
        return _planned(self.repo / name, a_plan(self.repo, slots=slots, budget=self.budget))

    def session(
        self, home: Path, *flags: str, clocked: bool = True, memory: float = 0.0, writes: str = ""
    ) -> subprocess.Popen[str]:
        """Start the study, or the command in ``flags``, in its own process. ``memory``: bytes that its machine has left;
        ``writes``: where it ends itself (``inside/writes.py``)."""
        own = {"WRITES": writes, "PYTHONPATH": INSIDE} if writes else {}
        if memory:
            have = psutil.virtual_memory()
            share = (have.total - have.available + memory) / have.total
            own |= {"RAY_memory_usage_threshold": f"{share:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
        words = [] if {"--out", "-m"} & set(flags) else ["--resume", str(home.relative_to(self.repo))]
        started = subprocess.Popen(
            [sys.executable, *([CLOCKED] if clocked else ["-c", PLAIN]), *flags, *words], env={**self.environment, **own},
            cwd=self.repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        SESSIONS.append(started)
        return started


def prepare_ground(folder: Path, budget: float = 160.0, **settings: float) -> Ground:
    """The ground in ``folder``, or the one that an earlier campaign left there."""
    repo = folder / "repo"
    if not repo.exists():
        for package in ("study", "search_spaces", "analysis"):
            shutil.copytree(ROOT / package, repo / package, ignore=shutil.ignore_patterns("__pycache__"))
        make_images(repo / "images", train=200, test=60)
    return Ground(repo, budget, {**HURRY, **settings})


def a_machine(slots: int) -> Machine:
    return Machine(resource="cpu", slots=slots, fraction=1.0, threads=1, name=f"CPU x {slots}")


def surveyed(arms: Iterable[str], *_: object, **__: object) -> "Survey":
    """What measuring would find, the same each time: every epoch costs one unit."""
    from study.execution.profile import Survey

    names = list(arms)
    return Survey(
        audits=dict.fromkeys(names, SPEED), machine=a_machine(1), cost=dict.fromkeys(names, PROBE),
        batch_sizes=BATCHES, packing=(), notes=(),
    )  # fmt: skip


def a_plan(repo: Path, *, slots: int, budget: float) -> Plan:
    """A small study of ``repo / "images"``; every epoch costs one unit."""
    prepared = prepare(f"folder:{repo / 'images'}", seed=0, root=repo)
    spaces = {arm: searched(load(arm).space, BATCHES, ()) for arm in ARMS}
    return Plan(
        arms=ARMS,
        data=dataclasses.replace(prepared.card, spec="folder:images"),
        budget=Budget(seconds=budget, resource="cpu"),
        epochs=3,
        rope=0.02,
        seed=0,
        train_fraction=1.0,
        widen=(),
        spaces={arm: describe(space) for arm, space in spaces.items()},
        batch_sizes=BATCHES,
        audits=dict.fromkeys(ARMS, SPEED),
        machine=a_machine(slots),
        probe_cost=dict.fromkeys(ARMS, PROBE),
        command="python -m tests.faults",
        versions={},
        code="",
    )


@contextmanager
def small_disk(home: Path) -> Iterator[None]:
    """``home`` on a file system of 64 MiB. Raises PermissionError without the right to mount."""
    kept = shutil.copytree(home, home.with_name(f"{home.name}-kept"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(home)], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(kept)
        raise PermissionError(done.stderr.strip())
    try:
        shutil.copytree(kept, home, dirs_exist_ok=True)
        yield
    finally:
        shutil.rmtree(kept)
        shutil.copytree(home, kept)
        subprocess.run(["umount", "-l", str(home)], check=True)
    shutil.rmtree(home)
    kept.rename(home)


def run_out(ground: Ground, home: Path, *flags: str, clocked: bool = True, writes: str = "") -> None:
    """Run the study, or the command, to its end."""
    ended(ground.session(home, *flags, clocked=clocked, writes=writes))


def ended(session: subprocess.Popen[str]) -> None:
    """Wait for a session that has to end well."""
    try:
        output, _ = session.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise Survived(f"no end within {LIMIT:.0f} s") from None
    finally:
        session.kill()  # changes nothing for one that has ended
    if session.returncode or "Traceback" in output:
        raise Survived(f"exit code {session.returncode}: {output[-1500:]}")


# -- comparing


def so_far(home: Path, *, training: bool) -> int:
    """Progress of a study: epochs, or all records except heartbeats, whose number depends on time."""
    ledger = home / "ledger.jsonl"
    content = ledger.read_bytes() if ledger.exists() else b""
    if training:
        return content.count(b'"record":"Epoch"')
    return content.count(b"\n") - content.count(b'"record":"Beat"')


def arms_of(history: History) -> list[str]:
    return sorted({trial.arm for trial in history.trials.values()})


def balance(home: Path) -> float:
    """Resource-seconds booked beyond those that the trials, measuring, scoring and losses held."""
    history = read(home / "ledger.jsonl")
    lost = sum(r.lost for r in records(home / "ledger.jsonl") if isinstance(r, Resumed))
    held = sum(o.cost for o in history.outcomes.values()) + sum(c.cost for c in history.costs) + lost
    return sum(history.spent(arm) for arm in arms_of(history)) - held


def on_the_clock(home: Path) -> float:
    """On the campaign's clock every recorded epoch costs one: what is booked for training beyond that."""
    history = read(home / "ledger.jsonl")
    booked = sum(history.spent(arm) for arm in arms_of(history)) - sum(cost.cost for cost in history.costs)
    return booked - so_far(home, training=True)


def check_sums(home: Path) -> History:
    """No trial is lost or doubled, every one ended, and the spend is the sum over held slots."""
    history = read(home / "ledger.jsonl")  # which refuses doubled trials and epochs
    if history.torn or history.open:
        raise Survived(f"{history.torn}; {len(history.open)} trials have no end")
    for arm in arms_of(history):
        for phase in ("baseline", "slice", "search", "select", "confirm"):
            indices = [t.index for t in history.of(arm, phase)]
            if indices != list(range(len(indices))):
                raise Survived(f"{arm} {phase}: trials {indices}")
    if abs(balance(home)) > 1e-6:
        raise Survived(f"{balance(home)} s are booked beyond what was held")
    return history


def check_same(home: Path, undisturbed: Path) -> None:
    """Check every decision and measurement, the spend on the clock and the verdict against the undisturbed study."""
    check_decisions(home, undisturbed)
    for run in (home, undisturbed):
        if abs(on_the_clock(run)) > 1e-6:
            raise Survived(
                f"{on_the_clock(run)} s are booked beyond one for each epoch, those undone included"
            )
    if said(home) != said(undisturbed):
        raise Survived("another verdict")


def check_decisions(home: Path, undisturbed: Path) -> None:
    """Check trials, curves, ends, choices and test scores against the undisturbed study's."""
    ours, theirs = check_sums(home), check_sums(undisturbed)
    if list(ours.trials.values()) != list(theirs.trials.values()):
        raise Survived("other trials or configs were proposed")
    for trial_id, epochs in theirs.epochs.items():
        curves = [
            [(e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy, e.stop) for e in each]
            for each in (ours.epochs[trial_id], epochs)
        ]
        if curves[0] != curves[1]:
            raise Survived(f"{trial_id} has another curve")
        ends = [(h.outcomes[trial_id].state, h.outcomes[trial_id].reason) for h in (ours, theirs)]
        if ends[0] != ends[1]:
            raise Survived(f"{trial_id} ended {ends[0]}, undisturbed {ends[1]}")
    if ours.manifests != theirs.manifests or ours.scores != theirs.scores:
        raise Survived("other settings were chosen, or other test scores came out")


def said(home: Path) -> dict[str, Any]:
    """The study's answers."""
    body = json.loads((home / "verdict.json").read_text())
    return {what: body[what] for what in ("answer", "nets")}


def check_left_behind(home: Path, undisturbed: Path) -> None:
    """The same files as the undisturbed study has, no more and no fewer."""
    ours, theirs = ({str(p.relative_to(run)) for p in run.rglob("*")} for run in (home, undisturbed))
    if ours != theirs:
        raise Survived(f"left behind: {sorted(ours - theirs)}; missing: {sorted(theirs - ours)}")


def begun(repo: Path, name: str) -> Path:
    """A study of an hour as it is just after its plan was written; its trials take seconds, and outlast a signal."""
    return _planned(repo / name, dataclasses.replace(a_plan(repo, slots=2, budget=3600.0), epochs=50))


def _planned(home: Path, plan: Plan) -> Path:
    home.mkdir(parents=True)
    plan.save(home / "plan.json")
    return home
