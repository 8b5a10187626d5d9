"""A new data source, logger, report section or arm is one new file: a copy of the tree finds and uses each."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.synthetic import write_run

ROOT = Path(__file__).parents[1]
PACKAGES = ("study", "search_spaces", "analysis")
ARM_README = (ROOT / "search_spaces" / "README.md").read_text()
NEW = {
    "study/data/sources/stripes.py": '''
"""``stripes:SIZE``: bright lines, upright or level."""
import numpy as np
from study.data.sources import Content, Part, Source

def read(argument, downloads):
    images = np.random.default_rng(0).integers(0, 90, (40, 1, int(argument), int(argument)), dtype=np.uint8)
    images[:20, :, 3], images[20:, :, :, 3] = 250, 250
    return Content(
        classes=("level", "upright"), parts={"train": Part(images=images, labels=np.repeat([0, 1], 20))}
    )

SOURCES = (Source(spelling="stripes:SIZE", help="lines", read=read),)
''',
    "study/loggers/diary.py": '''
"""A line for every record."""
from study.loggers.base import Tool

class Diary:
    def __init__(self, plan, home):
        self._file = (home / "diary.txt").open("w")

    def take(self, record, history):
        print(type(record).__name__, len(history.trials), file=self._file)

    def close(self):
        self._file.close()

TOOL = Tool(start=Diary, needs="json", shown_by="cat {home}/diary.txt")
''',
    "analysis/report/sections/epochs.py": '''
"""How many epochs were trained."""
from matplotlib.figure import Figure
from analysis.report.section import Context, Drawing, Part, Section

def section(context: Context) -> Section:
    count = sum(map(len, context.evidence.history.epochs.values()))
    return Section(
        title="Epochs & all", text=(f"{count} epochs",), drawing=Drawing("epochs", Figure), facts={"count": count}
    )

PART = Part(order=145, build=section, key="epochs_in_all")
''',
    "search_spaces/two_convs.py": re.search(r"```python\n(.*?)```", ARM_README, re.DOTALL)[1],  # type: ignore[index]
}
TRAIN = """
from pathlib import Path
import torch
from search_spaces import load
from study.data.prepare import prepare
from study.execution.rehearsal import speed
from study.training.trial import image_spec

prepared, arm = prepare("stripes:9", seed=0, root=Path()), load("two_convs")
assert prepared.card.classes == ("level", "upright") and prepared.card.train + prepared.card.test == 40
config = {**arm.default(), "batch_size": 8}
assert speed(arm, config, image_spec(prepared.card), torch.device("cpu"), seconds=0, pool=prepared.train)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three packages with one new file in each of four folders and no other change."""
    root = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, source in NEW.items():
        assert not (root / name).exists()
        (root / name).write_text(source)
    return root


def python(tree: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_line_offers_them(tree: Path) -> None:
    shown = " ".join(python(tree, "study/run.py", "--help").split())
    assert "stripes:SIZE: lines" in shown
    assert "diary, mlflow, optuna" in shown
    assert "tiny_resnext, two_convs" in shown


def test_the_arm_trains_on_the_source(tree: Path) -> None:
    python(tree, "-c", TRAIN)


def test_the_logger_and_the_section_show_a_run(tree: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", runs=1, images=200)
    assert python(tree, "-m", "study", "log", str(run), "--to", "diary").strip() == f"cat {run}/diary.txt"
    assert len((run / "diary.txt").read_text().splitlines()) == len(
        (run / "ledger.jsonl").read_text().splitlines()
    )
    python(tree, "-m", "analysis", str(run))
    page = (run / "report.html").read_text()
    assert page.index(">What it cost<") < page.index(">Epochs &amp; all<") < page.index(">Appendix")
    assert (run / "figures" / "epochs.svg").exists()
    assert "## Epochs & all" in (run / "report.md").read_text()
    assert '"epochs_in_all"' in (run / "verdict.json").read_text()
