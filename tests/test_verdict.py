"""The verdict's promises, by the names that the protocol (method.md 5) gives them.

Simulations are seeded and use the latent-logit model of ``synthetic``: 10,000 images, nets near 93 %.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from synthetic import right_wrong

from analysis.estimate import (
    Correct,
    Refused,
    crossed,
    half_width,
    mean_accuracy,
    noise,
    permutation_p,
    rope_probabilities,
    welch,
)
from analysis.verdict import Runs, Verdict, headline, judge, judge_all

SIMULATIONS = 1000
ROPE = 0.005


def pair(
    seed: int, *, runs: int = 5, gap: float = 0.0, images: int = 10_000, run_sd: float = 0.001
) -> tuple[Correct, Correct]:
    rng = np.random.default_rng(seed)
    first, second = right_wrong(
        rng, runs=(runs, runs), accuracies=(0.93, 0.93 - gap), images=images, run_sd=run_sd
    )
    return first, second


def arm(name: str, correct: Correct, cost: float = 100.0) -> Runs:
    return Runs(arm=name, correct=correct, full_run=cost)


def table(means: list[float], images: int = 10_000, seed: int = 0) -> Correct:
    """Runs with exactly these accuracies, right on images of their own drawing."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(np.arange(images) < round(m * images)) for m in means])


def words(*, runs: int, gap: float, images: int = 10_000, simulations: int = 400) -> list[str]:
    rng = np.random.default_rng(runs)
    found = []
    for _ in range(simulations):
        a, b = right_wrong(
            rng, runs=(runs, runs), accuracies=(0.93, 0.93 - gap), images=images, run_sd=0.0005
        )
        verdict = judge(arm("a", a), arm("b", b), rope=ROPE)
        found.append(verdict.word + (f": {verdict.ahead}" if verdict.ahead else ""))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("run_sd", [0.0, 0.001, 0.003])
def test_cov_1_crossed_interval_covers(runs: int, run_sd: float) -> None:
    rng = np.random.default_rng(runs)
    covered = 0
    for _ in range(SIMULATIONS):
        a, b = right_wrong(rng, runs=(runs, runs), accuracies=(0.93, 0.925), images=10_000, run_sd=run_sd)
        found = crossed(a, b)
        covered += found.low <= 0.005 <= found.high
    assert 0.93 <= covered / SIMULATIONS <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "images", "accuracy"), [((3, 8), 10_000, 0.93), ((5, 5), 360, 0.97)])
def test_cov_1_holds_for_unequal_runs_and_few_images(
    runs: tuple[int, int], images: int, accuracy: float
) -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(SIMULATIONS):
        a, b = right_wrong(
            rng, runs=runs, accuracies=(accuracy, accuracy - 0.01), images=images, run_sd=0.002
        )
        found = crossed(a, b)
        covered += found.low <= 0.01 <= found.high
    assert covered / SIMULATIONS >= 0.93


def test_cov_2_welch_on_ten_runs_misses_new_images() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        a, b = right_wrong(rng, runs=(10, 10), accuracies=(0.93, 0.925), images=10_000, run_sd=0.0)
        found = welch(a.mean(axis=1), b.mean(axis=1))
        covered += found.low <= 0.005 <= found.high
    assert covered / 300 < 0.9  # hence its label "this test set only"


@pytest.mark.slow
def test_aa_1_same_arm_is_told_apart_in_5_percent() -> None:
    rng = np.random.default_rng(3)
    apart = 0
    for _ in range(2000):
        a, b = right_wrong(rng, runs=(5, 5), accuracies=(0.93, 0.93), images=10_000, run_sd=0.001)
        found = crossed(a, b)
        apart += found.low > 0 or found.high < 0
    assert 0.03 <= apart / 2000 <= 0.07


@pytest.mark.slow
def test_pow_1_a_gap_of_one_point_is_seen() -> None:
    found = words(runs=5, gap=0.01)
    assert sum(w.startswith("better") and w.endswith(": a") for w in found) / len(found) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "images", "low", "high"), [(5, 10_000, 0.55, 0.80), (3, 10_000, 0.10, 0.40), (5, 2000, 0, 0.02)]
)
def test_pow_3_ties_are_proved_as_often_as_stated(runs: int, images: int, low: float, high: float) -> None:
    found = words(runs=runs, gap=0, images=images)
    assert low <= found.count("practical tie") / len(found) <= high


