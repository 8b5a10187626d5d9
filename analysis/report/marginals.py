"""One parameter at a time: the score by the value of each axis of an arm, over its random slice.

The slice draws every axis by itself, so the trials of one value have all other axes as they fell: a
value's mean is over those, not at one fixed setting. A failed trial guesses.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.report.sections.health import position
from analysis.report.sections.tuning_curves import drawn
from analysis.results import Evidence
from analysis.statistics.intervals import Reals
from analysis.statistics.superiority import holm

FLOOR = 3
"""Trials of a value under which its mean is not given, and its axis not isolated unless two values have them."""
PERMUTATIONS = 2000
THIRDS = ("lowest third", "middle third", "highest third")


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per arm, axis and value, in the order of the plan; a number's values are thirds of its range.

    Columns: arm, axis, own (a choice, or an axis that not every arm has), value, isolated (two values of the axis
    have FLOOR trials), p (of the axis, see ``_p``; NaN unless isolated), trials, failed, and per kind (val, test)
    the accuracies (list; test is empty until all are scored), mean, low, high (t, 95 %; NaN below FLOOR trials).
    """
    spaces, rows = evidence.plan.spaces, []
    ends = evidence.plan.judged.worst, evidence.plan.judged.best
    for arm in evidence.plan.arms:
        draws = evidence.slices.get(arm, ())
        val, _, test = drawn(evidence, arm)
        failed = np.array([d.val is None for d in draws], dtype=np.bool_)
        for axis, what in spaces.get(arm, {}).items():
            values = tuple(str(o) for o in what["options"]) if "options" in what else THIRDS
            at = np.array([_place(what, d.config.get(axis)) for d in draws], dtype=np.int64)
            sizes = [int((at == i).sum()) for i in range(len(values))]
            isolated = sum(size >= FLOOR for size in sizes) >= 2
            p = _p(val[at >= 0], at[at >= 0]) if isolated else math.nan
            shared = all(axis in spaces.get(other, {}) for other in evidence.plan.arms)
            rows += [
                {"arm": arm, "axis": axis, "own": "options" in what or not shared, "value": value}
                | {"isolated": isolated, "p": p, "trials": sizes[i], "failed": int(failed[at == i].sum())}
                | _summary("val", val[at == i], ends)
                | _summary("test", test[at == i] if test is not None else np.zeros(0), ends)
                for i, value in enumerate(values)
            ]
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"own": bool, "isolated": bool})


def adjusted(found: pd.DataFrame) -> dict[tuple[str, str], float]:
    """The p of every isolated axis, by arm and name, adjusted over the axes of its arm (Holm)."""
    axes = found[found["isolated"]].drop_duplicates(["arm", "axis"])
    result: dict[tuple[str, str], float] = {}
    for arm, own in axes.groupby("arm", sort=False):
        result |= {
            (str(arm), str(axis)): p for axis, p in zip(own["axis"], holm(list(own["p"])), strict=True)
        }
    return result


def _place(what: dict[str, Any], value: object) -> int:
    """Number of the value among its axis's, -1 when the setting does not have the axis."""
    if value is None:
        return -1
    if "options" in what:
        return next((i for i, option in enumerate(what["options"]) if option == value), -1)
    where = position(what, value)
    return -1 if where is None else min(2, max(0, int(3 * where)))


def _summary(kind: str, values: Reals, ends: tuple[float, float]) -> dict[str, Any]:
    found = {kind: [float(v) for v in values], f"{kind}_mean": math.nan}
    found |= {f"{kind}_low": math.nan, f"{kind}_high": math.nan}
    if len(values) >= FLOOR:
        mean = float(values.mean())
        half = float(stats.t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
        found |= {f"{kind}_mean": mean, f"{kind}_low": max(ends[0], mean - half)}
        found |= {f"{kind}_high": min(ends[1], mean + half)}
    return found


def _p(accuracies: Reals, at: "np.ndarray[Any, np.dtype[np.int64]]") -> float:
    """Permutation p of "this axis does nothing": Kruskal and Wallis's statistic, values shuffled over trials.

    Exact in level, since the slice draws each axis independently of all others. The same data give the same p.
    """
    ranks = stats.rankdata(accuracies)
    kinds = np.eye(int(at.max()) + 1)[at]
    sizes = np.maximum(kinds.sum(axis=0), 1)
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)
    observed, others = (((r @ kinds) ** 2 / sizes).sum(axis=-1) for r in (ranks, shuffled))
    return float(((others >= observed - 1e-9).sum() + 1) / (PERMUTATIONS + 1))


_COLUMNS = [
    "arm", "axis", "own", "value", "isolated", "p", "trials", "failed",
    "val", "val_mean", "val_low", "val_high", "test", "test_mean", "test_low", "test_high",
]  # fmt: skip
