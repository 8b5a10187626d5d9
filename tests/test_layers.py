"""Imports go one way, and the light half stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = [
    {"run", "__main__"},
    {"commands"},
    {"progress", "session", "planning"},
    {"execution"},
    {"scheduling", "training"},
    {"cli", "provenance"},
    {"flags"},
    {"data", "loggers"},
    {"storage"},
    {"protocol"},
    {"memory", "signals"},
]
"""Rooms of ``study``, and its modules outside them, from top to bottom: each imports only from the rows below its own."""
MAY_IMPORT = {
    "ray": {"study.execution", "study.loggers"},
    "optuna": {"study.scheduling.sampler", "study.loggers", "analysis.statistics.importance"},
    "torch": {
        "study.training",
        "study.execution",
        "study.commands",
        "study.memory",
        "study.data",
        "study.loggers",
        "study.planning",
    },
}
FILES = [
    p
    for folder in ("study", "search_spaces", "analysis")
    for p in sorted((ROOT / folder).rglob("*.py"))
    if p.name != "__init__.py" or folder == "search_spaces"
]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def of(package: str) -> list[Path]:
    return [path for path in FILES if path.relative_to(ROOT).parts[0] == package]


def imports(path: Path) -> set[str]:
    """Every module that the file imports, dotted; ``from a import b`` counts as a.b too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_is_in_its_place() -> None:
    rooms = {p.stem if p.is_file() else p.name for p in (ROOT / "study").iterdir()}
    rooms = {r for r in rooms if not r.startswith("__") or r == "__main__"}
    assert set().union(*ROOMS) == {r for r in rooms if r != "README"}


@pytest.mark.parametrize("path", of("study"), ids=module_name)
def test_study_imports_only_downwards(path: Path) -> None:
    room = module_name(path).split(".")[1]
    row = next(i for i, rooms in enumerate(ROOMS) if room in rooms)
    below = set().union(*ROOMS[row + 1 :])
    used = {name.split(".")[1] for name in imports(path) if name.startswith("study.")} - {room}
    assert used <= below, f"{path} imports {used - below} from its own row or above"


@pytest.mark.parametrize("path", of("study"), ids=module_name)
def test_only_commands_import_the_analysis(path: Path) -> None:
    """Ray does not ship it to the nodes."""
    if module_name(path).split(".")[1] not in {"run", "__main__", "commands"}:
        assert not {name for name in imports(path) if name.split(".")[0] == "analysis"}


def test_no_cost_is_measured_by_a_clock_that_may_jump() -> None:
    wall = {module_name(p) for p in FILES if "time.time(" in p.read_text()}
    # the age of a file, and what other tools ask for
    assert all(name.startswith(("study.commands.status", "study.loggers")) for name in wall)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_ray_optuna_and_torch_stay_in_their_rooms(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    name = module_name(path)
    for package, rooms in MAY_IMPORT.items():
        allowed = {room for room in rooms if name == room or name.startswith(f"{room}.")}
        assert package not in tops or allowed or (package == "torch" and name.startswith("search_spaces"))


@pytest.mark.parametrize("path", of("search_spaces"), ids=module_name)
def test_arms_know_only_their_own_package(path: Path) -> None:
    assert not {n for n in imports(path) if n.split(".")[0] in {"study", "analysis", "ray", "optuna"}}


@pytest.mark.parametrize("path", of("analysis"), ids=module_name)
def test_analysis_knows_only_the_protocol(path: Path) -> None:
    used = {n.split(".")[1] for n in imports(path) if n.startswith("study.")}
    fetched = {"storage"} if path.stem == "__main__" else set()  # a run at a URI
    assert used <= {"protocol"} | fetched
    if "statistics" in path.parts:
        known = (
            "study.protocol.text",
            "study.protocol.records",
            "study.protocol.sampling",
            "analysis.statistics",
        )
        ours = {n for n in imports(path) if n.startswith(("study.", "analysis."))}
        assert not {n for n in ours if not n.startswith(known)}, "statistics knows nothing of a study"


@pytest.mark.parametrize(
    "arguments",
    [
        ["study/run.py", "--help"],
        ["study/run.py", "--budget", "nonsense"],
        ["-m", "analysis", "--help"],
        ["-m", "study", "--help"],
        ["-m", "study", "status", "nowhere"],
    ],
    ids=" ".join,
)
def test_help_and_bad_flags_import_neither_torch_nor_ray(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 2)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert "argparse" in loaded
    assert not {"torch", "ray", "optuna", "torchvision"} & loaded


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_classes_and_functions_stay_small(path: Path) -> None:
    """One file, one job: 350 lines of a file, 200 of a class, 60 of a function."""
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= (60 if isinstance(node, ast.FunctionDef) else 200), node.name
