"""Reports after a second look or an added arm: intervals, levels and sentences."""

import itertools
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from support.records import unpacked
from support.reports import composed
from support.synthetic import AUGMENTATION, RATE, SPACES, Diary, right_wrong, write_run

from analysis import answer, further, summary
from analysis.__main__ import main
from analysis.luck import POWER, Luck, half_width
from analysis.report.sections import method
from analysis.results import read
from study.protocol import allocation, levels, looks, validation
from study.protocol.budget import Budget
from study.protocol.consistency import load
from study.protocol.errors import InputError
from study.protocol.ledger import Ledger
from study.protocol.levels import ADDED
from study.protocol.metrics import Name
from study.protocol.plan import Plan
from study.protocol.question import Earlier
from study.protocol.records import Extension, Manifest, TestOpened
from study.protocol.rundir import RunDir
from study.protocol.selection import choose, in_hand

RUNS = 3


def reopened(run: Path, plan: Plan) -> Diary:
    """A diary that continues a finished study."""
    diary = Diary.__new__(Diary)
    diary.folder, diary.run = run, RunDir(run)
    diary.plan, diary.rng = plan, np.random.default_rng(99)
    diary.ledger = Ledger(run / "ledger.jsonl")
    with np.load(next((run / "predictions").glob("*.npz"))) as arrays:
        diary.labels = arrays["labels"]
    return diary


def extend(run: Path, extension: Extension, arms: tuple[str, ...], pairs: range, *level: float) -> Diary:
    """Search, select, confirm and (by ``finish``) score the trials of an extension, at one level or one per arm."""
    plan, _ = load(RunDir(run))
    diary = reopened(run, plan)
    diary.ledger.add(extension)
    whole = plan.extended(extension)
    diary.plan = whole
    for arm in arms:
        if not diary.ledger.of(arm, "baseline"):
            diary.full(arm, "baseline", whole.folds, 0.9)
        for pair in pairs:
            for i, (epochs, good) in enumerate(((9, 0.93), (9, 0.94), (1, 0.6))):
                diary.trial(
                    arm,
                    "search",
                    state="finished" if epochs == 9 else "stopped",
                    reason="full length" if epochs == 9 else "asha: rung",
                    epochs=epochs,
                    level=good + 0.001 * i,
                    pair=pair,
                    fold=allocation.search_fold(whole, pair),
                )
        if arm not in (diary.ledger.tuning.full_run if diary.ledger.tuning else {}):
            assert diary.ledger.tuning is not None
            both = {**diary.ledger.tuning.full_run, arm: 100.0}
            diary.ledger.add(replace(diary.ledger.tuning, full_run=both))
        diary.select(arm, 0.94, list(pairs))
    diary.validated()
    choices = {
        arm: tuple(
            replace(choose(whole, diary.ledger, arm, pair, validation.reader(RunDir(run))), runs=RUNS)
            for pair in pairs
        )
        for arm in arms
    }
    hands = {arm: in_hand([*diary.ledger.choices(arm), *found]) for arm, found in choices.items()}
    diary.ledger.add(Manifest.of(choices, hands, look=extension.look))
    finish(diary, arms, pairs, *level)
    return diary


def finish(diary: Diary, arms: tuple[str, ...], pairs: range, *level: float) -> None:
    trials, accuracies = [], list[float]()
    for arm, good in zip(arms, itertools.cycle(level), strict=False):
        for choice in diary.ledger.choices(arm):
            if choice.pair in pairs:
                trials += diary.full(arm, "confirm", RUNS, good, choice.config, choice.pair)
        trials += [t.id for t in diary.ledger.of(arm, "baseline") if t.id not in diary.ledger.scores]
        accuracies += [good] * (len(trials) - len(accuracies))
    diary.ledger.add(TestOpened(manifest=diary.ledger.manifests[-1].sha256, trials=tuple(trials)))
    tables = right_wrong(
        diary.rng,
        runs=(1,) * len(trials),
        accuracies=tuple(accuracies),
        images=diary.plan.data.test,
        run_sd=0.001,
    )
    for trial, table in zip(trials, tables, strict=True):
        diary.score([trial], table)
    diary.ledger.__exit__(None, None, None)


def more_pairs(plan: Plan, pairs: int, *, declared: bool = False) -> Extension:
    draft = Extension(
        look=2, budget_seconds=2 * plan.budget.seconds, arms=plan.arms, pairs=pairs, level=0.05,
        declared=declared, reason="asked by the test", plan={},
    )  # fmt: skip
    return replace(draft, level=levels.of_study(plan, first=plan.pairs, look=2, extension=draft).alpha)


