"""How many trials share the card best, eager and as a graph, without and with NVIDIA's Multi-Process Service.

All trials train within their memory limits at the same time. ``nvidia-cuda-mps-control -d`` runs as the
user's own process; if it does not start, the part says so.
"""
# ruff: noqa: T201 - a command speaks to its user

import contextlib
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch

from bench.gpu.common import options, write
from bench.packing import as_table, measured
from study.execution.packing import Way
from study.protocol.question import Machine

CONTEXT_BYTES = 2**30


def ways(trials: tuple[int, ...]) -> list[Way]:
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    return [
        Way(
            machine=Machine(
                resource=kind,  # type: ignore[arg-type]
                slots=count,
                fraction=int(10_000 / count) / 10_000,
                threads=1,
                name="the card",
                context_bytes=CONTEXT_BYTES,
            ),
            trials=count,
        )
        for count in trials
    ]


@contextlib.contextmanager
def multi_process_service() -> Iterator[str]:
    """MPS for processes started inside. Yields the error, empty if MPS runs."""
    control = shutil.which("nvidia-cuda-mps-control", path=f"{os.environ['PATH']}:/usr/local/nvidia/bin")
    if control is None:
        yield "nvidia-cuda-mps-control is not installed"
        return
    with tempfile.TemporaryDirectory() as folder:
        names = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        os.environ.update(names)
        try:
            done = subprocess.run([control, "-d"], capture_output=True, text=True, timeout=20, check=False)
            time.sleep(1)
            there = subprocess.run(
                [control], input="get_server_list\n", capture_output=True, text=True, timeout=20, check=False
            )
            yield (
                "" if there.returncode == 0 else f"{done.stderr} {there.stderr} {there.stdout}".strip()[:300]
            )
        finally:
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run(
                    [control], input="quit\n", capture_output=True, text=True, timeout=20, check=False
                )
            for name in names:
                os.environ.pop(name, None)


def main() -> None:
    parser = options(__doc__, "packing")
    parser.add_argument("--trials", default="1,2,4,8", help="side by side (%(default)s)")
    given = parser.parse_args()
    trials = tuple(int(count) for count in given.trials.split(","))
    arms, batches = given.arms.split(","), [int(b) for b in given.batches.split(",")][:1]
    cuda = torch.cuda.is_available()
    found: dict[str, Any] = {"rows": [], "left out": []}
    ends = time.monotonic() + given.seconds
    rounds: list[tuple[str, list[str], list[bool]]] = [
        ("time slices", arms[:1], [True, False]), ("MPS", arms[:1], [True]), ("MPS, second arm", arms[1:2], [True]),
    ]  # fmt: skip
    for name, some, graphed in rounds:
        with multi_process_service() if "MPS" in name else contextlib.nullcontext("") as fault:
            if fault:
                found["MPS"] = fault
                print(f"no MPS: {fault}")
                break
            for row in measured(some, batches, ways(trials), 1.5 if cuda else 0.2, 1, graphed):
                if not math.isfinite(row["images_per_second"]):
                    row["images_per_second"] = math.nan
                found["rows"].append({**row, "sharing": name})
                write(given.out, "packing", found)
                if time.monotonic() > ends:
                    found["left out"].append(name)
                    break
        print(f"{name}:\n{as_table([row for row in found['rows'] if row['sharing'] == name])}", flush=True)
        if time.monotonic() > ends:
            break
    write(given.out, "packing", found)


if __name__ == "__main__":
    main()
