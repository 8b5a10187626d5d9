"""The faults that come from outside: each breaks a running session and describes its action."""

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from faults.ground import Survived
from study.protocol.history import History
from study.protocol.ledger import read

MEMORY_LEFT = 3 * 2**30
"""Bytes left before Ray ends workers, in the fault that fills the memory."""
BALLOON = 'import time; held = [b"1" * 2**28 for _ in range(2 * {} // 2**28)]; time.sleep(60)'


def driver_killed(session: subprocess.Popen[str], *_: object) -> str:
    session.kill()
    return "driver killed with -9"


def terminated(session: subprocess.Popen[str], *_: object) -> str:
    asked = time.monotonic()
    session.send_signal(signal.SIGTERM)
    session.wait(timeout=60)
    took = time.monotonic() - asked
    if session.returncode == 0:
        raise LookupError("it had just ended")
    if session.returncode != 143 or took > 20:
        raise Survived(f"SIGTERM: exit code {session.returncode} after {took:.1f} s")
    return f"SIGTERM, stopped in {took:.1f} s"


def worker_killed(session: subprocess.Popen[str], *_: object) -> str:
    _worker_of(session).kill()
    return "worker killed with -9"


def worker_hangs(session: subprocess.Popen[str], *_: object) -> str:
    _worker_of(session).suspend()
    return "worker stopped answering"


def worker_frozen(session: subprocess.Popen[str], _: Path, dice: random.Random) -> str:
    """The worker wakes, for as long as Ray lets it, when the study has gone on without it."""
    worker, pause = _worker_of(session), dice.uniform(5, 30)
    worker.suspend()
    session.kill()

    def wake() -> None:
        with suppress(psutil.Error):
            worker.resume()

    threading.Timer(pause, wake).start()
    return f"worker frozen for {pause:.0f} s, driver killed with -9"


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


Break = Callable[[subprocess.Popen[str], Path, random.Random], str]
OUTSIDE: dict[str, Break] = {
    "driver killed": driver_killed,
    "SIGTERM": terminated,
    "worker killed": worker_killed,
    "ledger torn": ledger_torn,
    "checkpoint torn": checkpoint_torn,
    "worker hangs": worker_hangs,
    "worker frozen": worker_frozen,
    "memory full": memory_full,
    "disk full": disk_full,
}
ENDING = ("driver killed", "SIGTERM", "ledger torn", "checkpoint torn", "worker frozen", "disk full")
"""Faults that end the session."""
TRAINING = ("worker killed", "worker hangs", "memory full", "checkpoint torn", "worker frozen", "disk full")
"""Faults that come while trials run."""


def _worker_of(session: subprocess.Popen[str]) -> psutil.Process:
    """The process that is training. Raises LookupError if the study ends before there is one."""
    until = time.monotonic() + 30
    while time.monotonic() < until and session.poll() is None:
        for process in psutil.Process(session.pid).children(recursive=True):
            try:
                if "StudyTrial" in " ".join(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        time.sleep(0.02)
    raise LookupError("no worker to break")