@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("one_look", []),
        ("second_look", ["--resume RUN --budget 9cpu-minutes"]),
        ("added_arm", ["--resume RUN --arms tiny_resnet,tiny_resnext,tiny_thin"]),
    ],
)
def test_run_it_again_lists_every_command_that_made_the_answer(
    tmp_path: Path, name: str, further: list[str]
) -> None:
    plan, history = load(RunDir(unpacked(name, tmp_path)))
    first, *then = method._commands(plan, history.extension)
    assert f"--epochs {plan.epochs}" in first
    assert then == [f"python study/run.py {words}" for words in further]


@pytest.fixture
def open_still(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", tuned=(0.92, 0.92), luck_sd=0.006, spaces=SPACES, runs=RUNS)


def test_a_second_look_runs_over_all_pairs_at_its_level(open_still: Path) -> None:
    before = composed(open_still)
    assert (before["verdict"], before["look"], before["answer"][0]["pairs"]) == ("open", 1, 4)
    assert "--resume RUN --budget" in before["answer"][0]["advice"]
    plan, _ = load(RunDir(open_still))
    extension = more_pairs(plan, 4)
    extend(open_still, extension, plan.arms, range(4, 8), 0.92)
    body = composed(open_still)
    (found,) = body["answer"]
    assert (body["look"], found["look"], found["pairs"], len(found["differences"])) == (2, 2, 8, 8)
    assert found["level"] == pytest.approx(1 - extension.level)
    assert extension.level == pytest.approx(levels.of(look=2, first=4, now=8).alpha)
    assert found["held"] == "94 % over both looks"
    assert "(94 % over both looks: " in body["headline"]
    evidence = read(open_still)
    expected, _ = answer.over_pairs(
        *(evidence.finds[found[side]] for side in ("first", "second")), confidence=1 - extension.level
    )
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    (net,) = body["nets"]
    assert net["confidence"] == pytest.approx(0.99)
    assert found["word"] == "open"
    assert "a third would err more than it says" in found["advice"]
    text = (open_still / "report.md").read_text()
    assert "| pair 8 |" in text
    assert "opened 2 times" in text
    assert not any("more than once in a look" in w or "over its share" in w for w in body["warnings"])


@pytest.mark.parametrize(
    ("metric", "rope", "said"),
    [
        ("balanced-accuracy", 0.005, "pt of balanced accuracy"),
        ("log-loss", 0.02, "nats of log-loss (lower is better)"),
    ],
)
def test_a_second_look_under_another_metric(tmp_path: Path, metric: Name, rope: float, said: str) -> None:
    run = write_run(
        tmp_path / "run",
        tuned=(0.92, 0.92),
        luck_sd=0.006,
        spaces=SPACES,
        runs=RUNS,
        metric=metric,
        rope=rope,
    )
    plan, _ = load(RunDir(run))
    extension = more_pairs(plan, 4)
    extend(run, extension, plan.arms, range(4, 8), 0.92)
    body = composed(run)
    (found,) = body["answer"]
    assert (body["metric"], body["look"], found["pairs"]) == (metric, 2, 8)
    assert said in body["headline"]
    evidence = read(run)
    expected, _ = answer.over_pairs(
        *(evidence.finds[found[side]] for side in ("first", "second")), confidence=1 - extension.level
    )
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found["rope"] == rope


def test_a_declared_second_look_keeps_95_percent(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tuned=(0.92, 0.92), luck_sd=0.006, spaces=SPACES, runs=RUNS)
    body = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(body | {"looks": 2}))
    first = composed(run)["answer"][0]
    assert (first["level"], first["held"]) == (pytest.approx(0.973), "95 % over both looks")
    plan, _ = load(RunDir(run))
    extend(run, more_pairs(plan, 4, declared=True), plan.arms, range(4, 8), 0.92)
    second = composed(run)["answer"][0]
    assert second["held"] == "95 % over both looks"
    assert second["level"] == pytest.approx(1 - levels.of(looks=2, look=2, first=4, now=8).alpha)


def test_while_a_second_look_is_under_way_the_first_one_stands(open_still: Path) -> None:
    before = composed(open_still)
    plan, _ = load(RunDir(open_still))
    with Ledger(open_still / "ledger.jsonl") as ledger:
        ledger.add(more_pairs(plan, 4))
    body = composed(open_still)
    assert body["answer"][0]["low"] == before["answer"][0]["low"]
    assert body["look"] == 1
    assert "A further look is under way: no setting of look 2 has been frozen" in body["headline"]


