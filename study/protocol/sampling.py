"""How test images stand for all images of their kind: each counts alike, or each class does; they come alone, or in groups.

The variance of a mean of per-image scores follows from it: where each class counts alike, images are drawn anew within
their class, and the variance is stratified; where they come in groups, groups are drawn anew (METHOD.md 10). Needs only numpy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sampling:
    """``classes``: each image's, where each class counts alike; None where each image does. ``groups``: each image's, where new
    images come in groups, as those of one patient; None where each comes alone. Values lie in the last axis."""

    classes: NDArray[np.integer] | None = None
    groups: NDArray[np.integer] | None = None

    @property
    def _parts(self) -> list[NDArray[np.intp]]:
        assert self.classes is not None
        return [np.flatnonzero(self.classes == c) for c in np.unique(self.classes)]

    def weights(self, images: int) -> Reals:
        """Of each image in the mean; they sum to 1."""
        if self.classes is None:
            return np.full(images, 1 / images)
        _, place, counts = np.unique(self.classes, return_inverse=True, return_counts=True)
        weights: Reals = 1 / (len(counts) * counts[place])
        return weights

    def mean(self, values: ArrayLike) -> Reals:
        """The weighted mean over images."""
        table = np.asarray(values)
        if self.classes is None:
            return np.asarray(table.mean(axis=-1), dtype=np.float64)
        return np.asarray(table @ self.weights(table.shape[-1]), dtype=np.float64)

    def terms(self, values: ArrayLike) -> list[tuple[float, int]]:
        """The variance of the mean of ``values`` (images,) over images drawn anew: its terms, with their degrees of freedom.

        A class with one image shows no variance; it is given that of all images, as if they were one class.
        """
        row = np.asarray(values, dtype=np.float64)
        if self.groups is not None:
            return self._group_terms(row)
        if self.classes is None:
            return [(float(row.var(ddof=1)) / len(row), len(row) - 1)]
        own, parts = [row[part] for part in self._parts], len(self._parts)
        whole = float(row.var(ddof=1))
        spread = [float(x.var(ddof=1)) if len(x) > 1 else whole for x in own]
        return [(v / len(x) / parts**2, max(1, len(x) - 1)) for v, x in zip(spread, own, strict=True)]

    def variance(self, values: ArrayLike) -> float:
        """Of the mean of ``values`` (images,), over images drawn anew."""
        return sum(term for term, _ in self.terms(values))

    def chance(self, spread: Reals) -> float:
        """The variance of the mean if every image varied by itself, with the variance ``spread`` (images,)."""
        if self.classes is None:
            return float(spread.mean()) / len(spread)
        return float((self.weights(len(spread)) ** 2 * spread).sum())

    def luck(self, table: NDArray[Any]) -> float:
        """The variance of a row's mean of ``table`` (rows, images) that its own luck on every image, or group, makes."""
        if self.groups is None:
            return self.chance(table.var(axis=0, ddof=1))
        return float(self._sums(table * self.weights(table.shape[1])).var(axis=0, ddof=1).sum())

    def repeated(self, table: NDArray[Any]) -> float:
        """Of the variance of the rows' means of ``table`` (runs, images), the part v_c / n_c that new images take away.

        With v_c the variance over runs of the mean of class c beyond ``chance``, unbiased: what the rows' variance lacks of
        that over endless images (Jordan 2023, arXiv 2304.01910, appendix, by classes).
        """
        parts = [np.arange(table.shape[1])] if self.classes is None else self._parts
        total = 0.0
        for part in parts:
            own, images = table[:, part], len(part)
            if self.groups is not None:
                sums = Sampling(groups=self.groups[part])._sums(own / images)
                if (units := sums.shape[1]) > 1:
                    seen = float(own.mean(axis=1).var(ddof=1) - sums.var(axis=0, ddof=1).sum())
                    total += seen / (units - 1) / len(parts) ** 2
            elif images > 1:
                seen = float(own.mean(axis=1).var(ddof=1)) - float(own.var(axis=0, ddof=1).mean()) / images
                total += images / (images - 1) * seen / images / len(parts) ** 2
        return total

    def interaction(self, table: NDArray[Any]) -> float:
        """Of ``table`` (rows, images), the variance of a row's mean that its own luck on the images makes: MSE / n, where MSE
        is the mean square of the interaction in a two-way layout without replication, within classes."""
        if self.groups is not None:
            apart = self._deviations(table)
            return float(((apart - apart.mean(axis=0)) ** 2).sum()) / (len(table) - 1)
        parts = [np.arange(table.shape[1])] if self.classes is None else self._parts
        total = 0.0
        for part in parts:
            own = table[:, part]
            rest = own - own.mean(axis=1)[:, None] - own.mean(axis=0) + own.mean()
            freedom = (len(own) - 1) * max(1, len(part) - 1)
            total += float((rest**2).sum()) / freedom / len(part) / len(parts) ** 2
        return total

    def resampled(self, rng: np.random.Generator, images: int, count: int) -> Reals:
        """``count`` times the weights of images drawn with replacement, within classes where these count alike: (count, images)."""
        if self.groups is not None:
            units = len(np.unique(self.groups))
            times = rng.multinomial(units, np.full(units, 1 / units), size=count)[:, self._places]
            return self._normed(times * self.weights(images))
        if self.classes is None:
            return rng.multinomial(images, np.full(images, 1 / images), size=count) / images
        drawn = np.zeros((count, images))
        for part in self._parts:
            size = len(part)
            drawn[:, part] = rng.multinomial(size, np.full(size, 1 / size), size=count) / size
        return drawn / len(self._parts)

    # -- images in groups: a group is what is drawn anew

    @property
    def _places(self) -> NDArray[np.intp]:
        """Each image's group, counted from 0."""
        assert self.groups is not None
        _, places = np.unique(self.groups, return_inverse=True)
        return np.asarray(places, dtype=np.intp)

    def _sums(self, table: NDArray[Any]) -> Reals:
        """Of the rows of ``table``, over each group: (rows, groups)."""
        places = self._places
        order, ends = np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))[:-1]
        return np.asarray(np.add.reduceat(table[:, order], np.r_[0, ends], axis=1), dtype=np.float64)

    def _strata(self, images: int) -> list[NDArray[np.intp]]:
        return [np.arange(images)] if self.classes is None else self._parts

    def _deviations(self, table: NDArray[Any]) -> Reals:
        """What each group adds to a row's deviation from its mean, within classes, (rows, groups): the variance of the mean is the sum
        of their squares. A class in one group alone is held against the mean of all images."""
        apart, places = np.empty(table.shape), self._places
        for part in self._strata(table.shape[1]):
            units = len(np.unique(places[part]))
            centre = table[:, part].mean(axis=1) if units > 1 else table.mean(axis=1)
            scale = (units / (units - 1)) ** 0.5 if units > 1 else 1.0
            apart[:, part] = (table[:, part] - centre[:, None]) * scale
        return self._sums(apart * self.weights(table.shape[1]))

    def _group_terms(self, row: Reals) -> list[tuple[float, int]]:
        squares, places = self._deviations(row[None, :])[0] ** 2, self._places
        inside = [np.unique(places[part]) for part in self._strata(len(row))]
        if sum(map(len, inside)) > len(squares):  # groups of several classes: one term for all
            return [(float(squares.sum()), max(1, len(squares) - len(inside)))]
        return [(float(squares[own].sum()), max(1, len(own) - 1)) for own in inside]

    def _normed(self, weights: Reals) -> Reals:
        """Rows of weights that sum to 1, each class to its share; a class that was not drawn keeps its usual weights."""
        usual, parts = self.weights(weights.shape[1]), self._strata(weights.shape[1])
        for part in parts:
            total = weights[:, part].sum(axis=1, keepdims=True)
            drawn = np.divide(weights[:, part], total, out=np.zeros_like(weights[:, part]), where=total > 0)
            weights[:, part] = np.where(total > 0, drawn / len(parts), usual[part])
        return weights


ALIKE = Sampling()
"""Every image counts alike."""
