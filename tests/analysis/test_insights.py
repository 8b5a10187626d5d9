"""The sections beside the verdict: numbers match the estimators, and every question has an answer or a reason."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.edited import edit
from support.reports import composed
from support.simulate import arm as runs_of
from support.simulate import table
from support.synthetic import verdict_json, write_run

from analysis import answer
from analysis.__main__ import main
from analysis.report.build import write
from analysis.report.sections import generalisation
from analysis.results import read
from analysis.summary import find
from analysis.verdict import judge
from study.protocol.records import Epoch, Manifest, Outcome, Record, Scored, Trial


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with random settings and four pairs of searches, its report written."""
    run = write_run(tmp_path_factory.mktemp("study") / "run", slice_runs=12, images=2000)
    write(run)
    return run


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has only searched, so that no section of this file can answer."""
    run = write_run(tmp_path_factory.mktemp("bare") / "run", confirmed=False)
    write(run)
    return run


def rewritten(run: Path) -> dict[str, Any]:
    write(run)
    return verdict_json(run)


def test_the_answer_is_the_t_interval_over_the_pairs(sliced: Path) -> None:
    evidence, body = read(sliced), verdict_json(sliced)
    (found,) = body["answer"]
    a, b = (evidence.finds[found[side]] for side in ("first", "second"))
    expected, luck = answer.over_pairs(a, b)
    assert [found[k] for k in ("delta", "low", "high")] == pytest.approx(
        [expected.delta, expected.low, expected.high]
    )
    assert found["differences"] == pytest.approx([a[p].mean - b[p].mean for p in range(4)])
    assert luck.differences == pytest.approx(found["differences"])
    text = (sliced / "report.md").read_text()
    for pair in range(4):
        assert f"| pair {pair + 1} |" in text
    assert "Luck of one pair (sd" in text


def test_every_search_shows_the_default_the_lead_and_the_decision(sliced: Path) -> None:
    evidence, body = read(sliced), verdict_json(sliced)["selection"]
    assert len(body["choices"]) == 8
    for row in body["choices"]:
        (choice,) = (c for c in evidence.history.choices(row["arm"]) if c.pair + 1 == row["pair"])
        assert (row["lead"], row["lead_se"], row["default"]) == (choice.lead, choice.lead_se, choice.default)
        assert row["in_hand"] == (evidence.history.in_hand(row["arm"]) == choice.pair)
    text = (sliced / "report.md").read_text()
    assert "| validation, % | chosen | its mean | lead over the default | standard error |" in text
    assert "| what it found |" in text


def test_the_guard_claims_nothing_where_nothing_beat_the_default(tmp_path: Path, sliced: Path) -> None:
    run = Path(shutil.copytree(sliced, tmp_path / "run"))

    def never(record: Record) -> Record:
        if (
            isinstance(record, Epoch)
            and record.trial.startswith(("arm1-search", "arm1-slice"))
            and record.epoch == 9
        ):
            return replace(record, val_accuracy=0.5)
        return record

    edit(run / "ledger.jsonl", never)
    body = composed(run)
    (found,) = body["answer"]
    assert (body["verdict"], found["ahead"], found["beat"]) == (
        "nothing claimed",
        None,
        [0, found["beat"][1]],
    )
    assert body["headline"].startswith(
        "The search hardly beat the default; nothing is claimed about tuned architect"
    )
    assert "no setting of resnext8 beat its default; at least two of each must." in body["headline"]
    assert main([str(run), "--expect", "resnext8"]) == 4


def test_an_arm_whose_runs_all_failed_is_not_compared(
    tmp_path: Path, sliced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(sliced, tmp_path / "run"))

    def failing(record: Record) -> Record | None:
        own = isinstance(record, Outcome | Scored) and record.trial.startswith("arm1-confirm")
        if own and isinstance(record, Outcome):
            return replace(record, state="failed", reason="diverged: loss nan")
        return None if own else record

    edit(run / "ledger.jsonl", failing)
    assert main([str(run), "--expect", "resnet8"]) == 4
    why = "all 20 confirmation runs of resnext8 failed, so there is no trained net to compare"
    assert capsys.readouterr().out.splitlines()[0] == f"No answer: {why}."
    body = verdict_json(run)
    assert (body["verdict"], body["answer"], list(body["gains"])) == (None, [], ["resnet8"])


def test_failed_runs_are_reported_when_too_few_others_remain() -> None:
    two = runs_of("resnet8", table([0.92, 0.93], images=2000))
    for failed, told_last in (((0,), "1 of 2"), ((0, 1), "2 of 2")):
        broken = replace(
            two, arm="resnext8", correct=table([0.1, 0.93][: len(two.correct)], images=2000), failed=failed
        )
        assert judge(two, broken, rope=0.005).sentence.endswith(f"{told_last} resnext8 runs failed.")


def test_one_search_per_arm_claims_nothing_about_architectures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", share=1800.0)
    assert read(run).plan.pairs == 1
    report = write(run)
    (found,) = verdict_json(run)["answer"]
    assert (found["word"], found["pairs"], found["low"]) == ("nothing claimed", 1, None)
    assert report.headline.startswith("One search per arm says nothing about which architecture is better")
    assert "of the two nets tuned here" in report.headline.lower()
    assert any("at least 3 pairs of searches" in line for line in report.lines)
    assert len(verdict_json(run)["nets"]) == 1


@pytest.mark.parametrize(
    ("tuned", "arm", "code"),
    [
        ((0.90, 0.95), "resnext8", 0),
        ((0.90, 0.95), "resnet8", 1),
        ((0.92, 0.9205), "resnext8", 4),
        ((0.92, 0.9205), "nobody", 2),
    ],
)
def test_the_gate_answers_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tuned: tuple[float, float], arm: str, code: int
) -> None:
    run = write_run(tmp_path / "run", tuned=tuned, images=5000)
    assert main([str(run), "--expect", arm]) == code
    assert main([str(run), "--expect-net", arm]) in ({code} if code != 4 else {0, 1, 4})
    if code == 2:
        assert "resnet8, resnext8" in capsys.readouterr().err


def test_the_gate_on_ties_several_arms_and_no_verdict(tmp_path: Path, bare: Path) -> None:
    tie = write_run(tmp_path / "tie", tuned=(0.92, 0.92), rope=0.1)
    assert composed(tie)["verdict"] == "practical tie"
    assert main([str(tie), "--expect", "resnext8"]) == main([str(tie), "--expect-net", "resnext8"]) == 1
    assert main([str(bare), "--expect", "resnext8"]) == 4
    three = write_run(tmp_path / "three", arms=("a", "b", "c"), default=(0.9,) * 3, tuned=(0.9, 0.95, 0.9))
    assert [main([str(three), "--expect", arm]) for arm in "abc"] == [1, 0, 1]


def test_the_appendix_states_the_scope_of_each_number(sliced: Path) -> None:
    (pair,) = verdict_json(sliced)["appendix"]["pairs"]
    evidence = read(sliced)
    first, second = (evidence.tuned[pair[side]].correct[0] for side in ("first", "second"))
    assert (pair["nets"]["n10"], pair["nets"]["n01"]) == (
        int((first & ~second).sum()),
        int((~first & second).sum()),
    )
    assert 0 <= pair["superiority"]["low"] <= pair["superiority"]["probability"] <= 1
    text = (sliced / "report.html").read_text()
    for needed in ("Two trained nets only (Q1)", "mid-p", "This test set only", "beats a run of"):
        assert needed in text


def test_bud_3_curves_stop_at_the_spend(sliced: Path) -> None:
    evidence, body = read(sliced), verdict_json(sliced)["tuning_curves"]
    tuning = evidence.history.tuning
    assert tuning is not None
    for arm in evidence.plan.arms:
        share = (tuning.per_arm - evidence.history.spent(arm, "slice")) / evidence.plan.pairs
        assert body["searches"][arm][-1]["cost"] == pytest.approx(share)
        draws = evidence.slices[arm]
        assert len(body["slices"][arm]) == len(draws) == 12
        assert body["slices"][arm][-1]["cost"] == pytest.approx(sum(d.cost for d in draws))
        guessed = [0.1 if d.val is None else d.val for d in draws]
        assert 0.1 in guessed
        assert body["slices"][arm][0]["mean"] == pytest.approx(np.mean(guessed))
        assert body["slices"][arm][-1]["mean"] == pytest.approx(max(guessed))


def test_a_study_without_a_slice_says_so(tmp_path: Path, bare: Path) -> None:
    run = write_run(tmp_path / "run")
    write(run)
    for folder in (run, bare):
        text = (folder / "report.html").read_text()
        assert "No curve of random settings for resnet8: no run in its random slice." in text
        assert "nan" not in text.lower().replace("finance", "")
        assert "NaN" not in (folder / "report.md").read_text()


def test_every_section_answers_or_says_why_not(bare: Path, tmp_path: Path) -> None:
    few = write_run(tmp_path / "few", runs=2, failed=1)
    write(few)
    for folder in (few, bare):
        text = (folder / "report.md").read_text()
        for needed in (
            "which parameters mattered for resnet8 and resnext8 (too few trials",
            "Not known: ",
            "how much tuning is asked by resnet8 and resnext8 (the random slice has 0 trials",
            "no crossing can be told",
            "Run it again: `python study/run.py --budget 60cpu-minutes --data cifar10 --epochs 9`",
        ):
            assert needed in text, needed
    text = (bare / "report.md").read_text()
    for needed in (
        "No search of an arm has a scored run of what it found yet.",
        "No setting has been selected yet.",
        "There are no nets of two arms in hand to look at.",
        "Ensembles of resnet8 and resnext8 are not compared.",
        "whether one fixed setting would have misled about resnet8 and resnext8 (no arm",
    ):
        assert needed in text, needed


def test_the_trap_is_paired_and_only_asked_of_a_winner(tmp_path: Path) -> None:
    even = write_run(tmp_path / "even", tuned=(0.92, 0.92), rope=0.1, slice_runs=4)
    assert composed(even)["what_mattered"]["traps"] == []
    assert "the answer names no better arm" in (even / "report.md").read_text()
    run = write_run(tmp_path / "run", slice_runs=12, tuned=(0.92, 0.95))
    write(run)
    (trap,) = verdict_json(run)["what_mattered"]["traps"]
    assert (trap["wrong_arm"], trap["paired"], trap["settings"]) == ("resnet8", True, 12)
    evidence = read(run)
    a, b = ([0.1 if d.val is None else d.val for d in evidence.slices[arm]] for arm in evidence.plan.arms)
    wrong = np.mean([(np.sign(x - y) + 1) / 2 for x, y in zip(a, b, strict=True)])
    assert trap["wrong"]["value"] == pytest.approx(wrong)


def test_the_posts_reasons_are_for_its_own_arms(tmp_path: Path, sliced: Path) -> None:
    """Other arms' numbers are still in verdict.json."""
    run = write_run(tmp_path / "run", arms=("resnet50", "resnext50"), confirmed=False)
    write(run)
    for page in ("report.md", "report.html"):
        own, other = ((folder / page).read_text() for folder in (run, sliced))
        for needed in (
            "The post's reasons, tested" if page == "report.md" else "The post&#39;s reasons, tested",
            "Regularisation of resnet50 and resnext50 cannot be compared",
            "--data cifar10 --epochs 9 --train-fraction 0.1",
            "--data cifar10 --epochs 9 --train-fraction 0.3",
        ):
            assert needed in own, needed
            assert needed not in other
    assert verdict_json(run).keys() == verdict_json(sliced).keys()


