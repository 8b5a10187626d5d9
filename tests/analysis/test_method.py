"""Statistical tests of the whole protocol, in METHOD.md's order and under its names.

The first line of each test states the claim and its tolerance. Points (pt) are percentage points of accuracy.
Simulations are seeded. Two arms come from the latent-logit model of ``synthetic.right_wrong``: nets near 93 %
that disagree on 6.5 % of the images; a "run sd" is distribution-wise, what a run keeps on endless images. A
study without training is ``support.schedules.play``: the real schedule on synthetic curves and a simulated clock.

``pytest tests/analysis/test_method.py`` repeats a simulation 2000 times, whole verdicts and far misses (COV-2, POW-1, POW-3)
1000 times, AA-2's studies 40 times. With ``--sims 20000`` everything runs ten times as
often, with the same bounds.
The same names in other files hold a command (test_compare), the report's curves (test_insights) and a real
study with Ray (test_study) to the same claims.
"""

import ast
import dataclasses
import itertools
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from bench import aa as bench
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from support.schedules import SECONDS, a_plan, accuracy_of, all_trials, diverges, play
from support.simulate import accuracies, arm, made, nets, pair, recorded, run_accuracies, steps, table
from support.synthetic import SPACES, plan, right_wrong, verdict_json, write_run

from analysis import answer, power
from analysis.__main__ import main as analyse
from analysis.luck import Luck, half_width, images_needed, pairs_needed
from analysis.report import build
from analysis.report.section import again
from analysis.report.sections import health
from analysis.results import Evidence, read
from analysis.statistics.expected_best import (
    all_weights,
    evp_selected,
    expected_best,
    search_curve,
    slice_curve,
)
from analysis.statistics.intervals import Refused, crossed, mean_score, noise, permutation_p, welch
from analysis.statistics.mcnemar import mcnemar, paired, tango
from analysis.statistics.median_band import median_band
from analysis.statistics.superiority import holm, superiority
from analysis.verdict import Verdict, judge, of_nets
from study.__main__ import main as status_of
from study.data.prepare import prepare
from study.data.sealed import unseal
from study.protocol import levels
from study.protocol.errors import InputError
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.protocol.records import Trial
from study.protocol.selection import best_first

ROPE = 0.005
COUNTS = [(0, 0), (1, 0), (0, 7), (1, 7), (5, 5), (6, 16), (16, 6), (30, 41), (382, 310), (700, 1)]
"""Images on which only the first, only the second net is right."""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study of equal arms, three runs each, with its report."""
    run = write_run(tmp_path_factory.mktemp("study") / "run", runs=3, tuned=(0.92, 0.92))
    build.write(run)
    return run


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Plan, Ledger]]:
    """Five studies through the real schedule; some trials diverge, some run out of memory."""
    folder = tmp_path_factory.mktemp("ledgers")

    def fails(trial: Trial, epoch: int) -> str:
        if trial.config["batch_size"] == 256 and epoch == 2:
            return "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB"
        return diverges(trial, epoch)

    plans = [a_plan(minutes=20, seed=seed) for seed in range(5)]
    return [(p, play(p, folder / f"{p.seed}.jsonl", fails=fails)) for p in plans]


# ---------------------------------------------------------------------- AA: one arm under two names


@pytest.mark.slow
def test_aa_1_the_same_arm_differs_in_5_percent(sims: int) -> None:
    """AA-1: same arm, k seeds, crossed: the interval excludes 0 in 5 % +- 2."""
    rng = np.random.default_rng(3)
    apart = 0
    for _ in range(sims):
        a, b = right_wrong(rng, runs=(5, 5), accuracies=(0.93, 0.93), images=10_000, run_sd=0.001)
        found = crossed(a, b)
        apart += found.low > 0 or found.high < 0
    assert apart / sims == pytest.approx(0.05, abs=0.02)


@pytest.mark.slow
def test_aa_2_one_arm_under_two_names_keeps_the_stated_error_rate(sims: int) -> None:
    """AA-2: the whole pipeline on recorded curves, one architecture under two names, at 50 full runs per arm: the headline
    names one of them in at most 5 % (to within the simulation's error), the nets in hand far more often.

    Synthetic tables stand in where the curves are absent. All families, budgets and figures: ``python -m tests.bench.aa``.
    """
    named = nets = studies = 0
    for name, family in bench.families().items():
        if not name.startswith("recorded ") or not family.same:
            continue
        for seed in bench.seeds(name, 50, math.ceil(sims / 300)):
            study = bench.play(family, budget=50, seed=seed)
            assert len(study.finds[0]) == len(study.finds[1]) == 4
            said = bench.both_rules(study, family)
            named += said.claims and (said.new[1] > 0 or said.new[2] < 0)
            nets += said.old[1] > 0 or said.old[2] < 0
            studies += 1
    assert named <= bench.allowed(studies)
    # Two searches find unequal settings, and Q2 rightly says so; as a headline it would name a better arm.
    assert nets > bench.allowed(studies)


@pytest.mark.parametrize("pairs", [3, 4, 8])
@pytest.mark.parametrize("luck", [0.0, 0.004, 0.02])
def test_aa_2_few_pairs_and_few_images_keep_the_stated_error_rate(pairs: int, luck: float, sims: int) -> None:
    """AA-2, of the interval alone where accuracies come in steps: 360 images, two runs of each find; 0 is left out in at
    most 5 %, also where pairs tie."""
    rng, apart = np.random.default_rng(pairs), 0
    for _ in range(sims // 2):
        levels_ = tuple(np.round(np.clip(0.95 + luck * rng.standard_normal(2 * pairs), 0.5, 0.999), 4))
        tables = right_wrong(rng, runs=(2,) * 2 * pairs, accuracies=levels_, images=360, run_sd=0.002)
        first, second = (
            {p: arm(name, tables[side * pairs + p]) for p in range(pairs)} for side, name in enumerate("ab")
        )
        found, _ = answer.over_pairs(first, second)
        apart += found.low > 0 or found.high < 0
    assert apart <= bench.allowed(sims // 2)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(3, 6), (4, 8), (4, 16)])
@pytest.mark.parametrize("looks", [1, 2])
def test_look_1_two_looks_keep_their_total_error_rate(first: int, second: int, looks: int, sims: int) -> None:
    """LOOK-1: equal arms, and one is named at either look: in 5 % of studies with a declared second look,
    in 6 % of others (to within the simulation's error). Only open studies get a second look."""
    rng, wrong = np.random.default_rng(first), 0
    repeats = round(1.25 * sims)
    for _ in range(repeats):
        table = 0.01 * rng.standard_normal((second, 1)) + 0.02 * rng.standard_normal((second, 400))
        for look, pairs in ((1, first), (2, second)):
            level = levels.of(looks=looks, look=look, first=first, now=pairs)
            found, _ = answer._over(table[:pairs], level.confidence)
            if found.low > 0 or found.high < 0:
                wrong += 1
                break
    total = 0.05 if looks == 2 else 0.06
    assert wrong <= stats.binom.ppf(0.98, repeats, total)


@pytest.mark.parametrize(
    ("run_sd", "low", "high"), [(0.0, 0.03, 0.08), (0.001, 0.06, 0.15), (0.003, 0.32, 0.44)]
)
def test_aa_3_single_nets_of_one_arm_differ_too_often(
    run_sd: float, low: float, high: float, sims: int
) -> None:
    """AA-3: McNemar on two nets of one arm exceeds 5 % once runs differ by more than the images' luck.

    Two such nets disagree on 4.5 % of the images, a standard error of 0.21 pt; with sqrt(2) run sd on top of it,
    5, 10 and 38 % are expected.
    """
    rng = np.random.default_rng(3)
    apart = 0
    for _ in range(sims):
        (both,) = right_wrong(rng, runs=(2,), accuracies=(0.93,), images=10_000, run_sd=run_sd)
        apart += paired(both[0], both[1]).mid_p < 0.05
    assert low <= apart / sims <= high


def test_aa_3_the_report_does_not_sell_two_nets_as_the_answer(reported: Path) -> None:
    """AA-3, second half: McNemar appears under "Two trained nets only (Q1)"; the nets' verdict is the crossed interval,
    and the answer is the interval over pairs."""
    body = verdict_json(reported)
    (stored,), (said,), evidence = body["nets"], body["answer"], read(reported)
    whole = crossed(*(evidence.tuned[stored[side]].correct for side in ("first", "second")))
    assert (stored["low"], stored["high"]) == pytest.approx((whole.low, whole.high))
    over, _ = answer.over_pairs(*(evidence.finds[said[side]] for side in ("first", "second")))
    assert (said["low"], said["high"]) == pytest.approx((over.low, over.high))
    html = (reported / "report.html").read_text()
    assert "McNemar" not in html[: html.index("Two trained nets only (Q1)")]


# ------------------------------------------------------- COV: intervals cover what they say they cover


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("run_sd", [0.0, 0.001, 0.003])
def test_cov_1_crossed_interval_covers(runs: int, run_sd: float, sims: int) -> None:
    """COV-1: crossed coverage of new runs and new images >= .93 at k = 3, 5, 10 and run sd 0, .1, .3 pt; and not
    above .985, which would cost power."""
    rng = np.random.default_rng(runs)
    covered = 0
    for _ in range(sims):
        a, b = right_wrong(rng, runs=(runs, runs), accuracies=(0.93, 0.925), images=10_000, run_sd=run_sd)
        found = crossed(a, b)
        covered += found.low <= 0.005 <= found.high
    assert 0.93 <= covered / sims <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "images", "accuracy"), [((3, 8), 10_000, 0.93), ((5, 5), 360, 0.97)])
