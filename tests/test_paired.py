"""Two nets on the same images (Q1), by the names that the protocol (method.md 5) gives its tests."""

import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from synthetic import right_wrong

from analysis.estimate import Refused
from analysis.paired import Row, mcnemar, paired, tango

COUNTS = [(0, 0), (1, 0), (0, 7), (1, 7), (5, 5), (6, 16), (16, 6), (30, 41), (382, 310), (700, 1)]


def nets(n10: int, n01: int, images: int) -> tuple[Row, Row]:
    place = np.arange(images)
    both = place >= n10 + n01
    return (place < n10) | both, ((place >= n10) & (place < n10 + n01)) | both


def score(d: float, n10: int, n01: int, images: int) -> float:
    """Tango's statistic, the likelihood under the null hypothesis d maximised numerically."""

    def loss(q: float) -> float:
        cells = ((n10, q + d), (n01, q), (images - n10 - n01, 1 - 2 * q - d))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    bounds = (max(0.0, -d), (1 - d) / 2)
    q = float(optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x)
    return (n10 - n01 - images * d) / math.sqrt(images * (2 * q + d * (1 - d)))


@pytest.mark.parametrize(("n10", "n01"), COUNTS)
def test_ref_1_exact_p_agrees_with_statsmodels(n10: int, n01: int) -> None:
    found = paired(*nets(n10, n01, 1000))
    theirs = their_mcnemar([[1000 - n10 - n01, n10], [n01, 0]], exact=True)
    assert (found.n10, found.n01) == (n10, n01)
    assert found.exact_p == pytest.approx(float(theirs.pvalue), abs=1e-6)


@pytest.mark.parametrize(("n10", "n01"), [c for c in COUNTS if sum(c)])
def test_ref_1_mid_p_agrees_with_its_definition(n10: int, n01: int) -> None:
    """Twice P(X < m) + P(X = m) / 2 for the smaller count m, the mean of two one-sided tails."""
    m, total = min(n10, n01), n10 + n01
    up_to = float(stats.binomtest(m, total, alternative="less").pvalue)
    below = float(stats.binomtest(m - 1, total, alternative="less").pvalue) if m else 0.0
    assert mcnemar(n10, n01)[1] == pytest.approx(up_to + below, abs=1e-6)
    assert mcnemar(n10, n01)[1] <= mcnemar(n10, n01)[0]


def test_ref_1_a_published_table_is_met() -> None:
    """Cavo 2012 in Fagerland, Lydersen, Laake, "Statistical Analysis of Contingency Tables", chapter 8."""
    found = paired(*nets(6, 16, 161))
    assert (found.exact_p, found.mid_p) == pytest.approx((0.052479, 0.034690), abs=1e-6)
    assert (found.low, found.high) == pytest.approx((-0.1240, -0.0054), abs=5e-5)


@pytest.mark.parametrize(
    ("n10", "n01", "images"),
    [(6, 16, 161), (1, 7, 21), (0, 5, 100), (50, 0, 100), (3, 3, 6), (40, 59, 100), (382, 310, 10_000)],
)
def test_ref_1_tango_solves_the_score_equation(n10: int, n01: int, images: int) -> None:
    z = float(stats.norm.ppf(0.975))
    delta = (n10 - n01) / images
    low = optimize.brentq(lambda d: score(d, n10, n01, images) - z, -1 + 1e-9, delta, xtol=1e-12)
    high = optimize.brentq(lambda d: score(d, n10, n01, images) + z, delta, 1 - 1e-9, xtol=1e-12)
    assert tango(n10, n01, images) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("n10", "n01"), [(382, 310), (40, 20), (150, 400)])
def test_ref_1_tango_agrees_with_a_paired_bootstrap(n10: int, n01: int) -> None:
    images = 10_000
    shares = np.array([n10, n01, images - n10 - n01]) / images  # images of a kind are alike: the same law
    drawn = np.random.default_rng(0).multinomial(images, shares, 400_000)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / images, [0.025, 0.975])
    assert tango(n10, n01, images) == pytest.approx((low, high), abs=0.0002)


def test_ref_1_tango_is_whole_on_every_small_table() -> None:
    for images in (1, 2, 3, 8):
        for n10 in range(images + 1):
            for n01 in range(images + 1 - n10):
                low, high = tango(n10, n01, images)
                assert -1 <= low <= (n10 - n01) / images <= high <= 1
                assert high - low > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("q10", "q01", "images"), [(0.03, 0.03, 1000), (0.01, 0.002, 500), (0.0, 0.02, 360)])
def test_cov_tango_covers_on_new_images(q10: float, q01: float, images: int) -> None:
    drawn = np.random.default_rng(1).multinomial(images, [q10, q01, 1 - q10 - q01], 2000)
    found = [tango(int(a), int(b), images) for a, b, _ in drawn]
    assert np.mean([low <= q10 - q01 <= high for low, high in found]) == pytest.approx(0.95, abs=0.02)


def test_inv_1_swapping_the_nets_negates_everything() -> None:
    one, other = paired(*nets(30, 11, 400)), paired(*nets(11, 30, 400))
    assert (other.n10, other.n01, other.delta) == (one.n01, one.n10, -one.delta)
    assert (other.low, other.high) == (-one.high, -one.low)
    assert (other.exact_p, other.mid_p) == (one.exact_p, one.mid_p)


def test_inv_2_the_order_of_images_does_not_matter() -> None:
    first, second = nets(30, 11, 400)
    order = np.random.default_rng(0).permutation(400)
    assert paired(first[order], second[order]) == paired(first, second)


def test_inv_3_identical_predictions_are_no_difference_of_any_size_and_no_crash() -> None:
    found = paired(*nets(0, 0, 1000))
    assert (found.n10, found.n01, found.delta, found.exact_p, found.mid_p) == (0, 0, 0.0, 1.0, 1.0)
    z2 = float(stats.norm.ppf(0.975)) ** 2
    assert (found.low, found.high) == pytest.approx((-z2 / (1000 + z2), z2 / (1000 + z2)))


def test_inv_3_every_image_discordant_is_no_crash() -> None:
    found = paired(*nets(1000, 0, 1000))
    assert (found.delta, found.high) == (1.0, 1.0)
    assert 0.99 < found.low < 1
    assert paired(*nets(500, 500, 1000)).mid_p == 1.0


def test_other_images_are_refused() -> None:
    first, second = nets(3, 4, 20)
    for a, b in ((first, second[:-1]), (first[:0], second[:0]), (first[None], second[None])):
        with pytest.raises(Refused, match="same images"):
            paired(a, b)
    with pytest.raises(Refused, match="cannot be"):
        tango(6, 5, 10)


@pytest.mark.parametrize(
    ("run_sd", "low", "high"), [(0.0, 0.03, 0.08), (0.001, 0.06, 0.15), (0.003, 0.32, 0.44)]
)
def test_aa_3_single_nets_of_one_arm_are_told_apart_too_often(run_sd: float, low: float, high: float) -> None:
    """McNemar keeps its 5 % only if runs do not differ: hence it never speaks for an arm.

    Two runs of one arm of the simulator disagree on 4.5 % of the images, a standard error of 0.21 pt; with
    sqrt(2) run_sd on top of it, 5, 10 and 38 % are expected.
    """
    rng = np.random.default_rng(3)
    apart = 0
    for _ in range(400):
        (both,) = right_wrong(rng, runs=(2,), accuracies=(0.93,), images=10_000, run_sd=run_sd)
        apart += paired(both[0], both[1]).mid_p < 0.05
    assert low <= apart / 400 <= high
