"""What the command refuses, plans without running, and does when it is asked to stop: real processes, real Ray."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from faults.ground import begun
from support.user import command, example_arm, user_repo

from study.protocol.ledger import read

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _hang_up() -> Iterator[None]:
    """Tests that were themselves started with nohup must not hand that on: a study respects it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_repo(tmp_path_factory.mktemp("user"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--budget 5cpu-minutes --data nothing", "cifar10"),
        ("--budget 5cpu-minutes --data folder:nowhere", "nowhere"),
        ("--budget 5cpu-minutes --data folder:images --arms broken,tiny_resnet", "search_spaces/broken.py"),
        ("--budget 5cpu-minutes --data folder:images --arms crooked,tiny_resnet", "crooked"),
        (
            "--budget 1cpu-minutes --data folder:images --arms tiny_resnet,tiny_resnext --epochs 10000",
            "This would do: --budget",
        ),
        (
            "--budget 5cpu-minutes --data folder:images --arms tiny_resnet,tiny_resnext --train-fraction 0.999",
            "cannot be split off",
        ),
        ("--budget 5cpu-minutes --data folder:images --metric top5", "more than 5 classes"),
    ],
    ids=[
        "data set",
        "folder",
        "arm that cannot be imported",
        "arm that cannot train",
        "budget",
        "split",
        "metric",
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(repo: Path, flags: str, says: str) -> None:
    (repo / "search_spaces" / "broken.py").write_text("import nothing_of_this_name\n")
    crooked = example_arm().replace("images.classes", "images.classes - 1")
    (repo / "search_spaces" / "crooked.py").write_text(crooked)
    done = command(repo, f"{flags} --out fresh")
    (repo / "search_spaces" / "broken.py").unlink()
    (repo / "search_spaces" / "crooked.py").unlink()
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (repo / "fresh").exists()


def test_a_gpu_budget_without_a_gpu_ends_with_a_command_that_works(repo: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = command(repo, "--budget 8gpu-hours --data folder:images --out fresh")
    assert done.returncode == 2
    assert "python study/run.py --budget 20cpu-minutes --data digits" in done.stderr


def test_planning_runs_nothing(repo: Path) -> None:
    done = command(repo, "--budget 5cpu-minutes --data folder:images --arms tiny_resnet,tiny_resnext --plan")
    assert done.returncode == 0, done.stderr
    for part in ("full run", "confirm", "This budget can"):
        assert part in done.stdout
    assert len(done.stdout.splitlines()) <= 30
    assert not (repo / "runs").exists()


@pytest.mark.long
@pytest.mark.parametrize(("what", "code"), [("closed", 129), ("Ctrl-C", 130), ("Ctrl-C twice", 130)])
def test_a_terminal_that_goes_or_asks_stops_the_study_in_order(repo: Path, what: str, code: int) -> None:
    """Its signals reach Ray's processes too, and what is said afterwards is read by nobody."""
    home = begun(repo, f"terminal-{what.replace(' ', '-')}")
    terminal, its = pty.openpty()
    study = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "study/run.py", "--resume", home.name],
        cwd=repo, stdin=its, stdout=its, stderr=its,
    )  # fmt: skip
    os.close(its)
    ledger, deadline, said = home / "ledger.jsonl", time.monotonic() + 180, b""
    while time.monotonic() < deadline and not (ledger.exists() and '"Epoch"' in ledger.read_text()):
        if select.select([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 2**16)
    if what == "closed":
        os.close(terminal)
    else:
        os.write(terminal, b"\x03")
        if what == "Ctrl-C twice":
            time.sleep(0.5)
            os.write(terminal, b"\x03")
        with suppress(OSError):  # how a terminal ends that nobody writes to any more
            while part := os.read(terminal, 2**16):
                said += part
        os.close(terminal)
    assert study.wait(timeout=60) == code, said.decode()
    assert b"Traceback" not in said
    history = read(ledger)
    assert history.open
    if what != "Ctrl-C twice":
        for trial in history.open:
            assert (home / "checkpoints" / f"{trial.id}.pt").exists() or not history.booked[trial.id]
    shown = subprocess.run([sys.executable, "-m", "analysis", home.name], cwd=repo, check=False)
    assert shown.returncode == 0
