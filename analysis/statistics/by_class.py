"""What nets do class by class: shares with their intervals, and confusions.

``named`` (runs, images) are the classes that the runs of one setting name, ``labels`` (images,) the true ones.
"""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics.intervals import Estimate, satterthwaite, t_interval

Ints = NDArray[np.int64]


def share(hits: NDArray[np.bool_], among: NDArray[np.bool_], *, confidence: float = 0.95) -> Estimate | None:
    """How many of ``among`` are ``hits``, (runs, images) both, for new runs and new images; None where there are none.

    The crossed variance (``intervals.crossed``) of the ratio's linear form, (hit - share * among) / mean(among), over the images
    that are among in any run: where that is every run, as in recall, it is ``mean_accuracy`` of these images. The interval is
    cut at 0 and 1, and is NaN for a single run or image.
    """
    images = among.any(axis=0)
    among, hits = among[:, images].astype(np.float64), hits[:, images].astype(np.float64)
    if not (n := among.shape[1]):
        return None
    runs, mean = len(among), float(hits.sum() / among.sum())
    if runs < 2 or n < 2:
        return Estimate(
            delta=mean, low=math.nan, high=math.nan, se=math.nan, df=math.nan, confidence=confidence
        )
    linear = (hits - mean * among) / among.mean()
    image = max(float(linear.mean(axis=0).var(ddof=1)) / n, 1 / (n * among.mean()) ** 2)
    within = float(linear.var(axis=0, ddof=1).mean())
    of_runs = float(linear.mean(axis=1).var(ddof=1))
    run = max(0.0, n / (n - 1) * (of_runs - within / n)) / runs
    df = satterthwaite(image + run, [image, of_runs / runs], [n - 1, runs - 1])
    found = t_interval(mean, image + run, df, confidence)
    low, high = max(0.0, found.low), min(1.0, found.high)
    return Estimate(delta=mean, low=low, high=high, se=found.se, df=found.df, confidence=confidence)


def recalls(labels: Ints, named: Ints, classes: int) -> NDArray[np.float64]:
    """Of every class, NaN without images."""
    right = np.bincount(labels, weights=(named == labels).mean(axis=0), minlength=classes)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = right / np.bincount(labels, minlength=classes)
    return found


def table(labels: Ints, named: Ints, classes: Iterable[int]) -> pd.DataFrame:
    """One row per class: images, and recall and precision, each with its low and high end (NaN where there is none)."""
    rows = []
    for c in classes:
        is_c, said = np.broadcast_to(labels == c, named.shape), named == c
        row: dict[str, float] = {"images": float((labels == c).sum())}
        for kind, among in (("recall", is_c), ("precision", said)):
            e = share(is_c & said, among)
            row |= {kind: e.delta, f"{kind}_low": e.low, f"{kind}_high": e.high} if e else {}
        rows.append(row)
    columns = [f"{kind}{end}" for kind in ("recall", "precision") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["images", *columns]).astype({"images": int})


def confusion(labels: Ints, named: Ints, classes: int) -> NDArray[np.float64]:
    """(true class, named class): images, mean over the runs."""
    pairs = (labels * classes + named).ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes) / len(named)


def confusions(labels: Ints, named: Ints) -> dict[tuple[int, int], float]:
    """(true class, other class that is named) -> images, mean over the runs; for any number of classes."""
    wrong = named != labels
    pairs = np.stack([np.broadcast_to(labels, named.shape)[wrong], named[wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return {(int(a), int(b)): float(n) / len(named) for (a, b), n in zip(found, counts, strict=True)}