def test_ref_1_crossed_agrees_with_the_formula_written_out() -> None:
    a, b = right_wrong(np.random.default_rng(4), runs=(3, 4), accuracies=(0.9, 0.88), images=300, run_sd=0.02)
    n, runs, s2 = 300, [], []
    for x in (a, b):
        k = len(x)
        accuracies = [sum(map(int, row)) / n for row in x]
        s2.append(sum((v - sum(accuracies) / k) ** 2 for v in accuracies) / (k - 1))
        w = sum(
            sum((int(x[s, i]) - sum(map(int, x[:, i])) / k) ** 2 for s in range(k)) / (k - 1)
            for i in range(n)
        )
        runs.append(n / (n - 1) * (s2[-1] - w / n / n) / k)
    d = [sum(map(int, a[:, i])) / 3 - sum(map(int, b[:, i])) / 4 for i in range(n)]
    mean = sum(d) / n
    image = sum((v - mean) ** 2 for v in d) / (n - 1) / n
    variance = image + max(0.0, sum(runs))
    df = variance**2 / (image**2 / (n - 1) + (s2[0] / 3) ** 2 / 2 + (s2[1] / 4) ** 2 / 3)
    found = crossed(a, b)
    half = stats.t.ppf(0.975, df) * math.sqrt(variance)
    assert sum(runs) > 0
    assert (found.delta, found.df) == pytest.approx((mean, df))
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half))


def test_ref_1_welch_and_permutation_agree_with_scipy() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.93, 0.002, 5), rng.normal(0.927, 0.003, 4)
    found, theirs = welch(a, b), stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    centred = (1000 * (a - 0.93), 1000 * (b - 0.93))  # scipy loses the split at hand to rounding otherwise
    exact = stats.permutation_test(
        centred, lambda x, y: abs(np.mean(x) - np.mean(y)), alternative="greater", n_resamples=10**6
    )
    assert permutation_p(a, b) == pytest.approx(float(exact.pvalue), abs=1e-6)


