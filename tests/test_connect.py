"""What is said where Ray cannot be joined, or has no dashboard; without starting one."""

from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import utils

from study import cluster


def test_another_version_of_ray_or_python_is_named_beside_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours: Any = utils.compute_version_info()  # type: ignore[no-untyped-call]
    theirs = {"ray_version": "2.59.0", "python_version": "3.12.1"}

    def join(**_: object) -> None:
        utils.check_version_info(theirs, "node 127.0.0.1")

    monkeypatch.setattr(ray, "init", join)
    for name in ("_knock", "_match_token_mode"):
        monkeypatch.setattr(cluster, name, lambda _: None)
    monkeypatch.setattr(cluster, "_stay_on_loopback", lambda *, wanted: None)  # noqa: ARG005
    with pytest.raises(cluster.ClusterError) as refused:
        cluster.connect("127.0.0.1:6379", tmp_path / "ray.log")
    for version in (*ours[:2], *theirs.values()):
        assert version in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "token" not in str(refused.value)


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
