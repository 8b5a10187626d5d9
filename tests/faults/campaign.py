"""The fault campaign: break real studies at random moments, resume them, and compare with an undisturbed one.

    python -m tests.faults --repeats 3 --seed 0

Every study runs one trial at a time on a clock that counts epochs, so that only the fault
can make a difference: trials, configs, curves, choices, test scores and verdict
must equal the undisturbed study's. ``two at a time`` and ``node killed`` run on the wall clock with two
trials side by side, and only their sums are checked. Ray, Optuna and torch are real.
"""

import argparse
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
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

ROOT = Path(__file__).parents[2]
ARMS = ("tiny_resnet", "tiny_resnext")
LIMIT = 300.0
"""Seconds allowed for a session."""
HURRY = {
    "report_seconds": 0.05,
    "checkpoint_seconds": 0.2,
    "silence_floor": 12.0,
    "beat_seconds": 0.5,
    "confirm_ceiling": 4,
    "disk_seconds": 0.5,
    "disk_floor": 8 * 2**20,
    "nodes_seconds": 0.5,
}
"""Shorter intervals, so that a study of seconds meets the events of one of hours. Lost time
costs confirmation runs; a low ceiling keeps their number, and verdicts stay comparable."""
DRIVER = """
import dataclasses, sys
sys.path.insert(0, "")
from study.scheduling import schedule
now = [0.0]
report = schedule.Schedule.report
def counted(self, epoch):
    now[0] += 1.0
    return report(self, dataclasses.replace(epoch, train_seconds=0.9, eval_seconds=0.1))
schedule.Schedule.report = counted
resumed = schedule.Schedule.resumed
schedule.Schedule.resumed = lambda self, trial_id, epoch, seconds: resumed(self, trial_id, epoch, 0.0)
schedule.Schedule.__init__.__kwdefaults__["clock"] = lambda: now[0]
import study.run
sys.exit(study.run.main(["--resume", sys.argv[1], *sys.argv[2:]]))
"""
"""Runs the study in argv[1] on a clock that counts trained epochs."""
PLAIN = 'import sys; sys.path.insert(0, ""); import study.run; sys.exit(study.run.main(["--resume", *sys.argv[1:]]))'