def test_reasons_costs_and_ensembles_give_the_numbers_of_the_records(sliced: Path) -> None:
    evidence, body = read(sliced), verdict_json(sliced)
    time = body["generalisation"]["pairs"][0]["epoch_time"]
    assert body["answer"][0]["delta"] > 0, "every difference is taken from the leader"
    assert (time["slower"], time["ratio"]) == ("resnext8", pytest.approx(1.0))
    assert {(g["arm"], g["kind"]) for g in body["generalisation"]["gaps"]} == {
        (arm, kind) for arm in evidence.plan.arms for kind in ("confirmed", "random slice")
    }
    assert all(g["gap"] == pytest.approx(0.02, abs=0.0002) for g in body["generalisation"]["gaps"])
    for row in body["accuracy_against_cost"]["rows"]:
        assert row["milliseconds"] == pytest.approx(1 / 3)
        assert (row["kind"] == "tuned") or not row["front"]
    single = {
        row["kind"]: row["accuracy"]
        for row in body["ensembles"]["pairs"][0]["accuracies"]
        if row["members"] == 1
    }
    assert single == pytest.approx({arm: evidence.tuned[arm].mean for arm in evidence.plan.arms})


def test_a_gap_proves_no_regularisation_and_lists_its_parts(sliced: Path) -> None:
    runs = pd.DataFrame(
        [("a", "confirmed", 0.95 + x, 0.90) for x in (0, 0.001, 0.002)]
        + [("b", "confirmed", 0.93 + x, 0.91) for x in (0, 0.001, 0.002)],
        columns=["arm", "kind", "train_accuracy", "val_accuracy"],
    )
    for names in (("a", "b"), ("b", "a")):
        ((said,), _) = generalisation._regularisation(runs, *names, 0.95)
        assert "3.00 pt larger for a than for b" in said
        assert "as it would be if b regularised more" in said
        assert (
            "most of it comes from training accuracy: a minus b is +2.00 pt in training and −1.00 pt in val"
            in said
        )
        assert "so b regularises more" not in said
    assert "closely" not in (sliced / "report.md").read_text()


