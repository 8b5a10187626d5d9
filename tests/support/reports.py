"""A study's report without its drawings, which take most of its time."""

import json
from pathlib import Path
from typing import Any

from analysis.report import build
from study.protocol import rundir


def composed(run: Path) -> dict[str, Any]:
    """Write ``report.md`` and ``verdict.json`` alone; the facts."""
    _, _, files = build.compose(run)
    for name, content in files.items():
        rundir.write(run / name, content)
    facts: dict[str, Any] = json.loads((run / rundir.VERDICT).read_text())
    return facts
