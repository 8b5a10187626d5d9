"""The pipeline's own A/A (AA-2): one architecture under two names through the whole schedule, replayed.

Command:   python -m tests.bench.aa [--repeats N] [--data DIR] [--out FILE.json]
Needs:     the recorded curves of ../shared/data/taskset (a made-up table stands in where they are absent).
Cost:      100 repeats of each of the four architectures (the default) in 6 minutes on one core. The test
           test_aa_2_... runs the same function, 10 of each.
Expected:  Q3 excludes 0 in 3.0 % [1.7, 5.2] of the 400 studies; Q2 in 46 %, 7.8 % [4.6, 12.9] where both names
           ended with the same row.

The study's own ``Schedule`` decides everything (baseline, random slice, islands, selection, confirmation) in
simulated time on two slots. A trial plays a recorded row: the nearest to its config that this search (an
island, or the slice) has not had; later runs of a setting play the row that it had. Islands may meet the
same row, as independent studies do.

Stated noise. A loss becomes an accuracy as exp(-loss), which is 50 % at chance (two classes). The rows are
means over five seeds, so every run gets its own shift, normal with sd 0.3 points (``RUN_SD``), and every
validation accuracy an error of its own with the binomial sd of 5000 images (``VAL_IMAGES``), 0.7 points.
Test rows come from ``tests/synthetic.py`` at the row's test accuracy: 2000 images, run sd 0.3 points.

Judged by the report's own estimators: Q2 by ``analysis.verdict.judge``, whose "better" is right when the
two searches found unequal settings, so its scope is part of the verdict; Q3 by Welch's interval over the
islands, which must exclude 0 in no more than 5 % of the studies.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import dataclasses
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from synthetic import plan, right_wrong

from analysis.estimate import Correct, welch
from analysis.verdict import Runs, judge
from bench.taskset import FOLDER, Curves, Rows, load
from search_spaces import Arm, Choice, Config, ImageSpec
from study.ledger import Ledger
from study.plan import Budget, Plan, with_length
from study.records import Epoch, Trial
from study.schedule import Schedule, derive_seed

if TYPE_CHECKING:
    from torch import nn

NAMES = ("one_name", "another_name")
RUN_SD = 0.003
VAL_IMAGES = 5000
TEST_IMAGES = 2000
STATED = 0.05
"""How often the 95 % interval of Q3 may exclude 0 when there is no difference."""
EPOCHS = 10
"""Reports of a full run: every fifth checkpoint of the 50."""
FULL_RUNS = 44
"""Full runs that an arm's share buys: enough for four islands."""
SECONDS = 10.0
"""Simulated wall seconds of one report."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What one whole A/A study said. Differences are first minus second, as fractions of accuracy."""

    seed: int
    islands: int
    trials: int
    word: str
    scope: str
    q2: tuple[float, float, float]
    """Difference, low, high."""
    same_row: bool
    """Whether both names ended with the same recorded row."""
    truth: float
    """Difference of the two chosen rows' test accuracies, without any noise."""
    q3: tuple[float, float, float]

    @property
    def q2_excludes_0(self) -> bool:
        return self.q2[1] > 0 or self.q2[2] < 0

    @property
    def q3_excludes_0(self) -> bool:
        return self.q3[1] > 0 or self.q3[2] < 0


