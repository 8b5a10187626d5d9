"""One question with new seeds: how often does the headline name an arm, and how often did the old one?

Every study is real, from the command to its verdict, in its own folder, so that none counts another as an
earlier look at its test images. The old headline is the interval for the two nets in hand, now second in the
report. ``--out`` keeps finished studies; the same command continues.

Command:   python -m tests.bench.again --out DIR [--studies 12] [--budget 6cpu-minutes] [--data digits]
Cost:      12 studies of 6cpu-minutes take 40 minutes on two quiet cores.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import collections
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.timing import table

ROOT = Path(__file__).parents[2]


def study(out: Path, seed: int, given: argparse.Namespace) -> dict[str, Any] | None:
    """The verdict of the study with this seed, run if absent; None if it could not finish."""
    run = out / f"{given.budget}-seed-{seed}" / "run"
    if not (run / "verdict.json").is_file():
        run.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "study/run.py"]
        if (run / "plan.json").is_file():
            command += ["--resume", str(run)]
        else:
            command += ["--budget", given.budget, "--data", given.data, "--arms", given.arms]
            command += ["--seed", str(seed), "--out", str(run)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"seed {seed}: exit code {done.returncode}: {done.stderr.strip()[-300:]}", flush=True)
            return None
    found: dict[str, Any] = json.loads((run / "verdict.json").read_text())
    return found


def named(judged: dict[str, Any]) -> str:
    """The arm that a verdict favours; empty if it names none."""
    return str(judged["ahead"]) if judged["word"].startswith("better") else ""


def span(judged: dict[str, Any], first: str) -> str:
    """Difference and interval in points, ``first`` minus the other arm."""
    if judged["low"] is None:
        return "none"
    values = [100 * judged[part] for part in ("delta", "low", "high")]
    if judged["first"] != first:
        values = [-values[0], -values[2], -values[1]]
    return " ".join(f"{value:+.2f}" for value in values)


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m tests.bench.again", description=(__doc__ or "").split("\n")[0]
    )
    options.add_argument("--out", type=Path, required=True, metavar="DIR")
    options.add_argument("--studies", type=int, default=12)
    options.add_argument("--budget", default="6cpu-minutes")
    options.add_argument("--data", default="digits")
    options.add_argument("--arms", default="tiny_resnet,tiny_resnext")
    given = options.parse_args(arguments)
    rows, new, old = [], collections.Counter[str](), collections.Counter[str]()
    for seed in range(given.studies):
        verdict = study(given.out.resolve(), seed, given)
        if verdict is None:
            continue
        (answer,), (nets,), first = verdict["answer"], verdict["nets"], given.arms.split(",")[0]
        new[named(answer) or answer["word"]] += 1
        old[named(nets) or nets["word"]] += 1
        rows.append(
            (
                seed,
                answer["pairs"],
                answer["word"],
                named(answer),
                span(answer, first),
                nets["word"],
                named(nets),
                span(nets, first),
            )
        )
        print(f"seed {seed}: {answer['sentence']}", flush=True)
    header = [
        "seed",
        "pairs",
        "answer",
        "names",
        "difference, interval",
        "nets (old headline)",
        "names",
        "difference, interval",
    ]
    print(table(header, rows))
    print(f"{given.arms}, first minus second, pt. New: {dict(new)}. Old: {dict(old)}.")


if __name__ == "__main__":
    main()
