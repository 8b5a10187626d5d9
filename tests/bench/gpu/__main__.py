"""All GPU measurements, in two commands of 15 minutes at most.

Each part runs in its own process and share of the time, and writes its own file with the card's facts: a part that
fails or is too slow, or a lost machine, loses no other part. ``first`` is facts, kernels, check,
train, quality; ``second`` is study, rerun and packing. The README beside this file has the commands and the figures.

Command:   python -m tests.bench.gpu first --out DIR [--data folder:PATH] [--only check,train]
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

ROOT = Path(__file__).parents[3]
SECONDS = {
    "facts": 15, "check": 60, "kernels": 40, "train": 150, "quality": 45, "study": 270, "rerun": 30, "packing": 90
}  # fmt: skip
HALVES = {"first": ("facts", "kernels", "check", "train", "quality"), "second": ("study", "rerun", "packing")}
GRACE = 10.0
"""Seconds at the end of a part's time for an orderly stop."""
NO_LEASE = 6
"""On a CPU a part may take this many times as long: a dry run spends no device time."""
SHOWN = 3000
"""Characters shown from the end of a part's output; the log has all of it."""
KEPT = ("plan.json", "ledger.jsonl", "verdict.json", "report.html", "ray.log")
"""Of the study, as one archive."""


def commands(given: argparse.Namespace, study: Path) -> dict[str, list[str]]:
    """The command of every part, by name; the study's folder is ``study``."""
    resource = "gpu" if torch.cuda.is_available() else "cpu"
    found = {}
    for part in ("facts", "check", "kernels", "train", "quality", "packing"):
        found[part] = ["-m", f"tests.bench.gpu.{part}", "--out", str(given.out), "--arms", given.arms]
        found[part] += ["--seconds", str(max(1.0, 0.8 * given.scale * SECONDS[part] - 10))]
        found[part] += ["--batches", given.batches]
    tiles = given.out / "kernels.json"
    for part in ("train", "quality"):
        found[part] += ["--tiles", str(tiles)] if tiles.exists() else []
    found["quality"] += ["--data", given.data]
    found["train"] += ["--ways", given.ways]
    found["study"] = [
        *["study/run.py", "--budget", given.budget or f"3{resource}-minutes", "--data", given.data],
        *["--out", str(study), "--arms", given.arms, *given.study.split()],
    ]
    found["rerun"] = ["-m", "study", "rerun", str(study), f"{given.arms.split(',')[0]}-confirm-0000"]
    return found


def run(command: list[str], seconds: float, log: Path) -> int:
    """The exit code. Asks the part to stop before its time is over, then kills it with all its processes."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, start_new_session=True, stdout=output, stderr=output
        )
    try:
        grace = min(GRACE, seconds / 4)
        for patience, order in ((seconds - grace, signal.SIGINT), (grace, signal.SIGKILL)):
            with suppress(subprocess.TimeoutExpired):
                return process.wait(patience)
            process.send_signal(order)
        return process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu", description=(__doc__ or "").split("\n")[0]
    )
    options.add_argument("half", choices=HALVES)
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="where all is written")
    options.add_argument("--only", help="some of its parts, comma-separated")
    options.add_argument("--data", default="digits", help="of study and quality, as in study/run.py")
    options.add_argument("--arms", default="resnet50,resnext50", help="default %(default)s")
    options.add_argument("--batches", default="32,64,128,256,512", help="default %(default)s")
    options.add_argument("--ways", default="today,graph,fused,timm,post", help="of part train (%(default)s)")
    options.add_argument("--budget", help="of the study (default 3gpu-minutes)")
    options.add_argument(
        "--study", default="--fraction 0.25 --train-fraction 0.25", help="its flags (%(default)s)"
    )
    options.add_argument("--scale", type=float, default=1.0, help="of every part's seconds (%(default)g)")
    given = options.parse_args(arguments)
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    log, codes = given.out / f"{given.half}.log", {}
    patience = 1 if torch.cuda.is_available() else NO_LEASE
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        for name in given.only.split(",") if given.only else HALVES[given.half]:
            began, limit = time.monotonic(), patience * max(3 * GRACE, given.scale * SECONDS[name])
            with log.open("a") as output:
                output.write(f"== {name}\n")
            codes[name] = run(commands(given, study)[name], limit, log)
            print(log.read_text(errors="replace").rpartition(f"== {name}\n")[2][-SHOWN:], flush=True)
            print(f"== {name}: exit code {codes[name]} after {time.monotonic() - began:.0f} s", flush=True)
            if name == "study" and study.is_dir():
                keep = Path(folder) / "kept"
                keep.mkdir()
                for file in KEPT:
                    with suppress(FileNotFoundError):
                        shutil.copy(study / file, keep)
                shutil.make_archive(str(given.out / "study"), "gztar", keep)
    print(", ".join(f"{name}: {f'exit code {code}' if code else 'done'}" for name, code in codes.items()))
    sys.exit(max(map(abs, codes.values())))


if __name__ == "__main__":
    main()
