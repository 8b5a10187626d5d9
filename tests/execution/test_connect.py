"""Error messages when Ray cannot be joined or has no dashboard; Ray is not started."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import utils

from study.execution import cluster, ray_patches
from study.protocol.errors import StudyError


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Any]], Any]]:
    """``cluster.connect`` with this in place of ``ray.init``."""
    monkeypatch.setattr(cluster, "knock", lambda _: None)
    monkeypatch.setattr(ray_patches, "match_token_mode", lambda _: None)
    monkeypatch.setattr(ray_patches, "stay_on_loopback", lambda *, wanted: None)  # noqa: ARG005

    def call(init: Callable[..., Any], address: str | None = "127.0.0.1:6379") -> str:
        monkeypatch.setattr(ray, "init", init)
        return cluster.connect(address, tmp_path / "ray.log")

    yield call
    for handler in logging.getLogger("ray.tune").handlers:
        handler.close()


def test_another_version_of_ray_or_python_is_named_with_ours(connect: Callable[..., str]) -> None:
    ours: Any = utils.compute_version_info()  # type: ignore[no-untyped-call]
    theirs = {"ray_version": "2.59.0", "python_version": "3.12.1"}

    def join(**_: object) -> None:
        utils.check_version_info(theirs, "node 127.0.0.1")

    with pytest.raises(StudyError) as refused:
        connect(join)
    for version in (*ours[:2], *theirs.values()):
        assert version in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "token" not in str(refused.value)


def test_what_keeps_ray_from_starting_is_in_a_log_that_outlasts_the_run(
    tmp_path: Path, connect: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own goes with a study that has not begun."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    logs = tmp_path / "ray" / f"session_2026-01-01_00-00-00_000000_{os.getpid()}" / "logs"

    def begin(**_: object) -> None:
        logs.mkdir(parents=True)
        raise RuntimeError("no raylet")

    with pytest.raises(StudyError) as refused:
        connect(begin, None)
    assert str(logs) in str(refused.value)
    assert "ray.log" not in str(refused.value)


def test_all_messages_reach_the_log_although_ray_clears_the_handlers(
    tmp_path: Path, connect: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    def start(**_: object) -> SimpleNamespace:
        logging.getLogger("ray").handlers.clear()  # as Ray 2.60 does
        return SimpleNamespace(dashboard_url="")

    connect(start)
    logging.getLogger("ray.study").error("a tool is down")
    assert "a tool is down" in (tmp_path / "ray.log").read_text()
    assert capfd.readouterr().err == ""


def test_the_dashboard_needs_its_pages_and_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = tmp_path / "ray" / "dashboard" / "client" / "build"
    monkeypatch.setattr(ray, "__file__", str(tmp_path / "ray" / "__init__.py"))
    monkeypatch.setattr(ray_patches, "get_dashboard_dependency_error", lambda: None)
    assert not ray_patches.has_dashboard()
    pages.mkdir(parents=True)
    assert ray_patches.has_dashboard()
    monkeypatch.setattr(ray_patches, "get_dashboard_dependency_error", lambda: ImportError("no aiohttp"))
    assert not ray_patches.has_dashboard()


def test_only_one_file_uses_rays_private_parts() -> None:
    private = re.compile(r"\bray\._|ray\.[\w.]+\._\w+|_actor_cache|_actor_manager|_tune_controller\b")
    files = (Path(__file__).parents[2] / "study").rglob("*.py")
    assert [p.name for p in files if private.search(p.read_text())] == ["ray_patches.py"]
