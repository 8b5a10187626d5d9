"""Long studies: the cost of resuming, continuing and reporting 100, 1,000 and 10,000 trials.

``python -m tests.bench.long``: each ledger is generated almost to the end of its search (2 arms x 4 searches, ASHA's
own stops); a ``Schedule`` plays the rest in simulated time, timed call by call; then the report is
written. No net is trained. A driver with n trials may take no longer per result than one with few; only TPE's
proposal looks at all trials of its search.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from support.edited import chained
from support.plans import PLAN
from support.schedules import ARMS, SECONDS, accuracy_of, diverges, drive

from analysis.report.build import write
from study.progress import View
from study.protocol import allocation
from study.protocol.allocation import rungs as rungs_of
from study.protocol.budget import Budget
from study.protocol.ledger import Ledger
from study.protocol.metrics import log_probabilities
from study.protocol.plan import Plan
from study.protocol.records import (
    Cost,
    Epoch,
    Outcome,
    Phase,
    Record,
    Scored,
    State,
    TestOpened,
    Trial,
    Tuning,
)
from study.protocol.rundir import HTML, RunDir
from study.protocol.selection import to_be_scored
from study.scheduling.asha import Rungs
from study.scheduling.schedule import Schedule, Start, derive_seed
from study.scheduling.spaces import describe, random_config, searched

EPOCHS, IMAGES = 50, 500
SLICE = 25
"""One in this many trials belongs to the random slice."""
MEMORY = Path("/dev/shm")
"""Folder of the studies, if it exists: a flush to disk would add the same milliseconds to every study."""
REST = 40
"""About this many search trials per arm remain for the schedule."""


class _Made:
    """Records of a generated study up to near the end of its search, and their plan."""

    def __init__(self, trials: int) -> None:
        arms = {name: searched(arm.space, (32, 64, 128, 256), ()) for name, arm in ARMS.items()}
        self._spaces = arms
        self.records: list[Record] = []
        full = {arm: EPOCHS * SECONDS[arm] for arm in arms}
        share = 100 + trials // 40  # full runs, so that the plan has as many searches as the trials need
        self.plan = dataclasses.replace(
            PLAN,
            arms=tuple(arms),
            data=dataclasses.replace(PLAN.data, test=IMAGES, classes=tuple("0123456789")),
            epochs=EPOCHS,
            audits=dict(zip(arms, PLAN.audits.values(), strict=True)),
            probe_cost=dict.fromkeys(arms, 10.0),
            budget=Budget(seconds=len(arms) * share * max(full.values()), resource="cpu"),
            batch_sizes=(32, 64, 128, 256),
            spaces={arm: describe(space) for arm, space in arms.items()},
        )
        pairs, folds = self.plan.pairs, self.plan.folds
        for arm in arms:
            self.records.append(Cost(arm=arm, phase="probe", what="speed and memory", cost=10.0))
            for index in range(folds):
                self._run(arm, "baseline", index, 0, None, fold=index)
        place = len(self.records)
        each = trials // len(arms)
        slice_runs = max(2, each // SLICE)
        needed: dict[str, float] = {}
        for arm in arms:
            spent = sum(self._run(arm, "slice", index, 0, None) for index in range(slice_runs))
            searches = [0.0] * pairs
            rungs = [Rungs(rungs_of(EPOCHS)) for _ in searches]
            for index in range(each - folds - slice_runs):
                pair = int(np.argmin(searches))
                searches[pair] += self._run(arm, "search", index, pair, rungs[pair], fold=pair)
            searched_runs = max(1, each - folds - slice_runs)
            needed[arm] = spent + pairs * max(searches) + REST * sum(searches) / searched_runs
        per_arm = max(needed.values())
        self.records.insert(place, Tuning(per_arm=per_arm, slice_runs=slice_runs, full_run=full))
        others = (folds + 2 * pairs + allocation.confirm_reserved(self.plan)) * max(full.values())
        budget = Budget(seconds=max(self.plan.budget.seconds, len(arms) * (per_arm + others)), resource="cpu")
        self.plan = dataclasses.replace(self.plan, budget=budget)
        assert self.plan.pairs == pairs

    def _run(
        self, arm: str, phase: Phase, index: int, pair: int, rungs: Rungs | None, *, fold: int = 0
    ) -> float:
        """Add one trial from its decision to its end. Returns its cost."""
        trial = Trial(
            id=f"{arm}-{phase}-{index:04d}",
            arm=arm,
            phase=phase,
            index=index,
            pair=pair,
            config=random_config(
                self._spaces[arm], seed=derive_seed(phase, 0 if phase == "baseline" else index)
            ),
            seed=derive_seed(arm, phase, index),
            fold=fold,
            epochs=EPOCHS,
        )
        self.records.append(trial)
        cost, ended, epoch = 0.05, ("finished", "full length"), 0
        for epoch in range(1, EPOCHS + 1):
            cost += SECONDS[arm]
            if failure := diverges(trial, epoch) if phase != "baseline" else "":
                ended, epoch = ("failed", failure), epoch - 1
                break
            accuracy = accuracy_of(trial, epoch)
            passed = rungs is None or rungs.passes(trial.id, epoch, accuracy)
            stop = "" if passed else f"asha: below the best third at epoch {epoch}"
            self.records.append(an_epoch(trial, epoch, accuracy, cost, stop))
            if stop:
                ended = ("stopped", stop)
                break
        state: State = ended[0]  # type: ignore[assignment]
        self.records.append(Outcome(trial=trial.id, state=state, reason=ended[1], epochs=epoch, cost=cost))
        return cost


def an_epoch(trial: Trial, epoch: int, accuracy: float, cost: float, stop: str) -> Epoch:
    return Epoch(
        trial=trial.id, epoch=epoch, train_loss=1.0, train_accuracy=accuracy, val_loss=1.0, val_accuracy=accuracy,
        train_seconds=SECONDS[trial.arm], eval_seconds=0.01, cost=cost, stop=stop,
    )  # fmt: skip


def make(home: Path, trials: int) -> Plan:
    """Write plan and ledger of a study with about ``trials`` trials, near the end of its search."""
    made = _Made(trials)
    home.mkdir(parents=True)
    (home / "predictions").mkdir()
    made.plan.save(RunDir(home).plan)
    (RunDir(home).ledger).write_text(chained(made.records))
    return made.plan


class Timed(Schedule):
    """A Schedule that records the seconds of each call by its name and phase."""

    def watch(self, view: View) -> None:
        self.took: dict[str, list[float]] = defaultdict(list)
        self._view = view
        for search in self.searches.values():
            search.ask = self._timed_ask(search.ask)  # type: ignore[method-assign]

    def _timed_ask(self, ask: Any) -> Any:
        def timed(trial_id: str) -> Any:
            with self._clocked("ask"):
                return ask(trial_id)

        return timed

    @contextmanager
    def _clocked(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.took[name].append(time.perf_counter() - began)

    def next(self) -> Start | None:
        asked = len(self.took["ask"])
        began = time.perf_counter()
        start = super().next()
        took = time.perf_counter() - began - sum(self.took["ask"][asked:])
        if start is None:
            return None
        searching = self.ledger.tuning is not None and not self.ledger.of(self.plan.arms[0], "select")
        self.took["next" if searching else "next after the search"].append(took)
        return start

    def report(self, epoch: Epoch) -> bool:
        with self._clocked("report"):
            goes_on = super().report(epoch)
        self._view._next = 0.0  # every tick draws
        with self._clocked("tick"):
            self._view.tick()
        return goes_on

    def end(self, trial_id: str, failure: str = "") -> Outcome:
        with self._clocked("end"):
            return super().end(trial_id, failure)


def go_on(home: Path, plan: Plan) -> dict[str, Any]:
    """Resume the study in ``home`` and play it to the end with test scores. Returns the times."""
    now = [0.0]
    began = time.perf_counter()
    with Ledger(RunDir(home).ledger) as ledger:
        schedule = Timed(plan, ledger, ARMS, clock=lambda: now[0])
        resumed = time.perf_counter() - began
        known = len(ledger.trials)
        with Path("/dev/null").open("w") as nowhere:
            schedule.watch(View(schedule, Console(file=nowhere, force_terminal=True, width=120)))
            drive(schedule, now, diverges)
        _score(home, plan, ledger)
        return {
            "trials": known,
            "trials_played": len(ledger.trials) - known,
            "records": (RunDir(home).ledger).read_bytes().count(b"\n"),
            "resume_seconds": resumed,
            "median_us": {name: 1e6 * float(np.median(took)) for name, took in schedule.took.items()},
        }


def _score(home: Path, plan: Plan, ledger: Ledger) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, IMAGES)
    nets = [trial for arm in plan.arms for trial in to_be_scored(ledger, arm)]
    ledger.add(TestOpened(manifest=ledger.manifests[-1].sha256, trials=tuple(t.id for t in nets)))
    for trial in nets:
        right = rng.random(IMAGES) < 0.85
        predicted = np.where(right, labels, (labels + 1) % 10)
        np.savez(
            home / "predictions" / f"{trial.id}.npz",
            labels=labels,
            predictions=predicted,
            log_probabilities=log_probabilities(np.eye(10)[predicted]),
        )
        ledger.add(Scored(trial=trial.id, test_accuracy=float(right.mean())))


def measure(home: Path, trials: int) -> dict[str, Any]:
    """All figures for one length of study, in a new folder ``home``."""
    found = go_on(home, make(home, trials))
    began = time.perf_counter()
    write(home)
    return {
        **found,
        "report_seconds": time.perf_counter() - began,
        "report_mib": (home / HTML).stat().st_size / 2**20,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.long", description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--json", action="store_true", help="one JSON object per length")
    given = parser.parse_args()
    for trials in given.trials:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            found = measure(Path(folder) / "run", trials)
        if given.json:
            print(json.dumps(found), flush=True)
            continue
        calls = ", ".join(f"{name} {took:.0f}" for name, took in found["median_us"].items())
        print(
            f"{found['trials']} trials (+ {found['trials_played']} played), {found['records']} records: resume {found['resume_seconds']:.2f} s, report "
            f"{found['report_seconds']:.1f} s ({found['report_mib']:.1f} MiB); median microseconds: {calls}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
