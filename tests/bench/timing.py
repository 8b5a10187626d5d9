"""Shared by the benchmarks: processes measured side by side, alternating turns, tables and JSON."""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import contextlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

BUSY = 0.5
"""Load average of the last minute."""


def parser(name: str, described: str | None) -> argparse.ArgumentParser:
    """A parser with ``--json FILE``; warns if other work on this machine disturbs the benchmark."""
    if (busy := os.getloadavg()[0]) > BUSY:
        print(
            f"warning: the machine is busy (load {busy:.1f}): loops of several threads suffer most, wait for quiet"
        )
    made = argparse.ArgumentParser(
        prog=f"python -m tests.bench.{name}", description=(described or "").split("\n")[0]
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write what was measured here")
    return made


@contextlib.contextmanager
def processes(count: int) -> Iterator[list[ProcessPoolExecutor]]:
    """Fresh processes; each keeps its imports from call to call."""
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(ProcessPoolExecutor(max_workers=1, mp_context=context)) for _ in range(count)
        ]


def at_once(pool: Sequence[ProcessPoolExecutor], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The same call in every process at the same time."""
    return [future.result() for future in [one.submit(function, *arguments) for one in pool]]


def in_turns(measures: Mapping[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """The median of each, measured in alternating turns, so that a slow minute affects all of them."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(turns):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: statistics.median(values) for name, values in found.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [list(map(str, row)) for row in (header, *rows)]
    wide = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, wide, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def save(path: Path | None, found: Mapping[str, Any]) -> None:
    """Save ``found`` with the machine and the versions."""
    if path is None:
        return
    about = {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "torchvision", "ray")},
    }
    path.write_text(json.dumps({"about": about, **found}, indent=1) + "\n")