@pytest.mark.parametrize(
    ("spread", "ratio", "word"),
    [
        (0.2, 1.85, "does not contradict"),
        (0.2, 1.3, "does not contradict"),
        (0.02, 1.3, "agrees with"),
        (0.02, 1.35, "agrees with"),
        (0.02, 2.0, "does not agree with"),
        (0.02, 1.0, "does not agree with"),
    ],
)
def test_a_ratio_agrees_only_when_it_is_known_closely(
    monkeypatch: pytest.MonkeyPatch, sliced: Path, spread: float, ratio: float, word: str
) -> None:
    seconds = {"resnet8": np.array([1.0, 1.0 + spread, 1 - spread])}
    seconds["resnext8"] = ratio * seconds["resnet8"]
    monkeypatch.setattr(generalisation, "epoch_seconds", lambda _, name: seconds[name])
    said, _ = generalisation._time(read(sliced), "resnext8", "resnet8", 0.95)
    assert f", which {word} the post's" in said


def test_the_headline_of_three_arms_says_which_runs_failed(tmp_path: Path) -> None:
    arms = ("a", "b", "c")
    run = write_run(tmp_path / "run", arms=arms, default=(0.9,) * 3, tuned=(0.95, 0.90, 0.91), failed=1)
    found = find(read(run))
    (told,) = {
        a.sentence[a.sentence.index("1 of ") :].split(".")[0] for a in found.answers if "failed" in a.sentence
    }
    assert told.endswith("c runs failed")
    assert f" {told}." in found.headline


