"""Imports go one way, and the light half stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"run", "__main__"},
    {"rerun", "export", "status", "windows", "score"},
    {"view"},
    {"probe", "trials"},
    {"runner"},
    {"cluster"},
    {"worker", "schedule", "looks"},
    {"confirm", "search", "train", "options", "resume", "quick"},
    {"mirror"},
    {"storage"},
    {"data", "augment", "ledger", "checkpoint", "leaving"},
    {"images", "packing"},
    {"plan", "memory", "validation"},
    {"records"},
]
"""Modules of ``study`` from top to bottom: each may import only from the rows below its own."""
MAY_IMPORT = {
    "ray": {
        f"study.{name}"
        for name in ("cluster", "trials", "runner", "worker", "probe", "score", "run", "windows")
    },
    "optuna": {"study.search", "study.windows", "analysis.importance"},
}
FILES = [p for folder in ("study", "search_spaces", "analysis") for p in sorted((ROOT / folder).glob("*.py"))]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


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


def test_the_layers_name_every_module_of_the_study() -> None:
    assert set().union(*LAYERS) == {p.stem for p in (ROOT / "study").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("path", sorted((ROOT / "study").glob("*.py")), ids=lambda p: p.stem)
def test_study_imports_only_downwards(path: Path) -> None:
    if path.stem == "__init__":
        return
    row = next(i for i, layer in enumerate(LAYERS) if path.stem in layer)
    below = set().union(*LAYERS[row + 1 :])
    used = {name.split(".")[1] for name in imports(path) if name.startswith("study.")}
    used &= set().union(*LAYERS)
    assert used <= below, f"study/{path.stem}.py imports {used - below} from its own row or above"


@pytest.mark.parametrize("path", sorted((ROOT / "study").glob("*.py")), ids=lambda p: p.stem)
def test_what_a_node_imports_needs_no_analysis_which_is_not_shipped(path: Path) -> None:
    if path.stem not in {"run", "__main__", "status", "view"}:
        assert not {name for name in imports(path) if name.split(".")[0] == "analysis"}


def test_no_cost_is_measured_by_a_clock_that_may_jump() -> None:
    wall = {p.stem for p in FILES if "time.time(" in p.read_text()}
    assert wall <= {"status", "windows"}  # the age of a file, and what other tools ask for


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_ray_and_optuna_stay_in_their_rooms(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    for package, rooms in MAY_IMPORT.items():
        assert package not in tops or module_name(path) in rooms


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.py")), ids=lambda p: p.stem)
def test_arms_know_only_their_own_package(path: Path) -> None:
    assert not {n for n in imports(path) if n.split(".")[0] in {"study", "analysis", "ray", "optuna"}}


@pytest.mark.parametrize("path", sorted((ROOT / "analysis").glob("*.py")), ids=lambda p: p.stem)
def test_analysis_knows_only_the_records_of_a_study_and_its_rules(path: Path) -> None:
    used = {n.split(".")[1] for n in imports(path) if n.startswith("study.")}
    fetched = {"mirror"} if path.stem == "__main__" else set()  # a run at a URI
    assert used <= {"ledger", "plan", "records", "confirm", "looks"} | fetched
    assert "torch" not in {n.split(".")[0] for n in imports(path)}


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
