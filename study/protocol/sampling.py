"""How test images stand for all images of their kind: each counts alike, or each class counts alike.

The variance of a mean of per-image scores follows from it: where each class counts alike, images are drawn anew within
their class, and the variance is stratified (METHOD.md 10). Needs only numpy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sampling:
    """``classes``: each image's, where each class counts alike; None where each image does. Values lie in the last axis."""

    classes: NDArray[np.integer] | None = None

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

    def repeated(self, table: NDArray[Any]) -> float:
        """Of the variance of the rows' means of ``table`` (runs, images), the part v_c / n_c that new images take away.

        With v_c the variance over runs of the mean of class c beyond ``chance``, unbiased: what the rows' variance lacks of
        that over endless images (Jordan 2023, arXiv 2304.01910, appendix, by classes).
        """
        parts = [np.arange(table.shape[1])] if self.classes is None else self._parts
        total = 0.0
        for part in parts:
            own, images = table[:, part], len(part)
            if images > 1:
                seen = float(own.mean(axis=1).var(ddof=1)) - float(own.var(axis=0, ddof=1).mean()) / images
                total += images / (images - 1) * seen / images / len(parts) ** 2
        return total

    def interaction(self, table: NDArray[Any]) -> float:
        """Of ``table`` (rows, images), the variance of a row's mean that its own luck on the images makes: MSE / n, where MSE
        is the mean square of the interaction in a two-way layout without replication, within classes."""
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
        if self.classes is None:
            return rng.multinomial(images, np.full(images, 1 / images), size=count) / images
        drawn = np.zeros((count, images))
        for part in self._parts:
            size = len(part)
            drawn[:, part] = rng.multinomial(size, np.full(size, 1 / size), size=count) / size
        return drawn / len(self._parts)


ALIKE = Sampling()
"""Every image counts alike."""
