"""Coverage of the mean over data sets and of the next one, by number of sets, pairs of a study and spread.

Command:   python -m tests.bench.across [--repeats 1000] [--pairs 3] [--spread 0.8]
Cost:      7 to 9 minutes on a busy machine for each number of pairs at 1000 repeats.

A set's standard error is drawn with a spread (sd of its logarithm) and estimated from the study's pairs, as in a real study; ``tau`` is in
units of the median standard error.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import itertools

import numpy as np
from scipy import stats

from analysis.statistics.random_effects import pooled

SETS, PAIRS, TAUS, SPREAD = (3, 5, 10, 20), (3, 4, 8), (0.0, 0.5, 1.0, 2.0), 0.4


def covered(sets: int, pairs: int, tau: float, spread: float, repeats: int) -> tuple[float, ...]:
    """Shares of repeats in which the mean lies inside by Hartung and Knapp alone and as reported, and in which the next set's true
    difference does; and by how much the reported interval is longer, at the mean over repeats.
    """
    rng = np.random.default_rng([sets, pairs, round(10 * tau)])
    inside, longer = np.zeros(3), np.zeros(2)
    for _ in range(repeats):
        scale = np.exp(rng.normal(0, spread, sets)) * np.sqrt(pairs)
        truth = 1 + tau * rng.standard_normal(sets + 1)
        table = truth[:sets, None] + scale[:, None] * rng.standard_normal((sets, pairs))
        errors = table.std(axis=1, ddof=1) / np.sqrt(pairs)
        found = pooled(table.mean(axis=1), errors, np.full(sets, pairs - 1.0))
        mean, half = found.mean, found.mean.se * float(stats.t.ppf(0.975, found.mean.df))
        inside += (
            abs(mean.delta - 1) <= half,
            mean.low <= 1 <= mean.high,
            found.next_low <= truth[-1] <= found.next_high,
        )
        longer += mean.high - mean.low, 2 * half
    return (*map(float, inside / repeats), float(longer[0] / longer[1] - 1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.across", description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--pairs", type=int, choices=PAIRS, help="these alone")
    parser.add_argument(
        "--spread", type=float, default=SPREAD, help=f"of the standard errors (default {SPREAD})"
    )
    given = parser.parse_args()
    heads = (f"{sets:>2} sets: HK reported next longer" for sets in SETS)
    print("| pairs | tau | " + " | ".join(heads) + " |", flush=True)
    for pairs, tau in itertools.product([given.pairs] if given.pairs else PAIRS, TAUS):
        cells = [covered(sets, pairs, tau, given.spread, given.repeats) for sets in SETS]
        shown = (f"{hk:.3f} / {mean:.3f} / {ahead:.3f} / {more:+.0%}" for hk, mean, ahead, more in cells)
        print(f"| {pairs} | {tau} | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
