"""What the READMEs say can be done, can be done."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.plans import PLAN

import search_spaces
from study import __main__ as words
from study import cli

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "study" / "README.md",
        ROOT / "study" / "execution" / "README.md",
        ROOT / "search_spaces" / "README.md",
        ROOT / "tests" / "bench" / "README.md",
        ROOT / "analysis" / "METHOD.md",
    )
}
EVERYTHING = "\n".join(PAGES.values()).replace("\\\n", " ")


def shown(command: str) -> list[str]:
    """The arguments of every such command in all READMEs, without comments."""
    found = re.findall(rf"{re.escape(command)} ([^\n#`'|\"]*)", EVERYTHING)
    stand_ins = {"my_net": "tiny_resnext", "two_convs": "tiny_resnext", "NAME": "tensorboard"}
    for name, known in stand_ins.items():  # the reader's own arm, any tool
        found = [arguments.replace(name, known) for arguments in found]
    return sorted({arguments.strip() for arguments in found} - {""})


@pytest.mark.parametrize("arguments", shown("python study/run.py"))
def test_every_study_is_understood(arguments: str) -> None:
    if arguments == "--help":
        return
    request = cli.parse(shlex.split(arguments))
    assert request.budget or request.resume


@pytest.mark.parametrize("arguments", shown("python -m study"))
def test_every_word_is_understood(arguments: str) -> None:
    if "WORD" in arguments:
        return
    words._parser().parse_args(shlex.split(arguments))


@pytest.mark.parametrize("name", sorted({a.split()[0] for a in shown("python -m tests.bench.gpu")} | {
    m.rstrip(".") for m in re.findall(r"python -m tests\.([\w.]+)", EVERYTHING)
}))  # fmt: skip
def test_every_measurement_is_there(name: str) -> None:
    if name in ("first", "second"):
        return
    if name == "bench.NAME":
        return
    assert importlib.util.find_spec(f"tests.{name}") is not None


def test_every_gate_and_comparison_is_understood(tmp_path: Path) -> None:
    """They end with the sentence on the folder that is not there, and not with one on their flags."""
    for arguments in shown("python -m analysis"):
        if "RUN" in arguments:
            continue
        done = subprocess.run(
            [sys.executable, "-m", "analysis", *shlex.split(arguments)],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, arguments
        assert "usage" not in done.stderr, arguments


def test_every_flag_that_is_named_is_there() -> None:
    known = {f"--{name.replace('_', '-')}" for name in vars(cli.parse(["--budget", "1gpu-hours"]))}
    known |= {"--help", "--to", "--follow", "--expect", "--expect-net", "--json", "--out"}
    text = "\n".join(line for line in EVERYTHING.splitlines() if "study" in line and "tests" not in line)
    flags = set(re.findall(r"(?:run\.py|-m study)[^\n`]*?(--[a-z-]+)", text))
    assert flags <= known, flags - known


def test_every_room_and_arm_is_named() -> None:
    for path in (ROOT / "study").iterdir():
        if path.name.startswith("__") or path.suffix == ".md":
            continue
        name = f"`{path.name}`" if path.is_file() else f"`{path.name}/`"
        assert name in PAGES["study/README.md"], name
    for name in search_spaces.names():
        assert f"`{name}`" in PAGES["README.md"]


def test_the_readme_stays_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 170


def test_ci_runs_the_command_that_is_shown() -> None:
    pattern = re.search(r"grep -m 1 -E '([^']+)'", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    (command,) = re.findall(pattern.group(1), PAGES["README.md"], re.MULTILINE)
    assert command.startswith("pip install -e '.[test]'")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).resolve().exists(), target


def test_a_plan_is_shown_in_one_screen() -> None:
    from rich.console import Console

    from study.commands.plan import overview

    console = Console(width=120, record=True, quiet=True)
    console.print(overview(PLAN))
    assert len(console.export_text().splitlines()) <= 24
