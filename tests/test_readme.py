"""What the README says can be done, can be done."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import search_spaces
from study.cli import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"python study/run\.py (--[^\n#`']*)", README)


def test_the_help_is_the_one_that_is_printed() -> None:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "study/run.py", "--help"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() in README


@pytest.mark.parametrize("flags", sorted(set(COMMANDS)))
def test_every_command_is_understood(flags: str) -> None:
    parse(shlex.split(flags.replace("my_net", "tiny_resnet")))  # which the reader is about to write


def test_every_room_and_arm_is_named() -> None:
    for path in (ROOT / "study").glob("*.py"):
        assert path.stem == "__init__" or f"{path.stem}.py`" in README
    for name in search_spaces.names():
        assert f"`{name}`" in README


def test_ci_runs_the_command_that_is_shown() -> None:
    pattern = re.search(r"grep -m 1 -E '([^']+)'", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    (shown,) = re.findall(pattern.group(1), README, re.MULTILINE)
    assert shown.startswith("pip install -e '.[test]'")


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
