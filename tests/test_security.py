"""A local study on a shared machine: its open ports, access to them, how it stops, and secrets in its files.

The tests inspect one real study while it runs with marked values in its environment. That a finished study has none of them
in its files: test_study.py.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.ground import begun
from support.user import MARKS, marked, user_repo

from study.protocol.ledger import read
from study.protocol.text import printable

pytestmark = pytest.mark.slow
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an IPv6 address, and ::1, as /proc/net writes them."""
ASK = """
import sys
from ray._raylet import GcsClient  # ray.init would replace 127.0.0.1 by the machine's own address, where nobody listens
print("NODES", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=60)))
"""


@dataclass(frozen=True)
class Running:
    """A study that trains, and its surroundings."""

    study: "subprocess.Popen[str]"
    home: Path
    run: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    repo = user_repo(tmp_path_factory.mktemp("marked-folder"))
    run, environment = begun(repo, "run"), marked(repo.parent)
    study = subprocess.Popen(
        [sys.executable, "study/run.py", "--resume", run.name],
        cwd=repo, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
    )  # fmt: skip
    ledger, deadline = run / "ledger.jsonl", time.monotonic() + 240
    while not (ledger.exists() and '"Epoch"' in ledger.read_text()):
        assert study.poll() is None and time.monotonic() < deadline, study.communicate(timeout=60)[0]
        time.sleep(0.3)
    yield Running(study, Path(environment["HOME"]), run, environment)
    if study.poll() is None:
        study.send_signal(signal.SIGTERM)
        study.communicate(timeout=60)


def family(pid: int) -> set[int]:
    """The process and all its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids: set[int]) -> dict[int, tuple[str, str]]:
    """Port -> address in /proc's hexadecimal, and process name, of every TCP socket on which one of them listens."""
    owners: dict[str, str] = {}
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            owners |= {os.readlink(fd): name for fd in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115 bytes
        except OSError:
            continue
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            address, _, port = words[1].partition(":")
            if words[3] == "0A" and (owner := owners.get(f"socket:[{words[9]}]")):
                found[int(port, 16)] = address, owner
    return found


def test_every_port_is_on_loopback(running: Running) -> None:
    found = listening(family(running.study.pid))
    names = {name for _, name in found.values()}
    assert {"gcs_server", "raylet"} <= names  # the search found the study's ports
    assert len(found) >= 6
    assert {port: where for port, where in found.items() if where[0] not in LOOPBACK} == {}


def test_requests_without_the_token_get_no_answer(running: Running) -> None:
    token = running.home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    ports = listening(family(running.study.pid))
    refused = 0
    for port in ports:
        for path in ("/api/version", "/api/jobs/"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                    said = answer.read(200)
                    assert said.startswith(b"# HELP"), (
                        port,
                        ports[port],
                        said,
                    )  # Ray's metrics need no token
            except urllib.error.HTTPError as error:
                assert error.code in (401, 403, 404, 405)
                refused += error.code == 401
            except OSError:  # it does not speak HTTP
                continue
            except Exception as error:  # noqa: BLE001  # nor anything like it
                assert type(error).__module__ == "http.client"
    assert refused >= 2
    gcs = next(port for port, (_, name) in ports.items() if name == "gcs_server")
    strangers = {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    for how, may in ({"RAY_AUTH_MODE": "token"}, True), *((how, False) for how in strangers):
        asked = subprocess.run(
            [sys.executable, "-c", ASK, f"127.0.0.1:{gcs}"],
            env=running.environment | how, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (asked.returncode == 0) == ("NODES 1" in asked.stdout) == may, asked.stderr
        assert ("AuthenticationError" in asked.stderr) != may


def test_sigterm_stops_in_order_and_the_study_can_go_on(running: Running) -> None:
    """To the study's whole process group, as ``timeout`` sends it; a batch system's may come to its process alone."""
    os.killpg(running.study.pid, signal.SIGTERM)
    output = running.study.communicate(timeout=60)[0]
    assert running.study.returncode == 143, output
    assert "Traceback" not in output
    assert f"python study/run.py --resume {running.run.name}" in output
    history = read(running.run / "ledger.jsonl")
    assert history.open
    for trial in history.open:
        assert (running.run / "checkpoints" / f"{trial.id}.pt").exists() or not history.booked[trial.id]
    assert sum(map(history.spent, ("tiny_resnet", "tiny_resnext"))) > 0
    shown = subprocess.run(
        [sys.executable, "-m", "analysis", running.run.name],
        cwd=running.run.parent, env=running.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert (running.home / ".ray" / "auth_token").read_text().strip() not in output


def test_no_file_contains_the_environment(running: Running) -> None:
    token = (running.home / ".ray" / "auth_token").read_text().strip()
    assert len(token) >= 16
    written = [file for file in running.run.rglob("*") if file.is_file()]
    assert {"ledger.jsonl", "plan.json", "report.html", "report.md", "verdict.json"} <= {
        f.name for f in written
    }
    for file in written:
        content = file.read_bytes()
        assert token.encode() not in content, file.name
        if file.name != "ray.log":  # Ray's messages name its own folders
            for secret in MARKS:
                assert secret.encode() not in content, file.name


def test_a_reason_does_not_name_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/marta")
    assert printable("No such file: '/home/marta/x.bin'") == "No such file: '~/x.bin'"
    monkeypatch.setenv("HOME", "/")
    assert printable("in /a/b") == "in /a/b"
