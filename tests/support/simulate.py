"""Small synthetic cases for testing statistics: two arms, two nets, a slice, searches."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.runs import Runs
from analysis.statistics.intervals import Correct, Reals
from analysis.statistics.mcnemar import Row
from support.synthetic import right_wrong

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "taskset" / "patch32_GRU64_avg_bs128.npz"
"""A table of real runs, if it is beside the checkout."""


def pair(
    seed: int, *, runs: int = 5, gap: float = 0.0, images: int = 10_000, run_sd: float = 0.001
) -> tuple[Correct, Correct]:
    """Two arms, the first at 93 %, the second ``gap`` below: (runs, images) each."""
    first, second = right_wrong(
        np.random.default_rng(seed),
        runs=(runs, runs),
        accuracies=(0.93, 0.93 - gap),
        images=images,
        run_sd=run_sd,
    )
    return first, second


def arm(name: str, correct: Correct, cost: float = 100.0) -> Runs:
    return Runs(arm=name, correct=correct, full_run=cost)


def table(means: list[float], images: int = 10_000, seed: int = 0) -> Correct:
    """Runs with exactly these accuracies, each right on randomly drawn images."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(np.arange(images) < round(m * images)) for m in means])


def nets(n10: int, n01: int, images: int) -> tuple[Row, Row]:
    """Two nets with these discordant counts, right together on all other images."""
    place = np.arange(images)
    both = place >= n10 + n01
    return (place < n10) | both, ((place >= n10) & (place < n10 + n01)) | both


def run_accuracies(seed: int, k: int = 5, ahead: float = 0.0) -> Reals:
    """Accuracies of k runs of one arm."""
    return np.random.default_rng(seed).normal(0.93 + ahead, 0.002, k)


def accuracies(rng: np.random.Generator, *shape: int) -> Reals:
    """Accuracies of random settings: Beta(8, 3), whose expected best is known."""
    return rng.beta(8, 3, size=shape)


def steps(*searches: list[tuple[float, float]]) -> pd.DataFrame:
    """The input of ``search_curve`` from each search's (cost, accuracy) pairs."""
    rows = [(i, cost, value) for i, own in enumerate(searches) for cost, value in own]
    return pd.DataFrame(rows, columns=["pair", "cost", "val_score"])


def recorded() -> tuple[Reals, Reals]:
    """Validation and test score (higher is better) of every setting: from the real table, or a synthetic one."""
    if RECORDED.exists():
        with np.load(RECORDED) as file:
            val, test = (
                -np.clip(np.nan_to_num(file[x][:, -1].astype(np.float64), nan=0.75), 0, 0.75)
                for x in ("valid", "test")
            )
        return val, test
    return made()


def made() -> tuple[Reals, Reals]:
    """A table with independent validation and test errors, as on finite images."""
    rng = np.random.default_rng(0)
    true = 0.93 - rng.gamma(1.0, 0.01, 400)
    val, test = (rng.binomial(1000, true) / 1000 for _ in range(2))
    return val, test