def test_three_arms_show_the_leader_against_each_other_arm_and_say_so(tmp_path: Path) -> None:
    three: dict[str, Any] = {"arms": ("a", "b", "c"), "default": (0.9,) * 3, "tuned": (0.90, 0.95, 0.91)}
    body = rewritten(run := write_run(tmp_path / "run", slice_runs=12, **three))
    rule = (
        "Shown: b, the arm with the highest mean, against each other arm; a pair's intervals are at 98.33 %, so that "
        "those of all 3 pairs hold together."
    )
    shown = {"tuning_curves": "crossovers", "generalisation": "pairs", "ensembles": "pairs"}
    for section, key in shown.items():
        assert body[section]["sentences"].count(rule) == 1
        shown_pairs = dict.fromkeys((p["first"], p["second"]) for p in body[section][key])
        assert list(shown_pairs) == [("b", "a"), ("b", "c")]
    assert all(c["confidence"] == pytest.approx(1 - 0.05 / 3) for c in body["tuning_curves"]["crossovers"])
    text = (run / "report.html").read_text()
    assert text.count("Shown: b") == 2
    assert "98.33 % interval" in text[text.index(">Ensembles<") : text.index("What it cost")]
    every = [(v["first"], v["second"]) for v in body["answer"]]  # short facts cover every pair
    assert len(every) == 3
    assert [(p["first"], p["second"]) for p in body["appendix"]["pairs"]] == every
    assert [(v["first"], v["second"]) for v in body["nets"]] == every
    assert {(t["first"], t["second"]) for t in body["what_mattered"]["traps"]} <= set(every)

    open_still = composed(write_run(tmp_path / "open", confirmed=False, **three))
    assert (
        "Shown: a, the arm named first, since none leads yet, against each other arm"
        in open_still["generalisation"]["sentences"][0]
    )