def test_ref_1_v_is_unbiased_for_the_run_variance() -> None:
    rng = np.random.default_rng(6)
    found = [
        noise(right_wrong(rng, runs=(5,), accuracies=(0.93,), images=10_000, run_sd=0.003)[0]).run
        for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(0.003**2, rel=0.15)


def test_inv_1_swapping_the_arms_negates_everything() -> None:
    a, b = pair(7, gap=0.004)
    one = judge(arm("a", a), arm("b", b), rope=ROPE)
    other = judge(arm("b", b), arm("a", a), rope=ROPE)
    assert (other.delta, other.low, other.high) == pytest.approx((-one.delta, -one.high, -one.low))
    assert (other.p_first, other.p_tie, other.p_second) == pytest.approx(
        (one.p_second, one.p_tie, one.p_first)
    )
    assert (other.word, other.ahead, other.sentence) == (one.word, one.ahead, one.sentence)
    assert other.permutation_p == one.permutation_p


def test_inv_2_the_order_of_images_and_runs_does_not_matter() -> None:
    a, b = pair(8, images=500)
    rng = np.random.default_rng(0)
    images = rng.permutation(500)
    one, other = crossed(a, b), crossed(a[rng.permutation(5)][:, images], b[::-1][:, images])
    assert (other.delta, other.low, other.high) == pytest.approx((one.delta, one.low, one.high))


def test_inv_3_identical_predictions_are_no_difference_of_any_size_and_no_crash() -> None:
    same = np.repeat(table([0.93]), 3, axis=0)
    found = judge(arm("a", same), arm("b", same.copy()), rope=ROPE)
    assert (found.delta, found.permutation_p, found.word) == (0.0, 1.0, "practical tie")
    assert found.p_tie == pytest.approx(1.0)
    assert all(math.isfinite(v) for v in (found.low, found.high, found.df))


def test_inv_3_few_perfect_images_prove_no_tie() -> None:
    perfect = np.ones((3, 100), dtype=np.bool_)
    assert judge(arm("a", perfect), arm("b", perfect), rope=ROPE).word == "inconclusive"


def test_inv_4_one_run_is_refused() -> None:
    a, b = pair(9, runs=5)
    for first, second in ((a[:1], b), (a, b[:1])):
        with pytest.raises(Refused, match="at least two"):
            judge(arm("a", first), arm("b", second), rope=ROPE)
    with pytest.raises(Refused, match="at least two"):
        mean_accuracy(a[:1])
    with pytest.raises(Refused, match="different images"):
        crossed(a, b[:, :-1])


def test_inv_5_a_diverged_run_stays_in() -> None:
    a, b = pair(10, gap=0.01)
    guess = np.arange(10_000) % 10 == 0
    broken = np.vstack([a[:4], guess])
    whole, found = judge(arm("a", a), arm("b", b), rope=ROPE), judge(arm("a", broken), arm("b", b), rope=ROPE)
    assert whole.word.startswith("better")
    assert found.k_first == 5
    assert found.mean_first == pytest.approx((a[:4].mean() * 4 + 0.1) / 5)
    assert found.word == "inconclusive"


@pytest.mark.parametrize(
    ("delta", "half", "word", "ahead"),
    [
        (0.012, 0.004, "better", "a"),
        (0.006, 0.004, "better, size unclear", "a"),
        (0.002, 0.004, "inconclusive", None),
        (0.0005, 0.004, "practical tie", None),
        (0.0045, 0.004, "better, size unclear", "a"),
        (0.0, 0.012, "inconclusive", None),
    ],
)
def test_the_four_words_in_both_directions(delta: float, half: float, word: str, ahead: str | None) -> None:
    """Discordant images are laid out so that the interval is delta +- half, up to a percent."""
    images = 10_000
    discordant = round(images * ((half / 1.96) ** 2 * images + delta**2))
    wins = round((discordant + delta * images) / 2)
    a = np.zeros((2, images), dtype=np.bool_)
    b = a.copy()
    a[:, :wins] = True
    b[:, wins:discordant] = True
    a[:, discordant : images // 2] = b[:, discordant : images // 2] = True
    found = judge(arm("a", a), arm("b", b), rope=ROPE)
    assert found.high - found.delta == pytest.approx(half, rel=0.05)
    assert (found.word, found.ahead) == (word, ahead)
    assert judge(arm("b", b), arm("a", a), rope=ROPE).word == word


def test_a_small_sure_lead_within_the_margin_is_a_tie_that_says_who_leads() -> None:
    same = table([0.9, 0.9])
    ahead = same.copy()
    ahead[:, np.flatnonzero(~same.any(axis=0))[:20]] = True
    found = judge(arm("a", ahead, cost=100), arm("b", same, cost=80), rope=ROPE)
    assert found.word == "practical tie"
    assert "a ahead by less than that" in found.sentence
    assert (found.cheaper, found.advice) == ("b", "Take b: its full run costs 20 % less.")


def test_probabilities_sum_to_one_and_agree_with_the_interval() -> None:
    found = crossed(*pair(11, gap=0.004))
    below, tie, above = rope_probabilities(found, ROPE)
    assert below + tie + above == pytest.approx(1)
    at_low = rope_probabilities(replace(found, delta=found.delta - found.low), 0.0)
    assert at_low[0] == pytest.approx(0.025)


def test_inconclusive_says_what_would_decide() -> None:
    a, b = pair(12, runs=3, gap=0.002, run_sd=0.003)
    found = judge(arm("a", a), arm("b", b), rope=ROPE)
    assert found.word == "inconclusive"
    assert found.more_runs is not None
    assert f"About {found.more_runs} more confirmation run" in found.advice
    target = max(abs(found.delta), ROPE - abs(found.delta))
    assert half_width(a, b, runs=3 + found.more_runs) < target <= half_width(a, b, runs=2 + found.more_runs)


def test_inconclusive_says_when_the_images_are_too_few() -> None:
    a, b = pair(14, images=300)
    found = judge(arm("a", a), arm("b", b), rope=ROPE)
    assert (found.word, found.more_runs) == ("inconclusive", None)
    assert found.images_needed is not None
    assert found.images_needed > 300
    assert "cannot be decided by more runs with this test set" in found.advice


def test_half_width_at_hand_is_the_interval_of_the_verdict() -> None:
    a, b = pair(14, run_sd=0.003)
    found = crossed(a, b)
    assert half_width(a, b, runs=5) == pytest.approx(found.high - found.delta, rel=1e-6)
    assert half_width(a, b, runs=50) < half_width(a, b, runs=5)


def test_permutation_p_is_exact_small_and_sampled_large() -> None:
    assert permutation_p(np.array([0.9, 0.91, 0.92]), np.array([0.8, 0.81, 0.82])) == pytest.approx(0.1)
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 12), rng.normal(0.9, 1, 12)  # 2.7 million splits
    assert permutation_p(a, b) == permutation_p(a, b)
    assert permutation_p(a, b) == pytest.approx(float(stats.ttest_ind(a, b).pvalue), abs=0.02)


def test_more_than_two_arms_share_their_95_percent() -> None:
    tables = right_wrong(
        np.random.default_rng(15), runs=(5, 5, 5), accuracies=(0.90, 0.93, 0.92), images=10_000, run_sd=0.001
    )
    found = judge_all([arm(n, t) for n, t in zip("abc", tables, strict=True)], rope=ROPE)
    assert [(v.first, v.second) for v in found] == [("b", "a"), ("b", "c"), ("a", "c")]
    assert all(v.confidence == pytest.approx(1 - 0.05 / 3) for v in found)
    assert all("simultaneous 95 % over 3 pairs" in v.sentence for v in found)
    alone = crossed(tables[1], tables[0])
    assert found[0].low < alone.low
    told = headline(found)
    assert told.startswith("b has the highest mean accuracy of 3 arms")
    assert "over 3 pairs" in told


def test_hon_1_wording_claims_no_more_than_it_knows() -> None:
    verdicts: list[Verdict] = []
    for seed, gap, runs in itertools.product(range(3), (0.0, 0.003, 0.02), (3, 5)):
        a, b = pair(seed, runs=runs, gap=gap)
        verdicts.append(judge(arm("a", a), arm("b", b), rope=ROPE))
    assert {v.word.split(",")[0] for v in verdicts} == {"better", "practical tie", "inconclusive"}
    for v in verdicts:
        told = f"{v.sentence} {v.advice} {v.scope}".lower()
        assert "signific" not in told
        assert "no difference" not in told
        assert "settings found by one search per arm" in v.scope
        assert "95 %" in v.sentence
