"""Two nets on the same images (Q1): the edges of the interval. Agreement with references: test_method.py."""

import numpy as np
import pytest
from support.simulate import nets

from analysis.statistics.intervals import Refused
from analysis.statistics.mcnemar import paired, tango


def test_tango_is_whole_on_every_small_table() -> None:
    for images in (1, 2, 3, 8):
        for n10 in range(images + 1):
            for n01 in range(images + 1 - n10):
                low, high = tango(n10, n01, images)
                assert -1 <= low <= (n10 - n01) / images <= high <= 1
                assert high - low > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("q10", "q01", "images"), [(0.03, 0.03, 1000), (0.01, 0.002, 500), (0.0, 0.02, 360)])
def test_tango_covers_on_new_images(q10: float, q01: float, images: int) -> None:
    drawn = np.random.default_rng(1).multinomial(images, [q10, q01, 1 - q10 - q01], 2000)
    found = [tango(int(a), int(b), images) for a, b, _ in drawn]
    assert np.mean([low <= q10 - q01 <= high for low, high in found]) == pytest.approx(0.95, abs=0.02)


def test_other_images_are_refused() -> None:
    first, second = nets(3, 4, 20)
    for a, b in ((first, second[:-1]), (first[:0], second[:0]), (first[None], second[None])):
        with pytest.raises(Refused, match="same images"):
            paired(a, b)
    with pytest.raises(Refused, match="cannot be"):
        tango(6, 5, 10)
