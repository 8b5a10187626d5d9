"""What is said where Ray cannot be joined, or has no dashboard; without starting one."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import utils

from study.execution import cluster
from study.protocol.errors import StudyError


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Any]], Any]]:
    """``cluster.connect`` with this in the place of ``ray.init``."""
    for name in ("knock", "_match_token_mode"):
        monkeypatch.setattr(cluster, name, lambda _: None)
    monkeypatch.setattr(cluster, "_stay_on_loopback", lambda *, wanted: None)  # noqa: ARG005

    def call(init: Callable[..., Any]) -> str:
        monkeypatch.setattr(ray, "init", init)
        return cluster.connect("127.0.0.1:6379", tmp_path / "ray.log")

    yield call
    for handler in logging.getLogger("ray.tune").handlers:
        handler.close()


def test_another_version_of_ray_or_python_is_named_beside_ours(connect: Callable[..., str]) -> None:
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


def test_rays_messages_and_ours_reach_its_log_though_its_start_clears_the_handlers(
    tmp_path: Path, connect: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    def start(**_: object) -> SimpleNamespace:
        logging.getLogger("ray").handlers.clear()  # as Ray 2.60 does
        return SimpleNamespace(dashboard_url="")

    connect(start)
    logging.getLogger("ray.study").error("a tool is down")
    assert "a tool is down" in (tmp_path / "ray.log").read_text()
    assert capfd.readouterr().err == ""


def test_a_dashboard_is_there_only_with_its_pages_and_what_serves_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = tmp_path / "ray" / "dashboard" / "client" / "build"
    monkeypatch.setattr(ray, "__file__", str(tmp_path / "ray" / "__init__.py"))
    monkeypatch.setattr(cluster, "get_dashboard_dependency_error", lambda: None)
    assert not cluster._has_dashboard()
    pages.mkdir(parents=True)
    assert cluster._has_dashboard()
    monkeypatch.setattr(cluster, "get_dashboard_dependency_error", lambda: ImportError("no aiohttp"))
    assert not cluster._has_dashboard()