def test_two_arms_need_no_rule_for_their_one_pair(sliced: Path) -> None:
    assert "Shown:" not in (sliced / "report.html").read_text()


def test_runs_without_probabilities_are_no_ensemble(tmp_path: Path, sliced: Path) -> None:
    run = Path(shutil.copytree(sliced, tmp_path / "run"))
    history = read(run).history
    name = history.confirmed("resnet8", history.in_hand("resnet8"))[1].id
    path = run / "predictions" / f"{name}.npz"
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in ("labels", "predictions")}
    np.savez(path, **kept)
    composed(run)
    assert f"{name}.npz has no probabilities that can be read" in (run / "report.md").read_text()


def test_a_default_net_in_hand_is_reported_with_no_gain(tmp_path: Path, sliced: Path) -> None:
    assert "of the default setting" not in (sliced / "report.md").read_text()
    run = Path(shutil.copytree(sliced, tmp_path / "run"))
    default = read(run).history.of("resnet8", "baseline")[0].config

    def kept(record: Record) -> Record:
        if isinstance(record, Manifest):
            own = tuple(replace(c, config=default, default=True) for c in record.choices["resnet8"])
            return Manifest.of({**record.choices, "resnet8": own}, record.in_hand)
        if isinstance(record, Trial) and (record.phase, record.arm) == ("confirm", "resnet8"):
            return replace(record, config=default)
        return record

    edit(run / "ledger.jsonl", kept)
    body = rewritten(run)
    assert body["default_confirmed"] == ["resnet8"]
    assert list(body["gains"]) == ["resnext8"]
    for page in ("report.html", "report.md"):
        text = (run / page).read_text()
        assert "resnet8: its net in hand is of the default setting" in text
        assert "Tuning gained resnet8" not in text
        assert "Tuning gained resnext8" in text
        assert "found nothing better than the default" in text
        assert "The search found nothing better than the default in 4 of 8 searches." in text


@pytest.mark.parametrize(
    ("level", "says"),
    [(0.93, "Tuning gained resnet8 +"), (0.85, "Tuning lost: resnet8 −"), (0.9, "are not shown to differ")],
)
def test_tuning_gains_or_loses_only_what_the_interval_shows(tmp_path: Path, level: float, says: str) -> None:
    run = write_run(tmp_path / "run", tuned=(level, 0.93), default=(0.9, 0.9), luck_sd=0.0)
    write(run)
    for page in ("report.html", "report.md"):
        own = [
            line for line in (run / page).read_text().splitlines() if "resnet8" in line and says[:8] in line
        ]
        assert says in (run / page).read_text(), own


def test_a_failed_run_is_reported_first_and_leaves_no_probabilities(tmp_path: Path, sliced: Path) -> None:
    run = write_run(tmp_path / "run", failed=1)
    body = rewritten(run)
    assert "1 of 21 resnext8 runs failed." in body["headline"]
    assert body["answer"][0]["p_tie"] is None
    rate = body["failure_rates"]["resnext8"]
    assert (rate["value"], rate["low"], rate["high"]) == pytest.approx((1 / 21, 0.0012, 0.2382), abs=1e-4)
    for page in ("report.html", "report.md"):
        text = (run / page).read_text()
        assert "resnet8 0 of 20 (0 to 17 %) and resnext8 1 of 21 (0 to 24 %)" in text
        assert "better by more than 0.50 pt" not in text
        assert "median" in text
        assert "better by more than 0.50 pt" in (sliced / page).read_text()
    assert verdict_json(sliced)["failure_rates"] == {}


def test_a_time_ratio_far_from_the_audits_is_explained(sliced: Path) -> None:
    evidence = read(sliced)
    assert "before the study" not in generalisation._time(evidence, "resnext8", "resnet8", 0.95)[0]
    audits = dict(evidence.plan.audits)
    audits["resnext8"] = replace(audits["resnext8"], images_per_second=300.0)
    text = generalisation._time(
        replace(evidence, plan=replace(evidence.plan, audits=audits)), "resnext8", "resnet8", 0.95
    )[0]
    assert "in training steps alone, would give 3.00" in text
