"""A study from an earlier study's export, as a user runs it: real Ray, real training; and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.nets import with_nets
from support.pictures import make_images
from support.user import command, user_repo

from study.data.prepare import prepare
from study.data.weights import FILE
from study.protocol.ledger import read
from study.protocol.plan import Plan
from study.protocol.rundir import IMAGES

pytestmark = pytest.mark.long


def word(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "study", *arguments], cwd=repo, capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repo = user_repo(tmp_path_factory.mktemp("user"))
    make_images(repo / "others", train=70, test=40, size=12)
    return repo


@pytest.fixture(scope="module")
def net(repo: Path) -> str:
    """The file of weights that a first study exports."""
    with_nets(
        repo / "first",
        prepare(f"folder:{repo / 'images'}", seed=0, root=repo),
        ("tiny_resnet", "small_resnet"),
    )
    assert word(repo, "export", "first", "tiny_resnet", "--out", "net").returncode == 0
    assert {FILE, IMAGES, "config.json", "load.py"} <= {file.name for file in (repo / "net").iterdir()}
    return f"net/{FILE}"


@pytest.fixture(scope="module")
def begun(repo: Path, net: str) -> Path:
    done = command(
        repo,
        f"--budget 3cpu-minutes --arms tiny_resnet@{net},tiny_resnet --data folder:others --epochs 3 --out second --recipe sgd",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "begins from weights trained on" in done.stdout
    return repo / "second"


def test_it_ends_with_a_verdict_and_its_nets_hand_on_what_they_have_seen(repo: Path, begun: Path) -> None:
    plan = Plan.load(begun / "plan.json")
    (arm,) = plan.weights
    assert arm.startswith("tiny_resnet@")
    assert plan.weights[arm].images == len(np.load(repo / "net" / IMAGES))
    verdict = json.loads((begun / "verdict.json").read_text())
    assert verdict["arms"] == [arm, "tiny_resnet"]
    assert any(arm in warning for warning in verdict["warnings"])
    assert word(repo, "export", "second", arm).returncode == 0
    seen = set(np.load(begun / "export" / arm / IMAGES))
    assert set(np.load(repo / "net" / IMAGES)) < seen


def test_a_trial_of_it_is_trained_again_to_the_last_digit(repo: Path, begun: Path) -> None:
    arm = next(iter(Plan.load(begun / "plan.json").weights))
    trial = read(begun / "ledger.jsonl").of(arm, "baseline")[0]
    done = word(repo, "rerun", "second", trial.id)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_study_whose_test_it_has_seen_refuses_it_before_anything_is_measured(repo: Path, net: str) -> None:
    shutil.copytree(repo / "images" / "train", repo / "leaked" / "test")
    shutil.copytree(repo / "images" / "test", repo / "leaked" / "train")
    done = command(
        repo, f"--budget 4cpu-minutes --arms tiny_resnet@{net},tiny_resnet --data folder:leaked --out third"
    )
    assert done.returncode == 2
    assert "sealed test images are among those that the weights of tiny_resnet@" in done.stderr
    assert "measuring" not in done.stdout
    assert not (repo / "third").exists()
