"""Whether a net's confidence is right as often as it says.

Expected calibration error: Naeini, Cooper & Hauskrecht 2015 (AAAI), with the 15 equal bins of Guo et al. 2017
(arXiv:1706.04599, section 2). It is above 0 for a perfectly calibrated net too, by chance and the more so the fewer images
there are; ``expected_by_chance`` says by how much.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
DRAWS = 200
"""Of right and wrong answers of a perfectly calibrated net."""
Reals = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Images by the confidence of the class that is named, equal widths from 0 to 1; means of an empty bin are NaN."""

    images: Reals
    confidence: Reals
    accuracy: Reals

    @property
    def error(self) -> float:
        """ECE: the mean over images of the gap between their bin's confidence and accuracy."""
        held = self.images > 0
        gaps = np.abs(self.confidence[held] - self.accuracy[held])
        return float((self.images[held] * gaps).sum() / self.images.sum())


def bins(confidence: Reals, right: NDArray[np.bool_]) -> Bins:
    """``confidence`` and ``right`` of any one shape: all runs together, or one."""
    confidence, right = confidence.ravel(), right.ravel()
    at = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    images = np.bincount(at, minlength=BINS).astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = [
            np.bincount(at, weights=x, minlength=BINS) / images
            for x in (confidence, right.astype(np.float64))
        ]
    return Bins(images=images, confidence=means[0], accuracy=means[1])


def expected_by_chance(confidence: Reals, *, seed: int = 0) -> float:
    """The mean ECE of a net that says ``confidence`` (images,) of them and is right exactly as often."""
    rng = np.random.default_rng(seed)
    return float(
        np.mean([bins(confidence, rng.random(len(confidence)) < confidence).error for _ in range(DRAWS)])
    )
