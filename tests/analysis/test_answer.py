"""The headline over pairs of searches: its interval, its words, its guard. Through the whole procedure: bench/aa.py."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis import answer
from analysis.answer import Answer, Finds
from analysis.luck import Luck, pairs_needed, sd_interval
from analysis.runs import Runs
from analysis.statistics.intervals import Refused
from analysis.verdict import judge
from study.protocol import levels
from study.protocol.levels import Level

ROPE = 0.005
ALONE = levels.of()


def finds(
    arm: str, means: list[float], *, images: int = 2000, runs: int = 2, seed: int = 0, beat: int | None = 5
) -> Finds:
    """One find per pair, with exactly these accuracies."""
    rng = np.random.default_rng([seed, *arm.encode()])
    return Finds(
        arm=arm,
        runs={
            pair: Runs(
                arm=arm,
                correct=np.stack(
                    [rng.permutation(np.arange(images) < round(m * images)) for _ in range(runs)]
                ),
                full_run=100.0,
            )
            for pair, m in enumerate(means)
        },
        beat=beat,
    )


def said(a: list[float], b: list[float], *, level: Level = ALONE, **more: Any) -> Answer:
    return answer.judge(
        finds("alpha", a), finds("beta", b), rope=ROPE, level=level, search="1.2 gpu-hours", **more
    )


def tables(
    rng: np.random.Generator,
    *,
    pairs: int,
    images: int,
    luck: float,
    lasting: float,
    each: float,
    gap: float = 0.0,
) -> NDArray[np.float64]:
    """Per-image differences of every pair from three sds: search luck, lasting per image, one pair's on one image."""
    return (
        gap
        + luck * rng.standard_normal((pairs, 1))
        + lasting * rng.standard_normal(images)
        + each * rng.standard_normal((pairs, images))
    )


@pytest.mark.parametrize("pairs", [3, 4, 6, 8])
@pytest.mark.parametrize(
    ("luck", "lasting", "each"), [(0.01, 0.02, 0.2), (0.0, 0.1, 0.3), (0.003, 0.02, 0.3)]
)
def test_the_interval_covers_for_new_searches_and_new_images(
    pairs: int, luck: float, lasting: float, each: float
) -> None:
    rng = np.random.default_rng(pairs)
    covered = 0
    for _ in range(1500):
        table = tables(rng, pairs=pairs, images=300, luck=luck, lasting=lasting, each=each, gap=0.01)
        found, _ = answer._over(table, 0.95)
        covered += found.low <= 0.01 <= found.high
    assert covered / 1500 >= 0.935


def test_without_lasting_differences_it_is_the_t_interval_over_pairs() -> None:
    a, b = finds("alpha", [0.93, 0.92, 0.95, 0.94]), finds("beta", [0.90, 0.91, 0.90, 0.915])
    found, luck = answer.over_pairs(a.runs, b.runs)
    d = np.array([0.03, 0.01, 0.05, 0.025])
    assert luck.differences == pytest.approx(d)
    assert found.delta == pytest.approx(d.mean())
    assert luck.sd == pytest.approx(d.std(ddof=1))
    assert found.df == 3
    plain = replace(luck, lasting=0.0)
    assert plain.variance(4) == pytest.approx(d.var(ddof=1) / 4)
    assert found.high - found.delta == pytest.approx(3.182 * np.sqrt(luck.variance(4)), rel=1e-3)


def test_swapping_the_arms_negates_everything_and_keeps_the_sentence() -> None:
    one = said([0.93, 0.92, 0.95, 0.94], [0.90, 0.91, 0.90, 0.915])
    other = answer.judge(
        finds("beta", [0.90, 0.91, 0.90, 0.915]),
        finds("alpha", [0.93, 0.92, 0.95, 0.94]),
        rope=ROPE,
        level=ALONE,
        search="1.2 gpu-hours",
    )
    assert one.delta == pytest.approx(-(other.delta or 0))
    assert (one.word, one.ahead, one.sentence) == (other.word, other.ahead, other.sentence)
    assert one.differences == pytest.approx([-d for d in other.differences])


def test_pairs_that_agree_by_chance_are_not_surer_than_their_images() -> None:
    found = said([0.93] * 3, [0.90] * 3)
    assert found.luck_sd is not None
    assert found.luck_sd > 0.005  # two nets of 93 and 90 % that err independently on 2,000 images


def test_identical_finds_claim_no_certainty() -> None:
    a = finds("alpha", [0.9] * 4)
    same = Finds(arm="beta", runs=a.runs, beat=5)
    found = answer.judge(a, same, rope=ROPE, level=ALONE, search="1 cpu-minute")
    found = answer.advised(found, a, same, lambda _: pytest.fail("a tie needs no forecast"))
    assert found.word == "practical tie"
    assert found.advice == "Their full runs cost the same: take either."
    assert found.se is not None
    assert found.se > 0


@pytest.mark.parametrize(
    ("gap", "word", "says"),
    [
        (
            0.06,
            "better",
            "alpha is better than beta when each is tuned with a search of 1.2 gpu-hours: by 6.00 pt",
        ),
        (0.012, "better, size unclear", "whether that is more than the 0.50 pt you said matters is open"),
        (
            0.004,
            "open",
            "Which architecture is better is open: when each is tuned with a search of 1.2 gpu-hours",
        ),
    ],
)
def test_the_sentences(gap: float, word: str, says: str) -> None:
    base = [0.90, 0.905, 0.895, 0.90]
    found = said([b + gap + e for b, e in zip(base, (0.004, -0.004, 0.006, -0.006), strict=True)], base)
    assert found.word == word
    assert says in found.sentence
    assert "4 pairs of searches" in found.sentence
    assert "95 %" in found.sentence
    assert found.ahead == ("alpha" if word.startswith("better") else None)