def test_cov_1_holds_for_unequal_runs_and_few_images(
    runs: tuple[int, int], images: int, accuracy: float, sims: int
) -> None:
    """COV-1, beyond the table: >= .93 too."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(sims):
        a, b = right_wrong(
            rng, runs=runs, accuracies=(accuracy, accuracy - 0.01), images=images, run_sd=0.002
        )
        found = crossed(a, b)
        covered += found.low <= 0.01 <= found.high
    assert covered / sims >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("run_sd", [0.0, 0.001, 0.003])
def test_cov_2_welch_on_ten_runs_misses_new_images(run_sd: float, sims: int) -> None:
    """COV-2: Welch on 10 runs undercovers new images: below .93 at each run sd."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(sims // 2):
        a, b = right_wrong(rng, runs=(10, 10), accuracies=(0.93, 0.925), images=10_000, run_sd=run_sd)
        found = welch(a.mean(axis=1), b.mean(axis=1))
        covered += found.low <= 0.005 <= found.high
    assert covered / (sims // 2) < 0.93


def test_cov_2_welch_is_labelled_this_test_set(reported: Path) -> None:
    """COV-2, second half: hence its label."""
    for name in ("report.html", "report.md"):
        assert "this test set only" in (reported / name).read_text().lower()


@pytest.mark.slow
@pytest.mark.parametrize("trials", [8, 20])
def test_cov_3_band_covers_the_whole_median_curve(trials: int, sims: int) -> None:
    """COV-3: opda's band holds the whole curve of medians, all n together, in >= 95 %."""
    rng = np.random.default_rng(3)
    true = stats.beta(8, 3).ppf(0.5 ** (1 / np.arange(1, trials + 1)))
    covered = 0
    for _ in range(sims):
        _, low, high = median_band(accuracies(rng, trials))
        covered += bool(((low <= true) & (true <= high)).all())
    assert covered / sims >= 0.95


def test_cov_3_holds_with_ties_and_says_where_it_knows_nothing() -> None:
    """COV-3: the upper end is trivial from n = 3 at N = 20 trials, and the table marks it."""
    rng = np.random.default_rng(4)
    median, low, high = median_band(np.round(accuracies(rng, 20), 1))
    assert (low <= median).all()
    assert (median <= high).all()
    table = slice_curve(accuracies(rng, 20), np.ones(20))
    assert list(table["bounded"]) == [True, True] + [False] * 18


@pytest.mark.parametrize("draws", [1, 5, 10, 20])
def test_cov_4_mean_of_the_best_is_unbiased(draws: int, sims: int) -> None:
    """COV-4: EVP by U-statistic has a mean error < 1e-3 at n <= N = 20 (the V-statistic: -.005, -.007, -.010 at
    n = 5, 10, 20)."""
    rng = np.random.default_rng(draws)
    slices = np.sort(accuracies(rng, 10 * sims, 20), axis=1)
    found = slices @ all_weights(20)[draws - 1]
    assert [expected_best(values, draws) for values in slices[:5]] == pytest.approx(list(found[:5]))
    grid = np.linspace(0, 1, 20_001)
    truth = float(np.trapezoid(1 - stats.beta(8, 3).cdf(grid) ** draws, grid))
    assert abs(found.mean() - truth) < 1e-3


def test_cov_4_no_curve_beyond_the_slice() -> None:
    """COV-4: n > N raises."""
    values = accuracies(np.random.default_rng(0), 20)
    for draws in (0, 21):
        with pytest.raises(Refused, match="20 trials"):
            expected_best(values, draws)
        with pytest.raises(Refused, match="20 trials"):
            evp_selected(values, values, draws)
    with pytest.raises(ValueError, match="diverged"):
        expected_best(np.array([0.9, math.nan]), 1)


@pytest.mark.parametrize("draws", [1, 5, 12])
@pytest.mark.parametrize("source", ["recorded", "made"])
def test_cov_5_test_of_the_chosen_trial_is_unbiased_on_a_recorded_table(
    source: str, draws: int, sims: int
) -> None:
    """COV-5: the expected TEST score of the validation-chosen trial, from 12 rows, is unbiased for the whole table
    (to within 3.5 standard errors of the simulation; a synthetic table stands in where none is recorded)."""
    val, test = recorded() if source == "recorded" else made()
    truth = evp_selected(val, test, draws)  # over every slice of the table; see the subsets of REF-1
    rng = np.random.default_rng(5)
    found = []
    for _ in range(sims):
        rows = rng.permutation(len(val))[:12]  # a row is never drawn twice
        found.append(evp_selected(val[rows], test[rows], draws))
    assert abs(np.mean(found) - truth) < 3.5 * np.std(found) / math.sqrt(sims)


# --------------------------------------------------------------------- POW: what a study can show


def words(*, runs: int, images: int, rope: float, gap: float, sims: int) -> list[str]:
    """The verdict of every simulated study, with the arm ahead; the run sd is 0.05 pt."""
    rng = np.random.default_rng(runs)
    found = []
    for _ in range(sims):
        a, b = right_wrong(
            rng, runs=(runs, runs), accuracies=(0.93, 0.93 - gap), images=images, run_sd=0.0005
        )
        verdict = judge(arm("a", a), arm("b", b), rope=rope)
        found.append(verdict.word + (f": {verdict.ahead}" if verdict.ahead else ""))
    return found


@pytest.mark.slow
def test_pow_1_a_gap_of_one_point_is_detected(sims: int) -> None:
    """POW-1: gap 1 pt, k = 5: "A better" or "A better, size unclear" in >= 95 %."""
    found = words(runs=5, images=10_000, rope=ROPE, gap=0.01, sims=sims // 2)
    assert sum(w.startswith("better") and w.endswith(": a") for w in found) / len(found) >= 0.95


LUCKS = [
    Luck(differences=(), sd=0.008, lasting=0.0005, images=2000),
    Luck(differences=(), sd=0.004, lasting=0.01, images=500),
]


def seen_over(luck: Luck, pairs: int, gap: float, sims: int) -> list[tuple[float, float]]:
    """Intervals of studies with this luck; a pair's sd includes the noise of its images."""
    rng, each = np.random.default_rng(pairs), 0.05
    search = math.sqrt(luck.sd**2 - each**2 / luck.images)
    found = []
    for _ in range(sims):
        table = (
            gap
            + search * rng.standard_normal((pairs, 1))
            + math.sqrt(luck.lasting) * rng.standard_normal(luck.images)
            + each * rng.standard_normal((pairs, luck.images))
        )
        interval, _ = answer._over(table, 0.95)
        found.append((interval.low, interval.high))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("luck", LUCKS)
@pytest.mark.parametrize(("pairs", "tolerance"), [(3, 0.06), (4, 0.06), (8, 0.05), (20, 0.05)])
def test_pow_2_the_smallest_gap_and_tie_have_80_percent_power(
    luck: Luck, pairs: int, tolerance: float, sims: int
) -> None:
    """POW-2: the planner's pairs detect its smallest gap with the promised power, 80 % +- 5, and a tie from its
    smallest margin on (at least: with 3 and 4 pairs t's tails make a little more of it)."""
    gap = half_width(luck, pairs, 0.05, power=power.GOAL["gap"])
    seen = np.mean([low > 0 for low, _ in seen_over(luck, pairs, gap, sims // 4)])
    assert seen == pytest.approx(0.80, abs=tolerance + 0.02)
    rope = half_width(luck, pairs, 0.05, power=power.GOAL["tie"])
    tied = np.mean([-rope <= low and high <= rope for low, high in seen_over(luck, pairs, 0.0, sims // 4)])
    assert 0.80 - tolerance - 0.02 <= tied <= 0.95


@pytest.mark.slow
def test_pow_2_where_no_number_of_pairs_would_do_the_stated_images_do() -> None:
    coarse = Luck(differences=(), sd=0.004, lasting=0.02, images=500)
    gap = 0.008
    assert pairs_needed(coarse, gap, lambda _: 0.05) is None
    images = images_needed(coarse, gap, 0.05)
    assert images is not None
    short = np.mean([low > 0 for low, _ in seen_over(coarse, 20, gap, 300)])
    enough = dataclasses.replace(coarse, images=images)
    shown = np.mean([low > 0 for low, _ in seen_over(enough, 20, gap, 300)])
    assert short < 0.4
    assert shown > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rope", "runs", "images", "stated", "tolerance"),
    [
        (0.005, 5, 10_000, 0.66, 0.07),
        (0.005, 3, 10_000, 0.24, 0.16),
        (0.005, 5, 2000, 0.0, 0.02),
        (0.003, 5, 10_000, 0.0, 0.02),
        (0.010, 5, 2000, 0.55, 0.14),
    ],
)
def test_pow_3_ties_are_proved_as_often_as_stated(
    rope: float, runs: int, images: int, stated: float, tolerance: float, sims: int
) -> None:
    """POW-3: tie rate at gap 0 as in section 3 (2.3): 66, 24, 0, 0, 55 %; a wrong winner in 4 % (AA-1's 7 % at most).

    The rate at k = 3 depends on the run sd, which the protocol leaves open: 40, 36 and 28 % at a run
    sd of 0, .05 and .1 pt. Hence a wider tolerance there, and at 2000 images (46 % here).
    """
    found = words(runs=runs, images=images, rope=rope, gap=0, sims=sims // 4)
    assert found.count("practical tie") / len(found) == pytest.approx(stated, abs=tolerance)
    assert sum(w.startswith("better") for w in found) / len(found) <= 0.07


# ------------------------------------------------------------- SEL: tuning scores are optimistic


@pytest.mark.slow
def test_sel_1_a_fresh_run_is_unbiased_and_the_tuning_value_is_not(sims: int) -> None:
    """SEL-1: of 32 settings (sd .2 pt, val 5000) the winner's tuning value is .42 +- .05 pt too high; a fresh run of
    it on new images is right (+- .03 pt)."""
    rng = np.random.default_rng(0)
    tuned, fresh = [], []
    for _ in range(sims):
        levels = tuple(np.round(0.93 + 0.002 * rng.standard_normal(32), 4))
        (*seen,) = right_wrong(rng, runs=(1,) * 32, accuracies=levels, images=5000, run_sd=0)
        values = np.array([float(one.mean()) for one in seen])
        winner = levels[int(values.argmax())]
        (again,) = right_wrong(rng, runs=(1,), accuracies=(winner,), images=5000, run_sd=0)
        tuned.append(float(values.max()) - winner)
        fresh.append(float(again.mean()) - winner)
    assert 100 * np.mean(tuned) == pytest.approx(0.42, abs=0.05)
    assert 100 * np.mean(fresh) == pytest.approx(0.0, abs=0.03)


@pytest.mark.slow
def test_sel_1_confirmation_is_fresh_and_the_search_is_not(played: list[tuple[Plan, Ledger]]) -> None:
    """SEL-1, for the schedule itself: confirmation runs are unbiased for the chosen setting (to within 3
    standard errors), its best full-length search score is too high."""
    gaps: dict[str, list[float]] = {"search": [], "confirm": []}
    for question, ledger in played:
        assert ledger.manifests
        for name in question.arms:
            scores = {
                phase: [
                    (ledger.epochs[t.id][-1].val_accuracy, expected(t, question))
                    for t in ledger.full_length(name, phase)
                ]
                for phase in ("search", "confirm")
            }
            best, truth = max(scores["search"])
            gaps["search"].append(best - truth)
            gaps["confirm"] += [value - truth for value, truth in scores["confirm"]]
    error = 3 * np.std(gaps["confirm"]) / math.sqrt(len(gaps["confirm"]))
    assert abs(np.mean(gaps["confirm"])) < error < 0.005
    assert np.mean(gaps["search"]) > error


def expected(trial: Trial, question: Plan) -> float:
    """The mean of ``accuracy_of`` over seeds for a full-length trial of this setting."""
    seeds = np.random.default_rng(0).integers(2**62, size=50)
    values = [accuracy_of(dataclasses.replace(trial, seed=int(s)), question.epochs) for s in seeds]
    return float(np.mean(values))


def test_sel_1_the_best_validation_score_is_optimistic_and_the_selected_test_is_not() -> None:
    """SEL-1, for the curves: the gap between the best validation score and its test score grows with the trials."""
    val, test = made()
    optimistic = [expected_best(val, n) - evp_selected(val, test, n) for n in (1, 8, 64)]
    assert abs(optimistic[0]) < 0.001
    assert 0.002 < optimistic[1] < optimistic[2]


@pytest.mark.slow
def test_sel_2_no_seed_of_the_search_or_selection_returns_in_confirmation(
    played: list[tuple[Plan, Ledger]],
) -> None:
    """SEL-2: no seed is shared between tuning or selection and confirmation, and no fold between a search and selection."""
    for _, ledger in played:
        seeds: dict[str, set[int]] = {}
        for trial in all_trials(ledger):
            seeds.setdefault(trial.phase, set()).add(trial.seed)
        for phase in ("baseline", "search", "select", "slice"):  # a small share has no random settings
            assert seeds.get(phase) or phase == "slice"
            assert not seeds.get(phase, set()) & seeds["confirm"]
        searched = {(t.arm, t.pair, t.fold) for t in all_trials(ledger) if t.phase == "search"}
        assert not searched & {(t.arm, t.pair, t.fold) for t in all_trials(ledger) if t.phase == "select"}
        runs = [t.seed for t in all_trials(ledger)]
        assert len(set(runs)) == len(runs)


@pytest.mark.slow
def test_sel_3_the_test_file_is_not_opened_before_the_manifest_exists(tmp_path: Path) -> None:
    """SEL-3, by audit hook: a whole schedule, and every attempt without its manifest, leave the sealed file unopened.

    ``test_sel_3_...`` of test_study.py watches a real study in the same way.
    """
    sealed, openings = tmp_path / "sealed_test.npz", list[str]()

    def watch(event: str, details: tuple[object, ...]) -> None:
        if event == "open" and str(details[0]).endswith(sealed.name):
            openings.append(str(details[0]))

    prepared = prepare("digits", seed=0, root=tmp_path)
    prepared.seal(sealed)
    sys.addaudithook(watch)  # hooks cannot be removed; this one only reacts to this file
    ledger = play(a_plan(minutes=12), tmp_path / "ledger.jsonl")
    (frozen,) = ledger.manifests
    changed = dataclasses.replace(frozen, sha256="0" * 64)
    for manifest in (None, changed):
        with pytest.raises(InputError, match="stays sealed"):
            unseal(sealed, manifest)  # type: ignore[arg-type]
    assert openings == []
    assert len(unseal(sealed, frozen)) == prepared.card.test
    assert openings == [str(sealed)]


def test_sel_3_only_one_place_opens_the_test() -> None:
    """SEL-3: ``unseal`` is called in ``study/execution/final_test.py`` and nowhere else in the study."""
    callers = [
        path.name
        for path in sorted((Path(__file__).parents[2] / "study").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
        if "unseal" in (getattr(node.func, "id", None), getattr(node.func, "attr", None))
    ]
    assert callers == ["final_test.py"]


# ------------------------------------------------- REF: agreement with other people's programs


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
    """REF-1: McNemar counts and exact p on stored 0/1 vectors agree with statsmodels to 1e-6."""
    found = paired(*nets(n10, n01, 1000))
    theirs = their_mcnemar([[1000 - n10 - n01, n10], [n01, 0]], exact=True)
    assert (found.n10, found.n01) == (n10, n01)
    assert found.exact_p == pytest.approx(float(theirs.pvalue), abs=1e-6)


@pytest.mark.parametrize(("n10", "n01"), [c for c in COUNTS if sum(c)])
def test_ref_1_mid_p_agrees_with_its_definition(n10: int, n01: int) -> None:
    """REF-1: mid-p to 1e-6. Twice P(X < m) + P(X = m) / 2 for the smaller count m, the mean of two one-sided tails."""
    m, total = min(n10, n01), n10 + n01
    up_to = float(stats.binomtest(m, total, alternative="less").pvalue)
    below = float(stats.binomtest(m - 1, total, alternative="less").pvalue) if m else 0.0
    assert mcnemar(n10, n01)[1] == pytest.approx(up_to + below, abs=1e-6)
    assert mcnemar(n10, n01)[1] <= mcnemar(n10, n01)[0]


def test_ref_1_a_published_table_is_met() -> None:
    """REF-1: a published table. Cavo 2012 in Fagerland, Lydersen, Laake, "Statistical Analysis of Contingency Tables", chapter 8."""
    found = paired(*nets(6, 16, 161))
    assert (found.exact_p, found.mid_p) == pytest.approx((0.052479, 0.034690), abs=1e-6)
    assert (found.low, found.high) == pytest.approx((-0.1240, -0.0054), abs=5e-5)


@pytest.mark.parametrize(
    ("n10", "n01", "images"),
    [(6, 16, 161), (1, 7, 21), (0, 5, 100), (50, 0, 100), (3, 3, 6), (40, 59, 100), (382, 310, 10_000)],
)
def test_ref_1_tango_solves_the_score_equation(n10: int, n01: int, images: int) -> None:
    """REF-1: Tango's interval solves its score equation, maximised numerically, to 1e-6."""
    z = float(stats.norm.ppf(0.975))
    delta = (n10 - n01) / images
    low = optimize.brentq(lambda d: score(d, n10, n01, images) - z, -1 + 1e-9, delta, xtol=1e-12)
    high = optimize.brentq(lambda d: score(d, n10, n01, images) + z, delta, 1 - 1e-9, xtol=1e-12)
    assert tango(n10, n01, images) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("n10", "n01"), [(382, 310), (40, 20), (150, 400)])
def test_ref_1_tango_agrees_with_a_paired_bootstrap(n10: int, n01: int) -> None:
    """REF-1: it agrees with a paired bootstrap of the images to 0.02 pt."""
    images = 10_000
    shares = np.array([n10, n01, images - n10 - n01]) / images  # images of a kind are alike: the same law
    drawn = np.random.default_rng(0).multinomial(images, shares, 400_000)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / images, [0.025, 0.975])
    assert tango(n10, n01, images) == pytest.approx((low, high), abs=0.0002)


def test_ref_1_crossed_agrees_with_the_formula_written_out() -> None:
    """REF-1: the crossed interval is section 3's formula, written out run by run and image by image."""
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


def test_ref_1_v_is_unbiased_for_the_run_variance() -> None:
    """REF-1: v is an unbiased estimate of a run's distribution-wise variance (+- 15 %)."""
    rng = np.random.default_rng(6)
    found = [
        noise(right_wrong(rng, runs=(5,), accuracies=(0.93,), images=10_000, run_sd=0.003)[0]).run
        for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(0.003**2, rel=0.15)


def test_ref_1_welch_and_permutation_agree_with_scipy() -> None:
    """REF-1: Welch's interval and the exact permutation p agree with scipy to 1e-6."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.93, 0.002, 5), rng.normal(0.927, 0.003, 4)
    found, theirs = welch(a, b), stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    centred = (1000 * (a - 0.93), 1000 * (b - 0.93))  # scipy loses the split at hand to rounding otherwise
    exact = stats.permutation_test(
        centred, lambda x, y: abs(np.mean(x) - np.mean(y)), alternative="greater", n_resamples=10**6
    )
    assert permutation_p(a, b) == pytest.approx(float(exact.pvalue), abs=1e-6)


def test_ref_1_expected_best_and_selected_test_agree_with_every_subset() -> None:
    """REF-1: the mean of the best, and its test score, are means over every subset of the trials."""
    rng = np.random.default_rng(1)
    val, test = np.round(accuracies(rng, 8), 1), accuracies(rng, 8)  # rounding makes ties
    assert len(set(val)) < 8
    for draws in range(1, 9):
        subsets = [np.array(s) for s in itertools.combinations(range(8), draws)]
        best = np.mean([val[s].max() for s in subsets])
        chosen = np.mean([test[s][val[s] == val[s].max()].mean() for s in subsets])
        assert expected_best(val, draws) == pytest.approx(float(best))
        assert evp_selected(val, test, draws) == pytest.approx(float(chosen))


def test_ref_1_the_estimate_counts_the_pairs_that_are_won() -> None:
    """REF-1: P(A > B) is scipy's Mann-Whitney statistic."""
    first, second = np.array([0.91, 0.92, 0.93]), np.array([0.92, 0.90, 0.925, 0.94])
    won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(first, second))
    assert superiority(first, second).probability == won / 12
    theirs = stats.mannwhitneyu(first, second).statistic
    assert superiority(first, second).probability == pytest.approx(float(theirs) / 12)


@pytest.mark.parametrize("k", [4, 9])
def test_ref_1_the_interval_has_the_variance_and_df_of_scipys_brunner_munzel(k: int) -> None:
    """REF-1: its interval has the variance and df of scipy's Brunner-Munzel test (p to 1e-4, by inverting t)."""
    first, second = run_accuracies(1, k, 0.001), run_accuracies(4, 7)
    found = superiority(first, second)
    p = found.probability
    theirs = stats.brunnermunzel(second, first)
    assert 0 < p < 1
    se = (p - 0.5) / float(theirs.statistic)
    quantile = (math.log(found.high / (1 - found.high)) - math.log(p / (1 - p))) * p * (1 - p) / se
    mirrored = (math.log(p / (1 - p)) - math.log(found.low / (1 - found.low))) * p * (1 - p) / se
    assert quantile == pytest.approx(mirrored)
    df = optimize.brentq(lambda d: float(stats.t.ppf(0.975, d)) - quantile, 1, 100)
    assert 2 * stats.t.sf(abs(float(theirs.statistic)), df) == pytest.approx(float(theirs.pvalue), abs=1e-4)


@pytest.mark.parametrize(("k", "low"), [(2, 0.158), (5, 0.478), (10, 0.6915)])
def test_ref_1_separated_runs_get_clopper_pearson_on_the_pairs(k: int, low: float) -> None:
    """REF-1: separated runs get Clopper-Pearson; k = 5 only [.48, 1] (section 3)."""
    found = superiority(run_accuracies(1, k, 1.0), run_accuracies(2, k + 3))
    exact = stats.binomtest(k, k).proportion_ci(method="exact")
    assert (found.probability, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(float(exact.low), abs=1e-9)
    assert found.low == pytest.approx(low, abs=1e-3)


def test_ref_1_holm_agrees_with_statsmodels() -> None:
    """REF-1: Holm agrees with statsmodels."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 6, 10):
        p_values = list(rng.uniform(0, 1, size) ** 3)
        assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    assert holm([0.01, 0.01, 0.04]) == pytest.approx([0.03, 0.03, 0.04])
    assert holm([]) == []


# --------------------------------------------------------------- INV: what must not matter


def test_inv_1_swapping_the_arms_negates_everything() -> None:
    """INV-1: swap A and B and everything is negated, whatever the word."""
    said = set()
    for gap in (0.0, 0.004, 0.008, 0.014):
        a, b = pair(7, gap=gap)
        one = judge(arm("a", a), arm("b", b), rope=ROPE)
        other = judge(arm("b", b), arm("a", a), rope=ROPE)
        assert (other.delta, other.low, other.high) == pytest.approx((-one.delta, -one.high, -one.low))
        assert (other.p_first, other.p_tie, other.p_second) == pytest.approx(
            (one.p_second, one.p_tie, one.p_first)
        )
        assert (other.word, other.ahead, other.sentence) == (one.word, one.ahead, one.sentence)
        assert other.permutation_p == one.permutation_p
        said.add(one.word)
    assert len(said) == 4


def test_inv_1_swapping_the_nets_negates_everything() -> None:
    """INV-1, for two nets."""
    one, other = paired(*nets(30, 11, 400)), paired(*nets(11, 30, 400))
    assert (other.n10, other.n01, other.delta) == (one.n01, one.n10, -one.delta)
    assert (other.low, other.high) == (-one.high, -one.low)
    assert (other.exact_p, other.mid_p) == (one.exact_p, one.mid_p)


def test_inv_1_swapping_the_arms_mirrors_the_chance() -> None:
    """INV-1, for P(A > B): mirrored about one half."""
    for first, second in (
        (run_accuracies(1, 5, 0.002), run_accuracies(2, 8)),
        (run_accuracies(1, 5, 1.0), run_accuracies(2, 4)),
    ):
        one, other = superiority(first, second), superiority(second, first)
        assert (other.probability, other.low, other.high) == pytest.approx(
            (1 - one.probability, 1 - one.high, 1 - one.low)
        )
        assert other.standing == one.standing


def test_inv_2_the_order_of_images_and_runs_does_not_matter() -> None:
    """INV-2: permuting images and runs changes nothing."""
    a, b = pair(8, images=500)
    rng = np.random.default_rng(0)
    images = rng.permutation(500)
    one, other = crossed(a, b), crossed(a[rng.permutation(5)][:, images], b[::-1][:, images])
    assert (other.delta, other.low, other.high) == pytest.approx((one.delta, one.low, one.high))


def test_inv_2_the_order_of_images_does_not_matter() -> None:
    """INV-2, for two nets."""
    first, second = nets(30, 11, 400)
    order = np.random.default_rng(0).permutation(400)
    assert paired(first[order], second[order]) == paired(first, second)


def test_inv_2_the_order_of_runs_does_not_matter() -> None:
    """INV-2, for P(A > B)."""
    first, second = run_accuracies(1, 6), run_accuracies(2, 6)
    one, other = superiority(first[::-1], np.roll(second, 2)), superiority(first, second)
    assert (one.probability, one.low, one.high) == pytest.approx((other.probability, other.low, other.high))


def test_inv_3_identical_arms_are_no_difference_of_any_size_and_no_crash() -> None:
    """INV-3: identical predictions: delta 0, p = 1, no crash."""
    same = np.repeat(table([0.93]), 3, axis=0)
    found = judge(arm("a", same), arm("b", same.copy()), rope=ROPE)
    assert (found.delta, found.permutation_p, found.word) == (0.0, 1.0, "practical tie")
    assert found.p_tie == pytest.approx(1.0)
    assert all(math.isfinite(v) for v in (found.low, found.high, found.df))


def test_inv_3_few_perfect_images_prove_no_tie() -> None:
    """INV-3: but no tie is proved by too few images."""
    perfect = np.ones((3, 100), dtype=np.bool_)
    assert judge(arm("a", perfect), arm("b", perfect), rope=ROPE).word == "inconclusive"


def test_inv_3_identical_nets_are_no_difference_of_any_size_and_no_crash() -> None:
    """INV-3: n10 = n01 = 0: delta 0, p = 1, an interval with a width."""
    found = paired(*nets(0, 0, 1000))
    assert (found.n10, found.n01, found.delta, found.exact_p, found.mid_p) == (0, 0, 0.0, 1.0, 1.0)
    z2 = float(stats.norm.ppf(0.975)) ** 2
    assert (found.low, found.high) == pytest.approx((-z2 / (1000 + z2), z2 / (1000 + z2)))


def test_inv_3_every_image_discordant_is_no_crash() -> None:
    """INV-3, the other end."""
    found = paired(*nets(1000, 0, 1000))
    assert (found.delta, found.high) == (1.0, 1.0)
    assert 0.99 < found.low < 1
    assert paired(*nets(500, 500, 1000)).mid_p == 1.0


def test_inv_3_equal_runs_are_an_even_chance_of_open_width() -> None:
    """INV-3, for P(A > B)."""
    for first in (np.full(5, 0.93), run_accuracies(1)):
        found = superiority(first, first.copy())
        assert found.probability == 0.5
        assert found.low < 0.25
        assert found.high > 0.75
        assert found.standing == "not detectable"


def test_inv_4_one_run_is_refused() -> None:
    """INV-4: k = 1: Q2 is refused, not NaN."""
    a, b = pair(9, runs=5)
    for first, second in ((a[:1], b), (a, b[:1])):
        with pytest.raises(Refused, match="at least two"):
            judge(arm("a", first), arm("b", second), rope=ROPE)
    with pytest.raises(Refused, match="at least two"):
        mean_score(a[:1])
    with pytest.raises(Refused, match="different images"):
        crossed(a, b[:, :-1])


def test_inv_4_one_run_has_no_chance_of_winning() -> None:
    """INV-4, for P(A > B)."""
    with pytest.raises(Refused, match="at least two"):
        superiority(run_accuracies(1, 1), run_accuracies(2))


def test_inv_5_a_diverged_run_stays_in() -> None:
    """INV-5: a run that fell to 10 % stays in, whatever its effect on the verdict."""
    a, b = pair(10, gap=0.01)
    guess = np.arange(10_000) % 10 == 0
    broken = np.vstack([a[:4], guess])
    whole, found = judge(arm("a", a), arm("b", b), rope=ROPE), judge(arm("a", broken), arm("b", b), rope=ROPE)
    assert whole.word.startswith("better")
    assert found.k_first == 5
    assert found.mean_first == pytest.approx((a[:4].mean() * 4 + 0.1) / 5)
    assert found.word == "inconclusive"


def test_inv_5_a_failed_confirmation_run_counts_as_guessing(tmp_path: Path) -> None:
    """INV-5, for a whole study: a diverged run counts as guessing, and the report says so."""
    run = write_run(tmp_path / "run", failed=1, runs=4)
    evidence = read(run)
    with np.load(run / "predictions" / "arm0-confirm-0.npz") as arrays:
        labels = arrays["labels"]
    tuned = evidence.finds["resnext8"][0]
    assert tuned.correct.shape[0] == 5
    assert tuned.guessed == 1
    assert tuned.means[-1] == pytest.approx(np.bincount(labels).max() / len(labels))
    (said,) = build.write(run).answers
    assert "1 of 17 resnext8 runs failed." in said.sentence
    assert "A failed run counted as guessing" in (run / "report.html").read_text()


# ---------------------------------------------------------------- BUD: equal and honest budgets


@pytest.mark.slow
def test_bud_1_arms_spend_the_same_on_tuning(played: list[tuple[Plan, Ledger]]) -> None:
    """BUD-1: both arms' spend on tuning is equal to 2 %, and at the share to within three epochs.

    One arm's epoch takes 1.4 times as long as the other's, and two trials run side by side.
    """
    for question, ledger in played:
        spends = [ledger.spent(name, "search", "slice") for name in question.arms]
        one_report = max(SECONDS.values()) + 0.05
        assert ledger.tuning is not None
        for spend in spends:
            assert spend == pytest.approx(ledger.tuning.per_arm, abs=3 * one_report)
        assert abs(spends[0] - spends[1]) < 0.02 * max(spends)


@pytest.mark.slow
def test_bud_2_stopped_failed_and_oom_trials_are_charged(played: list[tuple[Plan, Ledger]]) -> None:
    """BUD-2: stopped, failed and out-of-memory trials are charged: an arm's spend is the sum over all its trials."""
    ends = set()
    for question, ledger in played:
        outcomes = [(t, ledger.outcomes[t.id]) for t in all_trials(ledger)]
        ends |= {(o.state, o.reason.split(":")[0]) for _, o in outcomes}
        for name in question.arms:
            by_hand = sum(o.cost for t, o in outcomes if t.arm == name)
            assert ledger.spent(name) == pytest.approx(by_hand)
        for trial, outcome in outcomes:  # slots have one core each
            assert outcome.cost > SECONDS[trial.arm] * outcome.epochs
            if outcome.state == "failed":
                assert (outcome.epochs, outcome.cost > 2 * SECONDS[trial.arm]) == (1, True)
    assert {("failed", "diverged"), ("failed", "out of memory"), ("stopped", "asha")} <= ends


def test_bud_3_slice_curve_ends_at_the_slices_own_budget() -> None:
    """BUD-3: the slice's curve ends at what the slice cost."""
    rng = np.random.default_rng(0)
    values, costs = accuracies(rng, 12), rng.uniform(50, 150, 12)
    table = slice_curve(values, costs, test=values)
    assert list(table["n"]) == list(range(1, 13))
    assert table["cost"].iloc[-1] == pytest.approx(costs.sum())
    assert table["mean"].is_monotonic_increasing
    assert table["test"].to_numpy() == pytest.approx(table["mean"].to_numpy())
    assert slice_curve(values, costs).equals(table.drop(columns="test"))


def test_bud_3_search_curve_never_extends_past_its_share() -> None:
    """BUD-3: a search's curve never extends past B/R, whatever ended later."""
    table = search_curve(
        steps([(10, 0.5), (30, 0.6), (101, 0.99)], [(20, 0.7), (60, 0.6), (90, 0.8)]), per_search=100
    )
    assert list(table["cost"]) == [20, 30, 60, 90, 100]
    assert table["mean"].to_numpy() == pytest.approx([0.6, 0.65, 0.65, 0.7, 0.7])
    half = stats.t.ppf(0.975, 1) * np.std([0.5, 0.7], ddof=1) / math.sqrt(2)
    assert table.loc[0, "low"] == pytest.approx(max(0, 0.6 - half))
    assert set(table["searches"]) == {2}
    with pytest.raises(Refused, match="finished no full run"):
        search_curve(steps([(10, 0.5)], [(101, 0.9)]), per_search=100)


# ----------------------------------------------------------------------- EDGE and HON: words


def with_axis(evidence: Evidence, **changes: float | bool) -> Evidence:
    axis = {"low": 0.001, "high": 1.0, "default": 0.1, "log": True} | changes
    spaces = {name: {"learning_rate": axis} for name in evidence.plan.arms}
    return dataclasses.replace(evidence, plan=dataclasses.replace(evidence.plan, spaces=spaces))


def test_edge_1_a_winner_on_the_edge_is_flagged_with_the_command_that_widens_it(reported: Path) -> None:
    """EDGE-1: a winner on a range edge is flagged."""
    at_the_top = with_axis(read(reported), high=0.02)
    history, high = at_the_top.history, []
    edge = 0.001 * 20**0.95
    for name in at_the_top.plan.arms:
        held = next(c for c in history.choices(name) if c.pair == history.in_hand(name))
        good = [t.config for t in best_first(history, history.of(name, "search"), most=5)]
        rates = [float(config["learning_rate"]) for config in (held.config, *good)]
        if rates[0] > edge and sum(rate > edge for rate in rates[1:]) >= 3:
            high.append(name)
    assert high
    assert [(arm, axis) for arm, axis, _ in health.edges(at_the_top)] == [
        (arm, "learning_rate") for arm in high
    ]
    found = health.warnings(at_the_top)
    assert any("edge of what was searched (0.001 to 0.02)" in line for line in found)
    assert any(line.endswith("--epochs 9 --widen learning_rate") for line in found)
    given = dataclasses.replace(
        at_the_top.plan, command="python study/run.py --epochs 9 --widen depth --seed 1"
    )
    assert again(given, "--widen", "depth,width") == (
        "python study/run.py --seed 1 --epochs 9 --widen depth,width"
    )


def test_edge_1_a_winner_inside_is_not_flagged(reported: Path) -> None:
    """EDGE-1: only the outer twentieth on the searched scale counts; 0 is no edge."""
    evidence = read(reported)
    assert evidence.plan == plan()
    assert [line for line in health.warnings(evidence) if "edge" in line] == []
    assert health.edges(with_axis(evidence)) == []
    assert health.edges(with_axis(evidence, low=0.0999)) != []
    assert health.edges(with_axis(evidence, low=0.0, high=10.0, log=False)) == []


def test_hon_1_wording_claims_no_more_than_it_knows() -> None:
    """HON-1: no "significant", no "no difference"; scope and confidence are always stated."""
    verdicts: list[Verdict] = []
    for seed, gap, runs in itertools.product(range(3), (0.0, 0.003, 0.02), (3, 5)):
        a, b = pair(seed, runs=runs, gap=gap)
        verdicts.append(judge(arm("a", a), arm("b", b), rope=ROPE))
    assert {v.word.split(",")[0] for v in verdicts} == {"better", "practical tie", "inconclusive"}
    for v in verdicts:
        words = f"{v.sentence} {of_nets(v)} {v.advice} {v.scope}".lower()
        assert "signific" not in words
        assert "no difference" not in words
        assert "no answer for the architectures" in v.scope
        assert "95 %" in v.sentence


def test_hon_1_the_permutation_test_never_speaks_at_three_runs() -> None:
    """HON-1: no "significant" at k = 3: the permutation p cannot fall below 0.10 even for arms far apart."""
    assert permutation_p(run_accuracies(1, 3, 1.0), run_accuracies(2, 3)) == pytest.approx(0.1)


def test_hon_1_the_report_claims_no_more_than_it_knows(
    reported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HON-1, for report and terminal: the same words, the scope beside the verdict, the floor of
    the permutation p, no tuning score in a comparison. Also with a random slice, which most sections use."""
    sliced = write_run(
        tmp_path / "sliced", runs=3, tuned=(0.92, 0.92), images=360, slice_runs=12, spaces=SPACES
    )
    for run in (reported, sliced):
        assert analyse([str(run)]) == 0
        shown = capsys.readouterr().out
        assert status_of(["status", str(run)]) == 0
        texts = [(run / name).read_text() for name in ("report.html", "report.md", "verdict.json")]
        for shown_text in (*texts, shown, capsys.readouterr().out):
            text = " ".join(shown_text.lower().split())
            assert not re.search("signific|no difference|surely", text)
            assert "holds for new searches of the same share" in text
        scope, *_, headline, path = shown.splitlines()
        assert scope.startswith("Holds for ")
        assert (headline, path) == (json.loads(texts[2])["headline"], str(run / "report.html"))
    html = (reported / "report.html").read_text()
    assert "cannot fall below 0.100" in html
    comparison = html[html.index("<table>") : html.index("What selection decided")]
    assert "validation" not in comparison.lower().replace("found by validation, retrained", "")
