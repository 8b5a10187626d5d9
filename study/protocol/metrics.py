"""What a net is judged by: from what it says of every test image to scores, their weights, and words for them.

Needs only numpy.
"""

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating]
FLOOR = 1e-7
"""Least probability that a net may give: one image that it is sure about, and wrong, costs it at most 16.1 nats."""


def log_probabilities(probabilities: Reals) -> NDArray[np.float32]:
    """As they are stored and scored: natural logarithms, float32, of probabilities of at least ``FLOOR``."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), FLOOR, 1.0)
    return np.log(clipped).astype(np.float32)
