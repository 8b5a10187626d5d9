"""The verdict's words and advice. Its statistics: test_method.py."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support.simulate import arm, pair, table
from support.synthetic import right_wrong

from analysis.more_runs import takes
from analysis.statistics.intervals import (
    crossed,
    forecast,
    permutation_p,
    rope_probabilities,
)
from analysis.verdict import judge, of_nets
from study.protocol import levels
from study.protocol.allocation import CONFIRM_CEILING

ROPE = 0.005


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
    """The discordant images give the interval delta +- half, up to a percent."""
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


def test_inconclusive_advises_how_to_decide() -> None:
    a, b = pair(12, runs=3, gap=0.002, run_sd=0.003)
    found = judge(arm("a", a), arm("b", b), rope=ROPE)
    assert found.word == "inconclusive"
    assert found.more_runs is not None
    assert "for a true gap of the margin, 0.50 pt: about" in found.advice
    assert "measured" not in found.advice, "the measured difference is no size to plan for"
    enough, fewer = (
        forecast(a, b).half_width(runs=have + found.more_runs, power=0.8) for have in (len(a), len(a) - 1)
    )
    assert enough < ROPE <= fewer


@pytest.mark.slow
def test_the_stated_runs_decide_four_of_five_studies() -> None:
    a, b = pair(16, runs=40, gap=0.01, run_sd=0.005)
    enough = next(k for k in range(2, 40) if forecast(a, b).half_width(runs=k, power=0.8) < 0.01)
    seen = 0
    for seed in range(300):
        seen += crossed(*pair(seed, runs=enough, gap=0.01, run_sd=0.005)).low > 0
    assert seen / 300 == pytest.approx(0.8, abs=0.08)


def test_inconclusive_says_when_the_images_are_too_few() -> None:
    a, b = pair(14, images=300)
    found = judge(arm("a", a), arm("b", b), rope=ROPE)
    assert (found.word, found.more_runs) == ("inconclusive", None)
    assert found.images_needed is not None
    assert found.images_needed > 300
    assert "no number of runs on this test set would do; with 20 runs per arm, about" in found.advice


def test_the_stated_images_decide_four_of_five_studies() -> None:
    gap, (a, b) = 0.02, pair(17, runs=10, gap=0.02, images=300)
    _, images = takes(arm("a", a), arm("b", b), crossed(a, b), gap, 0.8)
    assert images is not None
    seen, short = (
        np.mean([crossed(*pair(seed, runs=k, gap=gap, images=images)).low > 0 for seed in range(300)])
        for k in (CONFIRM_CEILING, 5)
    )
    assert seen == pytest.approx(0.8, abs=0.07)
    assert short < 0.7


def test_too_many_runs_are_replaced_by_images_in_the_advice() -> None:
    a, b = pair(12, runs=3, gap=0.002, run_sd=0.006)
    found = judge(arm("a", a), arm("b", b), rope=ROPE)
    assert found.more_runs is not None
    assert 3 + found.more_runs > CONFIRM_CEILING
    assert "runs per arm would do; with 20 runs per arm" in found.advice


def test_the_sentence_of_nets_names_no_architecture() -> None:
    said = set()
    for gap in (0.0, 0.006, 0.03):
        a, b = pair(12, runs=4, gap=gap, run_sd=0.0005)
        for rope in (0.003, 0.02):
            sentence = of_nets(judge(arm("a", a), arm("b", b), rope=rope))
            assert "a is better" not in sentence
            assert "two nets tuned here" in sentence
            assert "95 % interval" in sentence
            said.add(sentence.split(" by ")[0])
    assert len(said) >= 3


def test_half_width_is_that_of_the_verdicts_interval() -> None:
    a, b = pair(14, run_sd=0.003)
    found = crossed(a, b)
    assert forecast(a, b).half_width(runs=5) == pytest.approx(found.high - found.delta, rel=1e-6)
    assert forecast(a, b).half_width(runs=50) < forecast(a, b).half_width(runs=5)


def test_permutation_p_is_exact_small_and_sampled_large() -> None:
    assert permutation_p(np.array([0.9, 0.91, 0.92]), np.array([0.8, 0.81, 0.82])) == pytest.approx(0.1)
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 12), rng.normal(0.9, 1, 12)  # 2.7 million splits
    assert permutation_p(a, b) == permutation_p(a, b)
    assert permutation_p(a, b) == pytest.approx(float(stats.ttest_ind(a, b).pvalue), abs=0.02)


def test_more_than_two_arms_share_their_95_percent() -> None:
    a, b, _ = right_wrong(
        np.random.default_rng(15), runs=(5, 5, 5), accuracies=(0.90, 0.93, 0.92), images=10_000, run_sd=0.001
    )
    found = judge(arm("b", b), arm("a", a), rope=ROPE, level=levels.of(couples=3))
    assert found.confidence == pytest.approx(1 - 0.05 / 3)
    assert "95 % over 3 pairs of arms: " in found.sentence
    assert found.low < crossed(b, a).low


def test_copies_widen_the_interval_behind_the_verdict() -> None:
    """A lead of 1.76 to 2.53 pt: 1.26 pt of copies leave its size open, 1.76 pt its direction too."""
    a, b = pair(1, gap=0.02)
    words = []
    for copies in (0, 120, 130, 180):
        found = judge(arm("a", a), arm("b", b), rope=ROPE, copies=copies)
        words.append(found.word)
        assert found.has_chances == (not found.doubt) == (copies <= 120)
        assert (found.low, found.high) == (crossed(a, b).low, crossed(a, b).high)
    assert words == ["better", "better", "better, size unclear", "inconclusive"]


def test_an_untrained_arm_is_named_in_every_headline() -> None:
    a, b, c = right_wrong(
        np.random.default_rng(1), runs=(5, 5, 5), accuracies=(0.1, 0.1, 0.1), images=2000, run_sd=0.001
    )
    learnt = c.copy()
    learnt[:, :60] = True  # slightly above guessing
    both = judge(arm("a", learnt), arm("b", b), rope=0.1, guessing=0.11)
    assert (both.word, both.ahead) == ("inconclusive", None)
    assert " b is not shown to be above guessing the most frequent class (11.00 %)." in both.sentence
    neither = judge(arm("a", a), arm("b", b), rope=0.1, guessing=0.11)
    assert neither.word == "inconclusive"
    assert "Neither of them is shown to be above guessing" in neither.sentence
