"""Test scores of every arm's default and net in hand, as a table."""

import pandas as pd

from analysis.results import Evidence
from analysis.statistics.intervals import Estimate, Refused


def accuracies(evidence: Evidence) -> pd.DataFrame:
    """One row per arm and setting with scored runs, with their mean, its 95 % interval, and the spread.

    ``tuned`` is the net in hand.
    """
    rows = []
    for arm in evidence.plan.arms:
        for kind, shelf in (("default", evidence.default), ("tuned", evidence.tuned)):
            if (runs := shelf.get(arm)) is None:
                continue
            try:
                interval: Estimate | None = runs.interval()
            except Refused:
                interval = None
            scores = pd.Series(runs.means)
            rows.append(
                {
                    "arm": arm,
                    "kind": kind,
                    "runs": len(scores),
                    "guessed": runs.guessed,
                    "accuracies": list(runs.means),
                    "mean": runs.mean,
                    "median": float(scores.median()),
                    "sd": float(scores.std()),
                    "min": float(scores.min()),
                    "max": float(scores.max()),
                    "low": interval.low if interval else float("nan"),
                    "high": interval.high if interval else float("nan"),
                }
            )
    return pd.DataFrame(rows)