@pytest.mark.parametrize(
    ("gap", "asked"), [(0.06, []), (0.012, [True]), (0.004, [False])], ids=["better", "size unclear", "open"]
)
def test_a_forecast_is_made_where_the_answer_needs_one(gap: float, asked: list[bool]) -> None:
    base, made = [0.90, 0.905, 0.895, 0.90], list[bool]()
    a = finds("alpha", [b + gap + e for b, e in zip(base, (0.004, -0.004, 0.006, -0.006), strict=True)])
    b = finds("beta", base)

    def outlook(ahead: bool) -> str:
        made.append(ahead)
        return "more"

    found = answer.judge(a, b, rope=ROPE, level=ALONE, search="1.2 gpu-hours")
    assert answer.advised(found, a, b, outlook).advice == ("more" if asked else "")
    assert made == asked


def test_an_open_answer_is_about_the_two_nets_and_names_no_architecture() -> None:
    one, two = finds("alpha", [0.95] * 2, runs=5).runs[0], finds("beta", [0.90] * 2, runs=5).runs[0]
    nets = judge(one, two, rope=ROPE)
    found = said([0.93, 0.90, 0.95, 0.91], [0.92, 0.91, 0.93, 0.92], nets=nets)
    assert found.word == "open"
    assert found.ahead is None
    assert "Of the two nets tuned here, alpha's is better than beta's by" in found.sentence
    assert "alpha is better" not in found.sentence


def test_the_guard_claims_nothing_about_tuned_architectures() -> None:
    a, b = finds("alpha", [0.96] * 4, beat=1), finds("beta", [0.90] * 4)
    found = answer.judge(a, b, rope=ROPE, level=ALONE, search="1 cpu-minute")
    assert found.word == "nothing claimed"
    assert found.ahead is None
    assert found.sentence.startswith(
        "The search hardly beat the default; nothing is claimed about tuned architectures."
    )
    assert "only one setting of alpha beat its default; at least two of each must." in found.sentence
    assert found.delta == pytest.approx(0.06)


@pytest.mark.parametrize(("pairs", "says"), [(1, "One search per arm says"), (2, "2 searches per arm say")])
def test_too_few_pairs_answer_for_no_architecture(pairs: int, says: str) -> None:
    found = said([0.95] * pairs, [0.90] * pairs)
    assert found.word == "nothing claimed"
    assert found.sentence.startswith(says)
    assert found.low is None
    with pytest.raises(Refused, match="cannot show how searches differ"):
        answer.over_pairs(finds("a", [0.9]).runs, finds("b", [0.9]).runs)


def test_copies_and_untrained_nets_weaken_the_verdict() -> None:
    a, b = [0.93, 0.925, 0.935, 0.93], [0.90, 0.905, 0.895, 0.90]
    assert said(a, b).ahead == "alpha"
    doubted = said(a, b, copies=200)
    assert doubted.word == "open"
    assert "200 of the 2000 test images are training images too" in doubted.sentence
    assert doubted.p_first is None
    idle = said([0.1, 0.11, 0.10, 0.09], [0.10, 0.09, 0.1, 0.1], guessing=0.1)
    assert idle.word == "open"
    assert "Neither of them is shown to be above guessing" in idle.sentence


def test_a_stricter_level_is_stated_and_widens_the_interval() -> None:
    a, b = [0.93, 0.925, 0.935, 0.94], [0.90, 0.905, 0.895, 0.90]
    wide = said(a, b, level=levels.of(look=2, first=3, now=4), look=2)
    assert "(94 % over both looks: " in wide.sentence
    assert wide.held == "94 % over both looks"
    assert wide.low is not None
    assert wide.low < (said(a, b).low or 0)


def test_several_comparisons_get_holm_adjusted_p_values() -> None:
    one = said([0.93, 0.925, 0.935, 0.94], [0.90, 0.905, 0.895, 0.90])
    two = said([0.93, 0.925, 0.935, 0.94], [0.93, 0.935, 0.925, 0.93])
    adjusted = answer.with_holm([one, two])
    assert adjusted[0].holm_p == pytest.approx(2 * (one.p or 0))
    assert adjusted[1].holm_p == pytest.approx(max(2 * (one.p or 0), two.p or 0))
    assert answer.with_holm([one]) == [one]


def test_the_stated_number_of_pairs_resolves_the_gap() -> None:
    luck = Luck(differences=(), sd=0.01, lasting=0.0, images=1000)
    needed = pairs_needed(luck, 0.012, lambda _: 0.05)
    assert needed is not None
    rng = np.random.default_rng(3)
    d = 0.012 + 0.01 * rng.standard_normal((4000, needed))
    t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / np.sqrt(needed))
    power = float((t > stats.t.isf(0.025, needed - 1)).mean())
    assert power == pytest.approx(0.8, abs=0.06)
    assert pairs_needed(Luck(differences=(), sd=0.01, lasting=0.1, images=300), 0.012, lambda _: 0.05) is None


def test_the_sd_from_few_pairs_has_a_wide_interval() -> None:
    low, high = sd_interval(0.01, 4)
    assert low == pytest.approx(0.01 * np.sqrt(3 / 6.251), rel=1e-3)
    assert high == pytest.approx(0.01 * np.sqrt(3 / 0.584), rel=1e-3)
