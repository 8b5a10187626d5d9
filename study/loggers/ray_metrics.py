"""Ray's metrics: gauges for Prometheus and the Grafana dashboard ``grafana.json``, in every study."""

import time
from pathlib import Path

from study.loggers.base import Tool
from study.protocol.accounting import share
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import PHASES, Record
from study.protocol.standing import states

SECONDS = 1.0
"""Least time between two updates."""


class RayMetrics:
    """Gauges at every Ray node's Prometheus endpoint, ``ray_study_...``."""

    def __init__(self, plan: Plan, home: Path) -> None:
        from ray.util.metrics import Gauge

        self._plan = plan
        self._next = 0.0
        self._history: History | None = None

        def gauge(name: str, text: str, *tags: str) -> Gauge:
            made = Gauge(f"study_{name}", description=text, tag_keys=("run", *tags))
            return made.set_default_tags({"run": _ascii(home.resolve().name)}) or made

        self._spent = gauge("spent_seconds", "Resource-seconds spent", "arm", "phase")
        self._left = gauge("left_seconds", "Resource-seconds of the arm's share that are left", "arm")
        best = "Best full-length search trial so far (optimistic)"
        self._best = (
            gauge("best_val_accuracy", best, "arm")
            if plan.metric == "accuracy"
            else gauge("best_val_score", best, "arm")
        )
        self._trials = gauge("trials", "Trials", "arm", "state")

    def take(self, record: Record, history: History) -> None:
        del record
        self._history = history
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS
            self._set(history)

    def close(self) -> None:
        if self._history is not None:
            self._set(self._history)

    def _set(self, history: History) -> None:
        for arm in self._plan.arms:
            tags = {"arm": _ascii(arm)}
            for phase in PHASES:
                self._spent.set(history.spent(arm, phase), {**tags, "phase": phase})
            self._left.set(max(0.0, share(self._plan, history) - history.spent(arm)), tags)
            best = history.best.get(arm)
            if best is not None:
                self._best.set(best, tags)
            for state, count in states(history, arm).items():
                self._trials.set(count, {**tags, "state": state})


def _ascii(text: str) -> str:
    """Ray's tags (2.60) hold nothing else."""
    return text.encode("ascii", "backslashreplace").decode()


TOOL = Tool(start=RayMetrics, needs="ray", always=True)