MEMORY_LEFT = 3 * 2**30
"""Bytes left before Ray ends workers, in the fault that fills the memory."""
BALLOON = 'import time; held = [b"1" * 2**28 for _ in range(2 * {} // 2**28)]; time.sleep(60)'


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
        home = self.repo / name
        home.mkdir()
        a_plan(self.repo, slots=slots, budget=self.budget).save(home / "plan.json")
        return home

    def session(
        self, home: Path, *flags: str, clocked: bool = True, memory: float = 0.0
    ) -> subprocess.Popen[str]:
        """Start the study in its own process; ``memory``: bytes that its machine has left."""
        watch = {}
        if memory:
            have = psutil.virtual_memory()
            share = (have.total - have.available + memory) / have.total
            watch = {"RAY_memory_usage_threshold": f"{share:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER if clocked else PLAIN, home.name, *flags], env={**self.environment, **watch},
            cwd=self.repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


def prepare_ground(folder: Path, budget: float = 160.0, **settings: float) -> Ground:
    repo = folder / "repo"
    for package in ("study", "search_spaces", "analysis"):
        shutil.copytree(ROOT / package, repo / package, ignore=shutil.ignore_patterns("__pycache__"))
    make_images(repo / "images", train=200, test=60)
    return Ground(repo, budget, {**HURRY, **settings})


def a_plan(repo: Path, *, slots: int, budget: float) -> Plan:
    """A small study of ``repo / "images"``; every epoch costs one unit."""
    prepared = prepare(f"folder:{repo / 'images'}", seed=0, root=repo)
    card = dataclasses.replace(prepared.card, spec="folder:images")
    speed = Audit(
        params=1, macs=1, images_per_second=480 / 0.9, eval_images_per_second=1200.0, peak_bytes=1, startup_seconds=0.1
    )  # fmt: skip
    spaces = {arm: searched(load(arm).space, (32, 64), ()) for arm in ARMS}
    return Plan(
        arms=ARMS,
        data=card,
        budget=Budget(seconds=budget, resource="cpu"),
        epochs=3,
        rope=0.02,
        seed=0,
        train_fraction=1.0,
        widen=(),
        spaces={arm: describe(space) for arm, space in spaces.items()},
        batch_sizes=(32, 64),
        audits=dict.fromkeys(ARMS, speed),
        machine=Machine(resource="cpu", slots=slots, fraction=1.0, threads=1, name=f"CPU x {slots}"),
        probe_cost=dict.fromkeys(ARMS, 0.1),
        command="python -m tests.faults",
        versions={},
        code="",
    )


# -- the faults: each breaks a running session and describes its action


def driver_killed(session: subprocess.Popen[str], *_: object) -> str:
    session.kill()
    return "driver killed with -9"


def terminated(session: subprocess.Popen[str], *_: object) -> str:
    asked = time.monotonic()
    session.send_signal(signal.SIGTERM)
    session.wait(timeout=60)
    took = time.monotonic() - asked
    if session.returncode != 143 or took > 20:
        raise Survived(f"SIGTERM: exit code {session.returncode} after {took:.1f} s")
    return f"SIGTERM, stopped in {took:.1f} s"


def worker_killed(session: subprocess.Popen[str], *_: object) -> str:
    _worker_of(session).kill()
    return "worker killed with -9"


def worker_hangs(session: subprocess.Popen[str], *_: object) -> str:
    _worker_of(session).suspend()
    return "worker stopped answering"


def memory_full(session: subprocess.Popen[str], home: Path, _: random.Random) -> str:
    """Another process fills the memory until Ray's monitor ends the worker."""
    worker = _worker_of(session)
    with subprocess.Popen([sys.executable, "-c", BALLOON.format(MEMORY_LEFT)]) as balloon:
        try:
            worker.wait(timeout=60)
        except psutil.TimeoutExpired:
            raise Survived("the memory was full, and the worker lives on") from None
        finally:
            balloon.kill()
    until = time.monotonic() + 60
    while b'"reason":"out of memory: Ray ended' not in (home / "ledger.jsonl").read_bytes():
        if session.poll() is not None:
            raise Survived(f"exit code {session.returncode}: {session.communicate()[0][-1500:]}")
        if time.monotonic() > until:
            raise Survived("the ledger does not say that memory was the reason")
        time.sleep(0.1)
    return "memory full, worker ended by Ray"


def ledger_torn(session: subprocess.Popen[str], home: Path, dice: random.Random) -> str:
    session.kill()
    session.wait()
    ledger = home / "ledger.jsonl"
    content = ledger.read_bytes()
    last = len(content.rstrip(b"\n")) - content.rstrip(b"\n").rfind(b"\n")
    cut = dice.randrange(1, last)
    ledger.write_bytes(content[:-cut])
    return f"driver killed, the last {cut} bytes of the ledger torn off"


def checkpoint_torn(session: subprocess.Popen[str], home: Path, dice: random.Random) -> str:
    """Tear the checkpoints of a running trial and of a finished net."""
    ledger, until = home / "ledger.jsonl", time.monotonic() + 30

    def there() -> tuple[list[Path], list[Path]]:
        history, files = (
            read(ledger) if ledger.exists() else History(),
            sorted((home / "checkpoints").glob("*.pt")),
        )
        running = {t.id for t in history.open}
        return [p for p in files if p.stem in running], [p for p in files if history.finished(p.stem)]

    while session.poll() is None and time.monotonic() < until and not there()[0]:
        time.sleep(0.01)
    session.kill()
    session.wait()
    torn, done = there()
    for path in [*torn, *([dice.choice(done)] if done else [])]:
        path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])
    return f"driver killed, {len(torn)} checkpoint torn, and {min(1, len(done))} net that was done"


def disk_full(session: subprocess.Popen[str], home: Path, dice: random.Random) -> str:
    """``home`` is on its own small file system, see ``small_disk``."""
    filler = home / "filler"
    free = shutil.disk_usage(home).free
    room = dice.choice([0, 4 * 2**20])  # no byte left, or less than the study's limit
    with suppress(OSError), filler.open("wb") as file:
        while free > room:
            free -= file.write(b"\0" * min(2**18, free - room))
            file.flush()
    output, _ = session.communicate(timeout=90)
    filler.unlink(missing_ok=True)
    if session.returncode != 3 or "Traceback" in output or "--resume" not in output:
        raise Survived(f"disk full: exit code {session.returncode}: {output[-600:]}")
    read(home / "ledger.jsonl")
    return "disk full, stopped in order"


FAULTS: dict[str, Callable[[subprocess.Popen[str], Path, random.Random], str]] = {
    "driver killed": driver_killed,
    "SIGTERM": terminated,
    "worker killed": worker_killed,
    "ledger torn": ledger_torn,
    "checkpoint torn": checkpoint_torn,
    "worker hangs": worker_hangs,
    "memory full": memory_full,
    "disk full": disk_full,
}


