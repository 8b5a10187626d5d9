"""Users' tools on a running study: the text of their pages, and the metrics that Prometheus gets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults.ground import a_plan
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from support.browser import Browser, opened
from support.user import user_repo

from study.protocol.history import History
from study.protocol.ledger import read
from study.protocol.plan import Plan

pytestmark = pytest.mark.long
ARMS = ("tiny_resnet", "tiny_resnext")
FINISHED = re.compile(r'ray_study_trials{[^}]*arm="(\w+)"[^}]*state="finished"} [1-9]')
SECONDS = 240
"""Until both arms have a finished trial."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A running study, shown in every tool."""

    home: Path
    driver: int
    """Its process id."""
    dashboard: str
    token: str

    @property
    def history(self) -> History:
        return read(self.home / "ledger.jsonl")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("study")
    (folder / "token").write_text(os.urandom(32).hex())
    repo = user_repo(folder)
    home, log = repo / "out", folder / "log"
    home.mkdir()
    a_plan(repo, slots=2, budget=3600.0).save(home / "plan.json")  # an hour, of trials of seconds
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "study/run.py", "--resume", "out", "--log", "optuna,tensorboard"],
            cwd=repo, stdout=stream, stderr=subprocess.STDOUT,
            env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_AUTH_MODE": "token"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        while not (home / "ledger.jsonl").exists() or not all(
            read(home / "ledger.jsonl").ends[arm, "finished"] for arm in ARMS
        ):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)
        said = re.search(r"Ray dashboard: (http://127\.0\.0\.1:\d+)", log.read_text())
        assert said is not None
        yield Running(
            home=home, driver=process.pid, dashboard=said.group(1), token=(folder / "token").read_text()
        )
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from opened(tmp_path_factory.mktemp("browser"))


@contextmanager
def served(tool: str, *arguments: str) -> Iterator[str]:
    """The tool's own server on a free port of 127.0.0.1. Yields its address."""
    program = Path(sys.executable).with_name(tool)
    if not program.exists():
        pytest.skip(f"{tool} is not installed: its page was not opened")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [program, "--host", "127.0.0.1", "--port", str(port), *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).close()
                break
            assert server.poll() is None, f"{tool} has ended"
            assert time.monotonic() < deadline, f"{tool} does not answer"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def test_rays_dashboard_shows_the_study_and_its_trials(
    study: Running, browser: Browser, tmp_path: Path
) -> None:
    cookie = {"ray-authentication-token": study.token}
    jobs = browser.read(
        f"{study.dashboard}/#/jobs", "study/run.py", picture=tmp_path / "jobs.png", cookies=cookie
    )
    assert "--resume out" in jobs
    browser.read(
        f"{study.dashboard}/#/actors", "Trainable", "ALIVE", picture=tmp_path / "actors.png", cookies=cookie
    )


def test_a_trials_process_is_named_by_arm_phase_and_setting(study: Running) -> None:
    """Ray's dashboard and ps list the process by its name."""
    named = re.compile(rf"ray::StudyTrial ({'|'.join(ARMS)})-[a-z]+-\d{{4}} .*lr[ =]")
    deadline = time.monotonic() + 60
    while not any(map(named.match, _commands(study))):
        assert time.monotonic() < deadline, _commands(study)
        time.sleep(0.2)


def _commands(study: Running) -> list[str]:
    said = []
    for process in psutil.Process(study.driver).children(recursive=True):
        with suppress(psutil.Error):
            said.append(" ".join(process.cmdline()))
    return said


def test_optunas_dashboard_shows_every_arms_search(study: Running, browser: Browser, tmp_path: Path) -> None:
    with served("optuna-dashboard", str(study.home / "optuna.journal")) as address:
        text = browser.read(f"{address}/dashboard/", *ARMS, picture=tmp_path / "studies.png")
        assert all(f"{arm} (other runs)" in text for arm in ARMS)
        first = study.history.of(ARMS[0], "baseline")[0].id
        browser.read(
            f"{address}/dashboard/studies/1/trials?numbers=0",
            first,
            "Complete",
            picture=tmp_path / "trial.png",
        )
        browser.read(f"{address}/dashboard/studies/0", ARMS[0], "History", picture=tmp_path / "history.png")


def test_tensorboard_shows_every_trials_curves(study: Running, browser: Browser, tmp_path: Path) -> None:
    names = [study.history.of(arm, "baseline")[0].id for arm in ARMS]
    with served("tensorboard", "--logdir", str(study.home / "tensorboard")) as address:
        browser.read(f"{address}/#timeseries", *names, "val_accuracy", picture=tmp_path / "series.png")
        browser.read(f"{address}/#hparams", *names, *ARMS, "baseline", "lr", picture=tmp_path / "hparams.png")


def test_prometheus_gets_the_metrics_of_a_running_study(study: Running) -> None:
    deadline, found = time.monotonic() + SECONDS, ""
    while time.monotonic() < deadline and len(set(FINISHED.findall(found))) < len(ARMS):
        time.sleep(2)
        with suppress(OSError):  # Ray's endpoints start one by one
            found = _scrape(study)
    metrics, history, share = _values(found), study.history, Plan.load(study.home / "plan.json").share
    for arm in ARMS:
        spent = sum(value for labels, value in metrics["ray_study_spent_seconds"] if f'arm="{arm}"' in labels)
        (left,) = (value for labels, value in metrics["ray_study_left_seconds"] if f'arm="{arm}"' in labels)
        assert 0 < spent <= history.spent(arm) + 1e-6
        assert left == pytest.approx(share - spent, abs=30)  # the two are scraped in turn
    runs = {re.findall(r'run="(\w+)"', labels)[0] for labels, _ in metrics["ray_study_trials"]}
    assert runs == {"out"}
    storage = JournalStorage(JournalFileBackend(str(study.home / "optuna.journal")))
    shown = sum(len(storage.get_all_trials(s._study_id)) for s in storage.get_all_studies())
    assert shown >= len(history.trials)


def _scrape(study: Running) -> str:
    """The text of all Prometheus endpoints of the study."""
    request = urllib.request.Request(  # the study's own address
        f"{study.dashboard}/api/prometheus/sd", headers={"Authorization": f"Bearer {study.token}"}
    )
    answer: list[dict[str, Any]] = json.load(urllib.request.urlopen(request, timeout=10))
    said = ""
    for target in answer[0]["targets"]:
        said += urllib.request.urlopen(f"http://{target}/metrics", timeout=10).read().decode()
    return said


def _values(found: str) -> dict[str, list[tuple[str, float]]]:
    metrics: dict[str, list[tuple[str, float]]] = {}
    for name, labels, value in re.findall(r"^(ray_study_\w+)\{(.*)\} (\S+)$", found, re.MULTILINE):
        metrics.setdefault(name, []).append((labels, float(value)))
    return metrics
