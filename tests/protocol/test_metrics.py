"""Scores of nets on images, against direct computation."""

import numpy as np

from study.protocol.metrics import FLOOR, log_probabilities


def test_log_probabilities_are_clipped_float32() -> None:
    found = log_probabilities(np.array([[1.0, 0.0], [0.25, 0.75]], dtype=np.float32))
    assert found.dtype == np.float32
    assert np.array_equal(found, np.log(np.array([[1, FLOOR], [0.25, 0.75]])).astype(np.float32))