def _worker_of(session: subprocess.Popen[str]) -> psutil.Process:
    """The process that is training."""
    until = time.monotonic() + 30
    while time.monotonic() < until and session.poll() is None:
        for process in psutil.Process(session.pid).children(recursive=True):
            try:
                if "StudyTrial" in " ".join(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        time.sleep(0.02)
    raise Survived("the study has no worker to break")


@contextmanager
def small_disk(home: Path) -> Iterator[None]:
    """``home`` on a file system of 64 MiB. Raises PermissionError without the right to mount."""
    kept = (home / "plan.json").read_bytes()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(home)], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        (home / "plan.json").write_bytes(kept)
        yield
        saved = shutil.copytree(home, home.with_name(f"{home.name}-kept"))
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)
    shutil.rmtree(home)
    saved.rename(home)


# -- running and comparing


def run_out(ground: Ground, home: Path, *flags: str, clocked: bool = True) -> None:
    """Run the study to its end."""
    session = ground.session(home, *flags, clocked=clocked)
    try:
        output, _ = session.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        session.kill()
        raise Survived(f"no end within {LIMIT:.0f} s") from None
    if session.returncode or "Traceback" in output:
        raise Survived(f"exit code {session.returncode}: {output[-1500:]}")


def so_far(home: Path, *, training: bool) -> int:
    """Progress of a study: epochs, or all records except heartbeats, whose number depends on time."""
    ledger = home / "ledger.jsonl"
    content = ledger.read_bytes() if ledger.exists() else b""
    if training:
        return content.count(b'"record":"Epoch"')
    return content.count(b"\n") - content.count(b'"record":"Beat"')


