"""Where a report's time goes, and its peak memory: of a recorded run, or of a made one with many arms, runs and images.

``python -m tests.bench.report``: 8 arms with 20 confirmation runs each and 50,000 test images. ``python -m tests.bench.report RUN``: the
run in that folder, whose report is written anew.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import dataclasses
import functools
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.synthetic import SPACES, write_run

from analysis import summary
from analysis.report import build, figures, pages
from bench.timing import table

SHOWN = 12
"""Parts of a report that are named; the others are one row."""


def made(folder: Path, *, arms: int, runs: int, images: int, classes: int) -> Path:
    """A finished study; ``runs`` of each arm's net in hand and of its other finds together."""
    names = tuple(f"arm{i}" for i in range(arms))
    space = SPACES["resnext8"]
    write_run(
        folder,
        arms=names,
        default=tuple(0.90 + 0.001 * i for i in range(arms)),
        tuned=tuple(0.92 + 0.001 * i for i in range(arms)),
        runs=-(-runs // PAIRS),
        images=images,
        classes=classes,
        slice_runs=30,
        spaces=dict.fromkeys(names, space),
    )
    return folder


PAIRS = 4
"""Searches per arm of a made study."""


def seconds(run: Path) -> dict[str, float]:
    """Write the report of ``run``. CPU seconds by what took them, and ``all``."""
    took: dict[str, float] = defaultdict(float)

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def clocked(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                took[name] += time.process_time() - began

        return clocked

    for owner, name in (
        (build, "read"),
        (figures, "laid_out"),
        (summary, "find"),
        (figures, "svg"),
        (figures, "png"),
        (pages, "html"),
    ):
        setattr(owner, name, timed(name, getattr(owner, name)))
    parts = [
        dataclasses.replace(part, build=timed(part.build.__module__.rpartition(".")[2], part.build))
        for part in build.parts()
    ]
    vars(build)["parts"] = lambda: parts
    began = time.process_time()
    build.write(run)
    return {**took, "all": time.process_time() - began}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.report", description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--arms", type=int, default=8)
    parser.add_argument("--runs", type=int, default=20, help="confirmation runs per arm")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=10)
    given = parser.parse_args()
    if given.run is None:
        with tempfile.TemporaryDirectory() as folder:
            run = made(
                Path(folder) / "run",
                arms=given.arms,
                runs=given.runs,
                images=given.images,
                classes=given.classes,
            )
            # in a process of its own, whose memory is the report's alone
            return subprocess.run([sys.executable, "-m", "tests.bench.report", run], check=False).returncode
    began = time.perf_counter()
    took = seconds(given.run)
    wall = time.perf_counter() - began
    whole = took.pop("all")
    longest = sorted(took, key=lambda name: -took[name])[:SHOWN]
    rest = whole - sum(took[name] for name in longest)
    rows = [[name, f"{took[name]:.1f}"] for name in longest] + [
        ["the rest", f"{rest:.1f}"],
        ["all", f"{whole:.1f}"],
    ]
    print(table(["report", "CPU seconds"], rows))
    print(
        f"{wall:.1f} s on the clock, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
