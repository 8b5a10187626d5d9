"""Coverage of the mean over data sets and of the next one, by number of sets, pairs of a study and spread.

Command:   python -m tests.bench.across [--repeats 1000]
Cost:      about 8 minutes on one core at 1000 repeats.

A set's standard error is drawn with a spread of 40 % and estimated from the study's pairs, as in a real study; ``tau`` is in units
of the median standard error.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import itertools

import numpy as np

from analysis.statistics.random_effects import pooled

SETS, PAIRS, TAUS = (3, 5, 10, 20), (3, 4, 8), (0.0, 0.5, 1.0, 2.0)


def covered(sets: int, pairs: int, tau: float, repeats: int) -> tuple[float, float]:
    """Shares of repeats in which the mean, and the next set's true difference, lie inside."""
    rng, mean, ahead = np.random.default_rng([sets, pairs, round(10 * tau)]), 0, 0
    for _ in range(repeats):
        spread = np.exp(rng.normal(0, 0.4, sets)) * np.sqrt(pairs)
        truth = 1 + tau * rng.standard_normal(sets + 1)
        table = truth[:sets, None] + spread[:, None] * rng.standard_normal((sets, pairs))
        errors = table.std(axis=1, ddof=1) / np.sqrt(pairs)
        found = pooled(table.mean(axis=1), errors, np.full(sets, pairs - 1.0))
        mean += found.mean.low <= 1 <= found.mean.high
        ahead += found.next_low <= truth[-1] <= found.next_high
    return mean / repeats, ahead / repeats


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.across", description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    print("pairs  tau   " + "  ".join(f"{sets:>2} sets: mean next" for sets in SETS))
    for pairs, tau in itertools.product(PAIRS, TAUS):
        cells = [covered(sets, pairs, tau, repeats) for sets in SETS]
        print(f"{pairs:>5}  {tau:<4}  " + "  ".join(f"       {m:.3f} {n:.3f}" for m, n in cells), flush=True)


if __name__ == "__main__":
    main()
