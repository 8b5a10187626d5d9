"""What a user has: a copy of the repository with two arms and images of their own, and its commands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from support.pictures import make_images

ROOT = Path(__file__).parents[2]
MARKS = ("marta", "hunter2", "marked-folder")
"""What no file of a study may contain: parts of the environment of ``marked``, and the folder it is in."""


def marked(folder: Path) -> dict[str, str]:
    """An environment whose home, user and key can be found wherever they are written down."""
    home = folder / "home-of-marta"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return kept | {"HOME": str(home), "USER": "marta-user", "LOGNAME": "marta-user", "A_KEY": "hunter2-key"}


def example_arm() -> str:
    """The arm file that search_spaces/README.md shows."""
    shown = (ROOT / "search_spaces" / "README.md").read_text()
    match = re.search(r"```python\n(.*?)```", shown, re.DOTALL)
    assert match is not None
    return match.group(1)


def moody_arm() -> str:
    """That arm, but it raises an error for some widths, and its loss explodes for some others."""
    width = '    width = int(config["width"])\n'
    assert width in example_arm()
    return (
        example_arm()
        .replace(
            width,
            f"""{width}    if width > 40:
        raise RuntimeError("too wide for my taste")
    if width < 11:
        return nn.Sequential(nn.Flatten(), nn.Linear(images.channels * images.size**2, images.classes), Explode())
""",
        )
        .replace(
            "def build(",
            """class Explode(nn.Module):
    def forward(self, logits):
        return logits * float("nan")


def build(""",
        )
    )


def user_repo(folder: Path) -> Path:
    repo = folder / "repo"
    repo.mkdir()
    for package in ("study", "search_spaces", "analysis"):
        shutil.copytree(ROOT / package, repo / package, ignore=shutil.ignore_patterns("__pycache__"))
    (repo / "search_spaces" / "my_net.py").write_text(example_arm())
    (repo / "search_spaces" / "moody.py").write_text(moody_arm())
    make_images(repo / "images", train=80, test=40)
    return repo


def command(repo: Path, flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "study/run.py", *flags.split()],
        cwd=repo, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