def third(plan: Plan) -> Extension:
    facts = {
        "audits": {"third": asdict(plan.audits["resnet8"])},
        "spaces": {"third": {"learning_rate": RATE, "augmentation": AUGMENTATION}},
        "probe_cost": {"third": 12.0},
    }
    return Extension(
        look=2, budget_seconds=1.5 * plan.budget.seconds, arms=("third",), pairs=0, level=ADDED,
        declared=False, reason="asked by the test", plan=facts,
    )  # fmt: skip


def test_while_an_arm_is_being_added_the_old_answer_stands(open_still: Path) -> None:
    before = composed(open_still)
    plan, _ = load(RunDir(open_still))
    with Ledger(open_still / "ledger.jsonl") as ledger:
        ledger.add(third(plan))
    body = composed(open_still)
    (found,) = body["answer"]
    assert (found["low"], found["held"]) == (before["answer"][0]["low"], "95 %")
    assert "A further look is under way" in body["headline"]


def test_an_added_arm_leaves_the_old_interval_and_shares_its_own_error(open_still: Path) -> None:
    before = composed(open_still)["answer"][0]
    plan, _ = load(RunDir(open_still))
    extend(open_still, third(plan), ("third",), range(4), 0.95)
    body = composed(open_still)
    assert body["arms"] == ["resnet8", "resnext8", "third"]
    by_pair = {frozenset((a["first"], a["second"])): a for a in body["answer"]}
    old = by_pair[frozenset(("resnet8", "resnext8"))]
    assert (old["level"], abs(old["delta"])) == (pytest.approx(0.95), pytest.approx(abs(before["delta"])))
    assert old["high"] - old["low"] == pytest.approx(before["high"] - before["low"])
    new = by_pair[frozenset(("resnet8", "third"))]
    assert new["level"] == pytest.approx(1 - ADDED / 2)
    assert new["held"] == "92.5 % over all 3 pairs of arms, those of the added arm included"
    assert body["answer"][0]["first"] == "third"
    assert "92.5 % over all 3 pairs of arms" in body["headline"]
    assert main([str(open_still), "--expect", "third"]) == 0


def test_an_added_arm_under_another_metric(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        tuned=(0.92, 0.92),
        luck_sd=0.006,
        spaces=SPACES,
        runs=RUNS,
        metric="log-loss",
        rope=0.02,
    )
    plan, _ = load(RunDir(run))
    extend(run, third(plan), ("third",), range(4), 0.97)
    body = composed(run)
    assert body["arms"] == ["resnet8", "resnext8", "third"]
    assert body["answer"][0]["first"] == "third"
    assert main([str(run), "--expect", "third"]) == 0


def test_asking_again_states_its_cost(open_still: Path) -> None:
    plan = Plan.load(open_still / "plan.json")
    earlier = Earlier(run="first-try", arms=("resnet8", "resnext8", "other"), level=0.05)
    replace(plan, earlier=(earlier,)).save(open_still / "plan.json")
    body = composed(open_still)
    (found,) = body["answer"]
    assert found["level"] == pytest.approx(0.975)
    assert "90 % over every study of this question on these test images" in body["headline"]
    assert any("were opened before, by first-try" in warning for warning in body["warnings"])


def test_what_the_first_look_decided_is_final(tmp_path: Path) -> None:
    """Three arms: b is clearly behind a and c, which are open. The second look would see all of them close."""
    arms = ("a", "b", "c")
    run = write_run(
        tmp_path / "run", arms=arms, default=(0.9,) * 3, tuned=(0.93, 0.90, 0.93), luck_sd=0.003, runs=RUNS,
        spaces=dict.fromkeys(arms, SPACES["resnet8"]),
    )  # fmt: skip
    first = {frozenset((a["first"], a["second"])): a for a in composed(run)["answer"]}
    decided = {couple for couple, a in first.items() if a["word"] == "better"}
    assert decided == {frozenset("ab"), frozenset("bc")}
    plan, _ = load(RunDir(run))
    extend(run, more_pairs(plan, 4), plan.arms, range(4, 8), 0.92)
    body = composed(run)
    for a in body["answer"]:
        was = first[frozenset((a["first"], a["second"]))]
        if was["word"] == "better":
            assert (a["word"], a["ahead"], a["look"], a["pairs"]) == ("better", was["ahead"], 1, 4)
            assert (a["level"], abs(a["delta"])) == (was["level"], abs(was["delta"]))
            assert a["sentence"].endswith("The first look decided this, which is final.")
        else:
            assert (a["look"], a["pairs"]) == (2, 8)
            assert a["level"] == pytest.approx(1 - levels.of(couples=3, look=2, first=4, now=8).alpha)
        assert a["held"] == "94 % over both looks and 3 pairs of arms"
    assert "decided at the first look" in body["headline"]