def broken(
    ground: Ground, home: Path, fault: str, dice: random.Random, undisturbed: Path, *, clocked: bool = True
) -> str:
    """Run the study, break it after a random number of records, and run it to its end. Describes the fault.

    Any moment from the first record to the last one, when the opened test set is scored; faults that need
    a worker or a watched disk come while trials run.
    """
    slow = fault == "memory full"  # filling it takes seconds
    session = ground.session(home, clocked=clocked, memory=MEMORY_LEFT if slow else 0.0)
    training = fault in ("worker killed", "worker hangs", "memory full", "checkpoint torn", "disk full")
    moment = dice.randrange(1, so_far(undisturbed, training=training) // (3 if slow else 1))
    until = time.monotonic() + LIMIT
    while session.poll() is None and time.monotonic() < until:
        if so_far(home, training=training) >= moment:
            break
        time.sleep(0.01)
    time.sleep(dice.uniform(0, 0.3))
    if session.poll() is not None:
        raise Survived(f"ended by itself before {moment} records: {session.communicate()[0][-600:]}")
    done = FAULTS[fault](session, home, dice)
    if fault in ("worker killed", "worker hangs", "memory full"):  # this session survives
        output, _ = session.communicate(timeout=LIMIT)
        if session.returncode:
            raise Survived(f"exit code {session.returncode}: {output[-1500:]}")
    else:
        session.communicate()
        run_out(ground, home, clocked=clocked)
    return f"after {moment} {'epochs' if training else 'records'} {done}"


def check_sums(home: Path) -> History:
    """No trial is lost or doubled, every one ended, and the spend is the sum over held slots."""
    history = read(home / "ledger.jsonl")  # which refuses doubled trials and epochs
    if history.torn or history.open:
        raise Survived(f"{history.torn}; {len(history.open)} trials have no end")
    for arm in ARMS:
        for phase in ("baseline", "slice", "search", "select", "confirm"):
            indices = [t.index for t in history.of(arm, phase)]
            if indices != list(range(len(indices))):
                raise Survived(f"{arm} {phase}: trials {indices}")
    lost = sum(r.lost for r in records(home / "ledger.jsonl") if isinstance(r, Resumed))
    held = sum(o.cost for o in history.outcomes.values()) + sum(c.cost for c in history.costs) + lost
    spent = sum(history.spent(arm) for arm in ARMS)
    if abs(held - spent) > 1e-6:
        raise Survived(f"spent {spent}, held {held}")
    return history


def check_same(home: Path, undisturbed: Path) -> None:
    """Check every decision and measurement against the undisturbed study."""
    ours, theirs = check_sums(home), check_sums(undisturbed)
    for run, history in (
        (home, ours),
        (undisturbed, theirs),
    ):  # on this clock every recorded epoch cost one
        held = sum(history.spent(arm) for arm in ARMS) - sum(cost.cost for cost in history.costs)
        if abs(held - so_far(run, training=True)) > 1e-6:
            raise Survived(
                f"{held} booked for {so_far(run, training=True)} epochs, those that were undone included"
            )
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
    said = [json.loads((run / "verdict.json").read_text()) for run in (home, undisturbed)]
    if any(said[0][what] != said[1][what] for what in ("answer", "nets")):
        raise Survived("another verdict")


def node_killed(ground: Ground, home: Path, dice: random.Random) -> str:
    """Two nodes of Ray's test cluster; the second is killed during a trial."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        session = ground.session(home, "--address", cluster.address, clocked=False)
        ledger, moment = home / "ledger.jsonl", dice.randrange(2, 30)
        until = time.monotonic() + LIMIT
        while session.poll() is None and time.monotonic() < until:
            if ledger.exists() and ledger.read_bytes().count(b'"record":"Epoch"') >= moment:
                break
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        output, _ = session.communicate(timeout=LIMIT)
        if session.returncode:
            raise Survived(f"exit code {session.returncode}: {output[-1500:]}")
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    check_sums(home)
    return f"after {moment} epochs the second node killed"


def two_at_a_time(ground: Ground, home: Path, dice: random.Random) -> str:
    """Several kills in one study on the wall clock."""
    done = []
    for fault in dice.sample(["driver killed", "SIGTERM", "ledger torn", "checkpoint torn"], 2):
        session = ground.session(home, clocked=False)
        time.sleep(dice.uniform(12, 25))
        if session.poll() is None:
            done.append(FAULTS[fault](session, home, dice))
        session.communicate()
    run_out(ground, home, clocked=False)
    history = check_sums(home)
    lost = sum(history.spent(arm, "lost") for arm in ARMS)
    return f"{', '.join(done)}; {lost:.1f} s booked as lost"


def campaign(
    folder: Path,
    *,
    faults: list[str],
    repeats: int,
    seed: int,
    say: Callable[[str], None],
    budget: float = 160.0,
) -> list[tuple[str, int, int, str]]:
    """Break ``repeats`` studies by every fault. Returns tries, survivals and the last event per fault."""
    ground = prepare_ground(folder, budget)
    undisturbed = ground.begin("undisturbed", slots=1)
    run_out(ground, undisturbed)
    counted = [so_far(undisturbed, training=training) for training in (True, False)]
    say(f"undisturbed: {counted[0]} epochs, {counted[1]} records")
    rows = []
    for fault in faults:
        survived, last = 0, ""
        for repeat in range(repeats):
            dice = random.Random(f"{seed}/{fault}/{repeat}")
            wall_clock = fault in ("two at a time", "node killed")
            home = ground.begin(re.sub(r"\W", "-", f"{fault}-{repeat}"), slots=2 if wall_clock else 1)
            try:
                if fault == "two at a time":
                    last = two_at_a_time(ground, home, dice)
                elif fault == "node killed":
                    last = node_killed(ground, home, dice)
                elif fault == "disk full":
                    with small_disk(home):
                        last = broken(ground, home, fault, dice, undisturbed)
                else:
                    last = broken(ground, home, fault, dice, undisturbed)
                if not wall_clock:
                    check_same(home, undisturbed)
                survived += 1
            except (Survived, subprocess.TimeoutExpired) as error:
                last = (
                    f"NOT SURVIVED: {error}"
                    if isinstance(error, Survived)
                    else "NOT SURVIVED: it never ended"
                )
                say(f"{fault} {repeat}: {last}")
                shutil.copytree(home, folder / f"failed-{home.name}", dirs_exist_ok=True)
            except PermissionError as error:
                last = f"cannot be tried here: {error}"
                break
            say(f"{fault} {repeat}: {last}")
            shutil.rmtree(home, ignore_errors=True)
        rows.append((fault, repeats, survived, last))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    known = [*FAULTS, "two at a time", "node killed"]
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default=",".join(known), help=f"of {', '.join(known)}")
    parser.add_argument("--keep", metavar="DIR", help="work here, and keep what failed")
    given = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as temporary:
        rows = campaign(
            Path(given.keep or temporary),
            faults=given.faults.split(","), repeats=given.repeats, seed=given.seed,
            say=lambda text: console.print(text, markup=False),
        )  # fmt: skip
    table = Table("fault", "tried", "survived", "the last one")
    for fault, tried, survived, last in rows:
        table.add_row(fault, str(tried), str(survived), last)
    console.print(table)
    return 0 if all(tried == survived for _, tried, survived, _ in rows) else 1
