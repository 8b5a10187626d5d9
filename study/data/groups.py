"""Images that belong together, as those of one patient or exact copies: no split puts some of a group on either side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def numbered(names: Sequence[str]) -> Numbers:
    """Groups by name as numbers in the order of their first images; an image without a name is a group of its own."""
    seen: dict[str | int, int] = {}
    keys = (name or position for position, name in enumerate(names))
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def of_copies(hashes: Sequence[int]) -> Numbers | None:
    """Groups of equal images, None where all differ."""
    seen: dict[int, int] = {}
    found = np.array([seen.setdefault(each, len(seen)) for each in hashes], dtype=np.int64)
    return found if len(seen) < len(found) else None


def joined(first: Numbers, second: Numbers) -> Numbers:
    """Groups that hold whatever either has together."""
    found = np.arange(len(first))
    while True:
        before = found
        for groups in (first, second):
            least = np.full(groups.max(initial=0) + 1, len(found))
            np.minimum.at(least, groups, found)
            found = least[groups]
        if np.array_equal(before, found):
            return np.unique(found, return_inverse=True)[1].astype(np.int64)


def spread(labels: Numbers, groups: Numbers, shares: Sequence[float], seed: int) -> Numbers:
    """Into which of several bins each image goes, whole groups at a time: a bin gets about its share of every class.

    Groups of several images go first, the largest before the others, each to the bin that it brings closest to its share of
    these classes; images that stand alone then fill up what is missing. A class of two groups or more is never in one bin alone,
    where a class of any share has two bins.
    """
    rng = np.random.default_rng([seed, *b"groups"])
    number = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(number)
    wanted = np.asarray(shares, dtype=np.float64)[:, None] * np.bincount(labels)  # (bins, classes)
    have, bins = np.zeros_like(wanted), np.full(len(labels), -1)
    starts, members = np.cumsum(sizes) - sizes, np.argsort(number, kind="stable")
    several = rng.permutation(np.flatnonzero(sizes > 1))
    for group in several[np.argsort(-sizes[several], kind="stable")]:
        own = members[starts[group] : starts[group] + sizes[group]]
        classes, counts = np.unique(labels[own], return_counts=True)
        off = 2 * (have - wanted)[:, classes] + counts
        best = int((counts * off / np.maximum(wanted[:, classes], 0.5)).sum(axis=1).argmin())
        bins[own] = best
        have[best, classes] += counts
    _fill(labels, bins, wanted - have, rng)
    _mend(labels, number, bins, len(wanted))
    return bins.astype(np.int64)


def _fill(labels: Numbers, bins: Numbers, missing: NDArray[Any], rng: np.random.Generator) -> None:
    """Give the images without a bin one, class by class; what rounding leaves over is carried to the next class."""
    carried = np.zeros(len(missing))
    for label in range(missing.shape[1]):
        alone = rng.permutation(np.flatnonzero((labels == label) & (bins < 0)))
        if not len(alone):
            continue
        target = np.maximum(missing[:, label], 0)
        target = (
            target * len(alone) / target.sum()
            if target.sum()
            else np.full(len(target), len(alone) / len(target))
        )
        target += carried
        given = np.maximum(np.floor(target), 0).astype(np.int64)
        while (left := len(alone) - int(given.sum())) != 0:
            open_to = given > 0 if left < 0 else np.ones_like(given, dtype=np.bool_)
            given[np.where(open_to, (target - given) * np.sign(left), -np.inf).argmax()] += np.sign(left)
        carried = target - given
        bins[alone] = np.repeat(np.arange(len(given)), given)


def _mend(labels: Numbers, groups: Numbers, bins: Numbers, count: int) -> None:
    """Move the smallest group of a class that lies in one bin alone to the bin that has the fewest images."""
    sizes = np.bincount(groups)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if (bins[own] != bins[own[0]]).any() or (groups[own] == groups[own[0]]).all():
            continue
        candidates = np.unique(groups[own])
        smallest = candidates[sizes[candidates].argmin()]
        full = np.bincount(bins, minlength=count)
        full[bins[own[0]]] = len(bins)
        bins[groups == smallest] = full.argmin()