@pytest.mark.parametrize(
    ("more", "later"), [(4, (0.92, 0.92)), (8, (0.80, 0.98))], ids=["alike", "the other far ahead"]
)
def test_that_an_arm_is_ahead_is_final_and_how_far_is_not(
    tmp_path: Path, more: int, later: tuple[float, ...]
) -> None:
    run = write_run(tmp_path / "run", tuned=(0.93, 0.91), luck_sd=0.006, rope=0.018, spaces=SPACES, runs=RUNS)
    (first,) = composed(run)["answer"]
    assert first["word"] == "better, size unclear"
    assert "exceeds the margin" in first["advice"]
    plan, _ = load(RunDir(run))
    extend(run, more_pairs(plan, more), plan.arms, range(4, 4 + more), *later)
    (second,) = composed(run)["answer"]
    assert (second["word"], second["ahead"], second["look"]) == (first["word"], first["ahead"], 1)
    assert (second["level"], second["pairs"]) == (first["level"], 4)


def test_the_report_of_a_second_look_states_its_money_and_pairs(open_still: Path) -> None:
    plan, _ = load(RunDir(open_still))
    extend(open_still, more_pairs(plan, 4), plan.arms, range(4, 8), 0.92)
    body = composed(open_still)
    assert body["budget_seconds"] == 2 * plan.budget.seconds
    assert body["search_against_search"]["pairs"] == 8
    (found,) = body["answer"]
    luck = Luck(**body["search_against_search"]["luck"][0])
    text = (open_still / "report.md").read_text()
    gap = half_width(luck, 8, 1 - found["level"], power=POWER)
    assert f"is about {100 * gap:.2f} pt (" in text  # at the level of the interval shown
    assert text.startswith("# resnet8 against resnext8 on cifar10, 6cpu-hours\n")
    assert "8 searches, in pairs, per arm" in text
    assert "of 6.00 h" in text


def test_an_added_arm_changes_no_sentence_of_the_old_ones(tmp_path: Path) -> None:
    """Its dearer runs would have lowered the share of a search that all sentences name."""
    run = write_run(
        tmp_path / "run", tuned=(0.92, 0.92), luck_sd=0.006, spaces=SPACES, runs=RUNS, slice_runs=5
    )
    evidence = read(run)
    before = summary.search_share(evidence, "resnet8", "resnext8")
    assert evidence.history.tuning is not None
    dear = {**evidence.history.tuning.full_run, "third": 180.0}
    evidence.history.tuning = replace(evidence.history.tuning, full_run=dear)
    assert summary.search_share(evidence, "resnet8", "resnext8") == before > 0


def test_advice_after_a_first_look_names_a_budget_that_is_accepted(tmp_path: Path) -> None:
    for rope in (0.015, 0.02):
        run = write_run(
            tmp_path / str(rope), tuned=(0.92, 0.92), luck_sd=0.006, spaces=SPACES, runs=RUNS, rope=rope, images=3000
        )  # fmt: skip
        (found,) = summary.find(read(run)).answers
        named = re.search(r"--resume RUN --budget (\S+) makes (?:as many|them)", found.advice)
        pairs = re.search(r"takes about (\d+) pairs|makes them (\d+)", found.advice)
        assert named is not None
        assert pairs is not None
        plan, history = load(RunDir(run))
        asked = looks.second_look(plan, history, Budget.parse(named[1]))
        assert plan.pairs + asked.pairs == int(pairs[1] or pairs[2])


def test_a_forecast_counts_earlier_studies(open_still: Path) -> None:
    plan = Plan.load(open_still / "plan.json")
    asked = Earlier(run="x", arms=plan.arms, level=0.05)
    replace(plan, earlier=(asked,)).save(open_still / "plan.json")
    level = further.later(read(open_still), *plan.arms)(8)
    assert level == pytest.approx(levels.of(look=2, first=4, now=8, earlier=[0.05], exact=False).alpha)


def test_a_study_without_any_search_speaks_of_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", share=5400.0, searched=False)
    body = composed(run)
    (found,) = body["answer"]
    assert found["guard"] == "No search could be paid for; both nets have the default setting."
    assert body["headline"].startswith(found["guard"])
    assert "tuned here" not in body["headline"]
    assert "--budget" in found["advice"]
    page = (run / "report.md").read_text()
    assert "in hand (default)" in page
    for claim in ("found nothing better", "began with the same", "the answer stands", "Luck of one pair"):
        assert claim not in page
    plan, history = load(RunDir(run))
    with pytest.raises(InputError, match="got nothing"):
        looks.second_look(plan, history, Budget.parse("9cpu-hours"))
