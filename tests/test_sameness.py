"""A refactor changes no number: recorded studies keep their verdicts, and a fixed seed its trials.

The records are real digits studies of 2026-11-27: one look, a second look, an arm added. The trials are those of whole
studies in simulated time. Commit 1781786, before the move to the present folders, wrote the expected values.

``python tests/test_sameness.py RUN ...`` checks that any finished runs keep their verdict.json to the byte.
"""
# ruff: noqa: T201 - a command speaks to its user

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from bench.aa import families
from bench.worlds import NAMES, Play, question, worlds
from support.records import RUNS, unpacked

from analysis.report import build

TRIALS = {
    ("tuning gains 2 pt", 50): "bd224249e5e74817",
    ("different, unequal costs", 100): "18bbaff9d7362a45",
    ("eight side by side", 25): "6db237aaf0961725",
}


def the_same(was: Any, now: Any, where: str = "") -> None:
    """Equal texts and counts; numbers up to the rounding of other versions of numpy and scipy."""
    if isinstance(was, dict):
        assert was.keys() == now.keys(), where
        for key in was:
            the_same(was[key], now[key], f"{where}/{key}")
    elif isinstance(was, list):
        assert len(was) == len(now), where
        for i, (a, b) in enumerate(zip(was, now, strict=True)):
            the_same(a, b, f"{where}/{i}")
    elif isinstance(was, float):
        assert now == pytest.approx(was, rel=1e-9, abs=1e-12), where
    else:
        assert was == now, where


@pytest.mark.parametrize("name", RUNS)
def test_recorded_studies_keep_their_verdicts(name: str, tmp_path: Path) -> None:
    run = unpacked(name, tmp_path)
    was = json.loads((run / "verdict.json").read_text())
    build.write(run)
    the_same(was, json.loads((run / "verdict.json").read_text()))


def digest(family: str, budget: int) -> str:
    """Setting to nine digits, seed, fold, pair and end of every trial of a study in simulated time."""
    kind = families()[family]
    history = Play(
        question(kind, budget=budget, seed=1), worlds(kind), dict(zip(NAMES, kind.costs, strict=True))
    ).run()
    drawn = [
        (
            trial.id,
            {k: float(f"{v:.9g}") if isinstance(v, float) else v for k, v in trial.config.items()},
            trial.seed,
            trial.fold,
            trial.pair,
            len(history.epochs[trial.id]),
            history.outcomes[trial.id].state,
        )
        for trial in history.trials.values()
    ]
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("family", "budget"), TRIALS, ids=str)
def test_a_fixed_seed_draws_the_same_trials(family: str, budget: int) -> None:
    assert digest(family, budget) == TRIALS[family, budget]


def main() -> None:
    for run in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / run.name
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "figures", "report.*"))
            build.write(copy)
            same = (copy / "verdict.json").read_bytes() == (run / "verdict.json").read_bytes()
        print(f"{run}: {'the same to the byte' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