class Tape:
    """Plays recorded rows for the trials of one study: which row a config is, and what it scores."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves
        self._rows: dict[tuple[str, str, int], Rows] = {}
        self._known: dict[tuple[str, str], int] = {}

    def row(self, trial: Trial) -> int:
        """The trial's row. One search never gets a row twice; a run of a known setting gets its row again."""
        setting = trial.arm, json.dumps(trial.config, sort_keys=True)
        if trial.phase in ("search", "slice") or setting not in self._known:
            search = trial.arm, trial.phase, trial.island
            self._known[setting] = self._rows.setdefault(search, Rows(self.curves)).draw(trial.config)
        return self._known[setting]

    def accuracy(self, trial: Trial, row: int, epoch: int) -> float | None:
        """Validation accuracy after this report, noise included; None where the recorded run has diverged."""
        loss = float(self.curves.valid[row, epoch * self.curves.checkpoints // EPOCHS])
        if math.isnan(loss):
            return None
        clean = math.exp(-loss)
        shift = RUN_SD * float(np.random.default_rng(trial.seed).standard_normal())
        sampling = math.sqrt(clean * (1 - clean) / VAL_IMAGES)
        error = sampling * float(np.random.default_rng([trial.seed, epoch]).standard_normal())
        return min(1.0, max(0.0, clean + shift + error))

    def test_accuracy(self, row: int) -> float:
        """Without noise."""
        return math.exp(-float(self.curves.final_test[row]))


def one_study(curves: Curves, *, seed: int, folder: Path) -> Study:
    """The whole study of ``curves`` under two names, from the plan to both intervals. Writes a ledger."""
    space = {**curves.space, "batch_size": Choice(options=(128,), default=128)}
    question = _question(seed)
    tape, rows = Tape(curves), dict[str, int]()
    with Ledger(folder / f"{seed}.jsonl") as ledger:
        _play(question, ledger, {name: Arm(_never_built, space=space) for name in NAMES}, tape, rows)
    assert ledger.manifest is not None
    rng = np.random.default_rng(derive_seed(seed, "test images"))
    confirmed, own = [], []
    for arm in NAMES:
        confirmed.append([rows[t.id] for t in ledger.of(arm, "confirm")])
        own.append([rows[t] for t in ledger.manifest.choices[arm].islands])
    levels = [tape.test_accuracy(group[0]) for group in confirmed]
    tables = right_wrong(
        rng, runs=tuple(map(len, confirmed)), accuracies=tuple(levels), images=TEST_IMAGES, run_sd=RUN_SD
    )
    first, second = (_runs(arm, table) for arm, table in zip(NAMES, tables, strict=True))
    verdict = judge(first, second, rope=question.rope, islands=question.islands)
    nets = [row for group in own for row in group]
    scored = right_wrong(
        rng,
        runs=(1,) * len(nets),
        accuracies=tuple(tape.test_accuracy(row) for row in nets),
        images=TEST_IMAGES,
        run_sd=RUN_SD,
    )
    scores = np.array([float(table.mean()) for table in scored])
    procedure = welch(scores[: len(own[0])], scores[len(own[0]) :])
    return Study(
        seed=seed,
        islands=question.islands,
        trials=len(ledger.trials),
        word=verdict.word,
        scope=verdict.scope,
        q2=(verdict.delta, verdict.low, verdict.high),
        same_row=confirmed[0][0] == confirmed[1][0],
        truth=levels[0] - levels[1],
        q3=(procedure.delta, procedure.low, procedure.high),
    )


def _question(seed: int) -> Plan:
    """Two arms of equal speed, with FULL_RUNS full runs each."""
    base = plan(NAMES, images=TEST_IMAGES)
    speed = dataclasses.replace(
        base.audits[NAMES[0]],
        images_per_second=base.train_images / (SECONDS - 0.4),
        eval_images_per_second=base.val_images / 0.4,
        startup_seconds=1.0,
    )
    base = dataclasses.replace(
        base,
        seed=seed,
        audits=dict.fromkeys(NAMES, speed),
        batch_sizes=(128,),
        epochs=EPOCHS,
    )
    share = FULL_RUNS * base.full_run(NAMES[0]) + base.overhead
    return with_length(
        dataclasses.replace(base, budget=Budget(seconds=len(NAMES) * share, resource="cpu")), EPOCHS
    )


def _play(question: Plan, ledger: Ledger, arms: dict[str, Arm], tape: Tape, rows: dict[str, int]) -> None:
    """Drive the schedule in simulated time; ``rows`` is filled with the row of every trial."""
    now = [0.0]
    schedule = Schedule(question, ledger, arms, clock=lambda: now[0])
    running: list[tuple[float, Trial, int]] = []
    while True:
        while (start := schedule.next()) is not None:
            trial = start.trial
            rows[trial.id] = tape.row(trial)
            running.append((now[0] + SECONDS, trial, 1))
        if not running:
            assert schedule.done
            return
        running.sort(key=lambda item: item[0])
        now[0], trial, epoch = running.pop(0)
        accuracy = tape.accuracy(trial, rows[trial.id], epoch)
        if accuracy is None:
            schedule.end(trial.id, "diverged: nan")
            continue
        report = Epoch(
            trial=trial.id, epoch=epoch, train_loss=1.0, train_accuracy=accuracy, val_loss=1.0,
            val_accuracy=accuracy, train_seconds=SECONDS - 0.4, eval_seconds=0.4,
        )  # fmt: skip
        if schedule.report(report) and epoch < trial.epochs:
            running.append((now[0] + SECONDS, trial, epoch + 1))
        else:
            schedule.end(trial.id)


def _never_built(_config: Config, _images: ImageSpec) -> "nn.Module":
    raise AssertionError("a replay trains nothing")


def _runs(arm: str, correct: Correct) -> Runs:
    return Runs(arm=arm, correct=correct, full_run=EPOCHS * SECONDS)


def repeat(curves: Curves, *, repeats: int, folder: Path, first_seed: int = 0) -> list[Study]:
    """As many whole studies. No two share a seed, nor do those of another architecture: their luck would be one."""
    seeds = [derive_seed("aa", curves.name, s) for s in range(first_seed, first_seed + repeats)]
    return [one_study(curves, seed=s, folder=folder) for s in seeds]


def allowed(repeats: int) -> int:
    """The most exclusions of 0 that do not contradict the stated rate: more have a chance below 2 %."""
    return int(stats.binom.ppf(0.98, repeats, STATED))


def told(studies: list[Study]) -> str:
    """Both rates, Q3's last."""
    unequal = [s for s in studies if s.truth != 0]
    lines = [
        _rate("Q2, for the settings found, excludes 0", studies, sum(s.q2_excludes_0 for s in studies)),
        _rate("of those with the same row twice", [s for s in studies if s.truth == 0],
              sum(s.q2_excludes_0 for s in studies if s.truth == 0)),
        _rate("of those with unequal rows", unequal, sum(s.q2_excludes_0 for s in unequal)),
        _rate("Q3, for the search, excludes 0", studies, sum(s.q3_excludes_0 for s in studies)),
    ]  # fmt: skip
    return "\n".join(lines) + f"; {allowed(len(studies))} would still agree with {100 * STATED:g} %"


def _rate(name: str, studies: list[Study], hits: int) -> str:
    if not studies:
        return f"  {name:40} none"
    interval = stats.binomtest(hits, len(studies)).proportion_ci(method="wilson")
    return (
        f"  {name:40}{hits:4} of {len(studies)}: {100 * hits / len(studies):.1f} % "
        f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.aa", description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=100, help="studies of each architecture (default 100)")
    parser.add_argument("--data", type=Path, default=FOLDER, help=f"recorded curves (default {FOLDER})")
    parser.add_argument("--seed", type=int, default=0, help="of the first study (default 0)")
    parser.add_argument("--out", type=Path, help="write every study's intervals here, as JSON")
    given = parser.parse_args(arguments)
    if not given.data.is_dir():
        print(f"{given.data} is absent: made-up tables stand in")
    began = time.perf_counter()
    studies: list[Study] = []
    for curves in load(given.data).values():
        with tempfile.TemporaryDirectory() as folder:
            mine = repeat(curves, repeats=given.repeats, folder=Path(folder), first_seed=given.seed)
        print(f"{curves.name} under two names\n{told(mine)}\n")
        studies += mine
    if given.out is not None:
        given.out.write_text(json.dumps([asdict(s) for s in studies], indent=1) + "\n")
    trials = np.mean([s.trials for s in studies])
    seconds = time.perf_counter() - began
    print(f"all {len(studies)} studies, {trials:.0f} trials each, in {seconds:.0f} s\n{told(studies)}")


if __name__ == "__main__":
    main()
