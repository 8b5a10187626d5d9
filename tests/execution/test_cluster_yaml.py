"""cluster.yaml, as far as it can be checked without a cloud.

``support/cluster_up.py`` runs ``ray up`` itself on two hosts made of namespaces.
"""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from support.cluster_up import missing, up_and_down

from study.execution.callback import LEAVE_SECONDS
from study.storage.sync import CLOSE_SECONDS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()


def prepared(text: str) -> dict[str, Any]:
    """The config as ``ray up`` reads it: with Ray's defaults, checked against Ray's schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return prepared(TEXT)


def test_ray_accepts_the_config_and_rejects_a_typo() -> None:
    prepared(TEXT)
    with pytest.raises(jsonschema.ValidationError):
        prepared(TEXT.replace("idle_timeout_minutes:", "idle_timeout:"))
    with pytest.raises(ValueError, match="head_node_type"):
        prepared(TEXT.replace("head_node_type: head", "head_node_type: heart"))


def test_the_head_runs_no_trial_and_is_no_spot_machine(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    start = config["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in start
    assert "--num-gpus=0" in start
    assert "--autoscaling-config" in start


def test_gpu_machines_are_spot_and_none_stays_when_idle(config: dict[str, Any]) -> None:
    (workers,) = (t for name, t in config["available_node_types"].items() if name != config["head_node_type"])
    assert workers["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert workers["min_workers"] == 0
    assert workers["max_workers"] == config["max_workers"] > 0
    assert workers["resources"]["GPU"] == 1
    assert 0 < config["idle_timeout_minutes"] <= 15


def test_every_dependency_is_pinned_to_a_version_that_satisfies_pyproject() -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = {r.name: r for r in map(Requirement, ours)}
    commands = yaml.safe_load(TEXT)["setup_commands"]
    pins = re.findall(r"'?([a-z0-9-]+(?:\[[a-z,]+\])?)==([0-9.]+)'?", " ".join(commands))
    given = {Requirement(name).name: (Requirement(name).extras, version) for name, version in pins}
    assert len(given) == len(pins)
    assert given.keys() == needed.keys()
    for name, (extras, version) in given.items():
        assert needed[name].specifier.contains(version), f"{name} {version}"
        assert extras == needed[name].extras


def test_only_ssh_is_open_and_ray_requires_a_token(config: dict[str, Any]) -> None:
    assert (
        "security_group" not in config["provider"]
    )  # Ray's own group opens port 22, and all ports within the cluster
    assert all("SecurityGroupIds" not in t["node_config"] for t in config["available_node_types"].values())
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in TEXT
    waits = re.search(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+) ", config["head_start_ray_commands"][-1])
    assert waits is not None
    assert int(waits[1]) > LEAVE_SECONDS + CLOSE_SECONDS  # `ray job stop` kills a study after that
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert any("RAY_AUTH_MODE=token" in c for c in config["head_setup_commands"])
    assert any("RAY_AUTH_MODE=token" in c for c in config["worker_setup_commands"])


def test_the_bucket_is_named_once() -> None:
    assert TEXT.count("YOUR-BUCKET") == 1


@pytest.mark.parametrize("written", [True, False])
def test_a_bucket_that_cannot_be_written_ends_ray_up(
    tmp_path: Path, config: dict[str, Any], *, written: bool
) -> None:
    (command,) = (c for c in config["head_setup_commands"] if "YOUR-BUCKET" in c)
    for name, does in (
        ("aws", f"cat > /dev/null; exit {int(not written)}"),
        ("crontab", f"cat > {tmp_path}/cron"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", command], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False
    )
    assert (done.returncode == 0) is written
    assert (tmp_path / "cron").exists() is written
    if written:  # cron's PATH is short: it must find the same aws
        assert f"PATH={tmp_path}:" in (tmp_path / "cron").read_text()


@pytest.mark.slow
@pytest.mark.hosts
def test_it_comes_up_runs_a_study_and_goes_down(tmp_path: Path) -> None:
    if why := missing():
        pytest.skip(why)
    said = up_and_down(tmp_path / "made")
    first, _, second = said.partition("going on: ")
    assert (
        "go on with: python study/run.py --resume /study/first" in first
    )  # `ray job stop` gave it time to print this
    assert "report: /study/first/report.html" in second
    assert (tmp_path / "made" / "first" / "report.html").stat().st_size > 100_000
