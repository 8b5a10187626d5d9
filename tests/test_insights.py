"""What stands beside the verdict: the numbers are the estimators', and every question has an answer or a reason."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from edited import edit
from simulate import arm as runs_of
from simulate import table
from synthetic import write_run

from analysis import findings, whys
from analysis.__main__ import main
from analysis.estimate import Refused, welch
from analysis.evidence import read
from analysis.report import write
from analysis.verdict import judge
from study.records import Outcome, Record, Scored, Trial


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with a random slice and two islands per arm, its report written."""
    run = write_run(tmp_path_factory.mktemp("study") / "run", slice_runs=12, images=2000)
    write(run)
    return run


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has only searched: nothing that this file is about can be answered."""
    run = write_run(tmp_path_factory.mktemp("bare") / "run", confirmed=False)
    write(run)
    return run


def told(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "verdict.json").read_text())
    return found


def test_q3_is_welch_over_the_searches_own_runs(sliced: Path) -> None:
    evidence, body = read(sliced), told(sliced)["search_against_search"]
    (pair,) = body["pairs"]
    a, b = (np.array(evidence.islands[pair[side]].accuracies) for side in ("first", "second"))
    expected = welch(a, b)
    assert [pair[k] for k in ("delta", "low", "high")] == pytest.approx(
        [expected.delta, expected.low, expected.high]
    )
    assert body["values"]["resnet8"] == pytest.approx(evidence.islands["resnet8"].accuracies)
    assert "What another search would give is reported separately below" in told(sliced)["scope"]
    assert "| resnet8, search 1 |" in (sliced / "report.md").read_text()


def test_q3_and_scope_agree_when_a_search_left_no_run(tmp_path: Path, sliced: Path) -> None:
    run = Path(shutil.copytree(sliced, tmp_path / "run"))
    score = read(run).history.scores["arm1-select-1"]
    edit(run / "ledger.jsonl", lambda record: None if record == score else record)
    write(run)
    body = told(run)
    assert body["search_against_search"]["estimated"] is False
    assert body["search_against_search"]["told"] == [
        "Q3 is not estimated: only one of the 2 searches of resnext8 has a scored run of its own."
    ]
    assert "It is no answer for the search itself" in body["scope"] == body["verdicts"][0]["scope"]


@pytest.mark.parametrize("level", [(0.97, 0.96), (0.97, 0.97)])
def test_q3_of_searches_that_never_differ_is_refused(sliced: Path, level: tuple[float, float]) -> None:
    evidence = read(sliced)
    still = {
        name: runs_of(name, table([mean, mean])) for name, mean in zip(evidence.plan.arms, level, strict=True)
    }
    asked = replace(evidence, islands=still)
    with pytest.raises(Refused, match="nothing shows how searches vary"):
        findings.procedure(asked, "resnet8", "resnext8", 0.95)
    found = findings.find(asked)
    assert found.procedures == ()
    assert "what another search would give could not be estimated" in found.scope
    one = still | {"resnet8": runs_of("resnet8", table([0.97, 0.96]))}
    estimate = findings.procedure(replace(evidence, islands=one), "resnet8", "resnext8", 0.95)
    assert estimate.df == pytest.approx(1)  # the one arm's that varies


def test_an_arm_of_which_every_run_failed_is_not_compared(
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
    why = "all 5 confirmation runs of resnext8 failed, so there is no trained net to compare"
    assert capsys.readouterr().out.splitlines()[0] == f"No verdict: {why}."
    body = told(run)
    assert (body["verdict"], body["verdicts"], list(body["gains"])) == (None, [], ["resnet8"])


def test_one_trained_net_leaves_no_interval_without_the_failed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", runs=1, failed=2)
    evidence = read(run)
    two = evidence.tuned | {"resnet8": runs_of("resnet8", table([0.92, 0.93], images=2000))}
    found = findings.find(replace(evidence, tuned=two))
    assert found.headline.endswith("2 of 3 resnext8 runs failed.")
    none = replace(evidence.tuned["resnext8"], correct=table([0.1, 0.1], images=2000), failed=(0, 1))
    assert judge(two["resnet8"], none, rope=0.005).sentence.endswith("2 of 2 resnext8 runs failed.")


def test_one_search_per_arm_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", share=800.0)
    assert read(run).plan.islands == 1
    write(run)
    assert told(run)["search_against_search"]["told"] == ["Q3 is not estimated: one search per arm."]
    assert "found by one search per arm" in told(run)["scope"]


@pytest.mark.parametrize(
    ("tuned", "arm", "code"),
    [
        ((0.90, 0.95), "resnext8", 0),
        ((0.90, 0.95), "resnet8", 1),
        ((0.92, 0.923), "resnext8", 4),
        ((0.92, 0.923), "nobody", 2),
    ],
)
def test_the_gate_answers_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tuned: tuple[float, float], arm: str, code: int
) -> None:
    run = write_run(tmp_path / "run", tuned=tuned)
    assert main([str(run), "--expect", arm]) == code
    if code == 2:
        assert "resnet8, resnext8" in capsys.readouterr().err


def test_the_gate_on_ties_several_arms_and_no_verdict(tmp_path: Path, bare: Path) -> None:
    tie = write_run(tmp_path / "tie", tuned=(0.92, 0.92), rope=0.1)
    assert told_after(tie)["verdict"] == "practical tie"
    assert main([str(tie), "--expect", "resnext8"]) == 1
    assert main([str(bare), "--expect", "resnext8"]) == 4
    three = write_run(tmp_path / "three", arms=("a", "b", "c"), default=(0.9,) * 3, tuned=(0.9, 0.95, 0.9))
    assert [main([str(three), "--expect", arm]) for arm in "abc"] == [1, 0, 1]


def told_after(run: Path) -> dict[str, Any]:
    write(run)
    return told(run)


def test_the_appendix_says_what_each_number_is_about(sliced: Path) -> None:
    (pair,) = told(sliced)["appendix"]["pairs"]
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


def test_bud_3_curves_stop_at_what_was_spent(sliced: Path) -> None:
    evidence, body = read(sliced), told(sliced)["tuning_curves"]
    tuning = evidence.history.tuning
    assert tuning is not None
    for arm in evidence.plan.arms:
        share = (tuning.per_arm - evidence.history.spent(arm, "slice")) / evidence.plan.islands
        assert body["islands"][arm][-1]["cost"] == pytest.approx(share)
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
            "--data cifar10 --epochs 9 --train-fraction 0.1",
            "--data cifar10 --epochs 9 --train-fraction 0.3",
            "Run it again: `python study/run.py --budget 60cpu-minutes --data cifar10 --epochs 9`",
        ):
            assert needed in text, needed
    text = (bare / "report.md").read_text()
    for needed in (
        "Q3 is not estimated: none of the 2 searches of resnet8",
        "There is no verdict, and so no pair to look at.",
        "Ensembles of resnet8 and resnext8 are not compared.",
        "Regularisation of resnet8 and resnext8 cannot be compared",
        "whether one fixed setting would have misled about resnet8 and resnext8 (no arm",
    ):
        assert needed in text, needed


def test_the_trap_is_paired_and_only_asked_of_a_winner(tmp_path: Path) -> None:
    even = write_run(tmp_path / "even", tuned=(0.92, 0.92), rope=0.1, slice_runs=4)
    assert told_after(even)["what_mattered"]["traps"] == []
    assert "the verdict names no better arm" in (even / "report.md").read_text()
    run = write_run(tmp_path / "run", slice_runs=12, tuned=(0.92, 0.95))
    write(run)
    (trap,) = told(run)["what_mattered"]["traps"]
    assert (trap["wrong_arm"], trap["paired"], trap["settings"]) == ("resnet8", True, 12)
    evidence = read(run)
    a, b = ([0.1 if d.val is None else d.val for d in evidence.slices[arm]] for arm in evidence.plan.arms)
    wrong = np.mean([(np.sign(x - y) + 1) / 2 for x, y in zip(a, b, strict=True)])
    assert trap["wrong"]["value"] == pytest.approx(wrong)


def test_whys_costs_and_ensembles_give_the_numbers_of_the_records(sliced: Path) -> None:
    evidence, body = read(sliced), told(sliced)
    time = body["whys"]["pairs"][0]["epoch_time"]
    assert body["verdicts"][0]["delta"] > 0, "every difference is told from the leader"
    assert (time["slower"], time["ratio"]) == ("resnext8", pytest.approx(1.0))
    assert {(g["arm"], g["kind"]) for g in body["whys"]["gaps"]} == {
        (arm, kind) for arm in evidence.plan.arms for kind in ("confirmed", "random slice")
    }
    assert all(g["gap"] == pytest.approx(0.02, abs=0.0002) for g in body["whys"]["gaps"])
    for row in body["accuracy_against_cost"]["rows"]:
        assert row["milliseconds"] == pytest.approx(1 / 3)
        assert (row["kind"] == "tuned") or not row["front"]
    single = {
        row["kind"]: row["accuracy"]
        for row in body["ensembles"]["pairs"][0]["accuracies"]
        if row["members"] == 1
    }
    assert single == pytest.approx({arm: evidence.tuned[arm].mean for arm in evidence.plan.arms})


def test_a_gap_is_no_proof_of_regularisation_and_says_what_it_is_made_of(sliced: Path) -> None:
    runs = pd.DataFrame(
        [("a", "confirmed", 0.95 + x, 0.90) for x in (0, 0.001, 0.002)]
        + [("b", "confirmed", 0.93 + x, 0.91) for x in (0, 0.001, 0.002)],
        columns=["arm", "kind", "train_accuracy", "val_accuracy"],
    )
    for names in (("a", "b"), ("b", "a")):
        ((said,), _) = whys._regularisation(runs, *names, 0.95)
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
    monkeypatch.setattr(whys, "epoch_seconds", lambda _, name: seconds[name])
    said, _ = whys._time(read(sliced), "resnext8", "resnet8", 0.95)
    assert f", which {word} the post's" in said


def test_three_arms_show_the_leader_against_each_other_arm_and_say_so(tmp_path: Path) -> None:
    three: dict[str, Any] = {"arms": ("a", "b", "c"), "default": (0.9,) * 3, "tuned": (0.90, 0.95, 0.91)}
    body = told_after(run := write_run(tmp_path / "run", slice_runs=12, **three))
    rule = (
        "Shown: b, the arm with the highest mean, against each other arm; a pair's intervals are at 98.33 %, so that "
        "those of all 3 pairs hold together."
    )
    shown = {"tuning_curves": "crossovers", "whys": "pairs", "ensembles": "pairs"}
    for section, key in shown.items():
        assert body[section]["told"].count(rule) == 1
        assert [(p["first"], p["second"]) for p in body[section][key]] == [("b", "a"), ("b", "c")]
    assert all(c["confidence"] == pytest.approx(1 - 0.05 / 3) for c in body["tuning_curves"]["crossovers"])
    text = (run / "report.html").read_text()
    assert text.count("Shown: b") == 3
    assert "98.33 % interval" in text[text.index(">Ensembles<") : text.index("What it cost")]
    every = [(v["first"], v["second"]) for v in body["verdicts"]]  # what takes a line is told of every pair
    assert len(every) == 3
    for section in ("search_against_search", "appendix"):
        assert [(p["first"], p["second"]) for p in body[section]["pairs"]] == every
    assert {(t["first"], t["second"]) for t in body["what_mattered"]["traps"]} <= set(every)

    open_still = told_after(write_run(tmp_path / "open", confirmed=False, **three))
    assert (
        "Shown: a, the arm named first, since none leads yet, against each other arm"
        in open_still["whys"]["told"][0]
    )


def test_two_arms_need_no_rule_for_their_one_pair(sliced: Path) -> None:
    assert "Shown:" not in (sliced / "report.html").read_text()


def test_runs_without_probabilities_are_no_ensemble(tmp_path: Path, sliced: Path) -> None:
    run = Path(shutil.copytree(sliced, tmp_path / "run"))
    path = run / "predictions" / "arm0-confirm-1.npz"
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in ("labels", "predictions")}
    np.savez(path, **kept)
    write(run)
    assert "arm0-confirm-1.npz has no probabilities that can be read" in (run / "report.md").read_text()


def test_a_search_that_found_the_default_is_told_and_gains_nothing(tmp_path: Path, sliced: Path) -> None:
    assert "selection chose the default" not in (sliced / "report.md").read_text()
    run = Path(shutil.copytree(sliced, tmp_path / "run"))
    chosen = read(run).history.manifest
    assert chosen is not None
    config = chosen.choices["resnet8"].config

    def found_again(record: Record) -> Record:
        if isinstance(record, Trial) and (record.phase, record.arm) == ("baseline", "resnet8"):
            return replace(record, config=config)
        return record

    edit(run / "ledger.jsonl", found_again)
    assert told_after(run)["default_confirmed"] == ["resnet8"]
    for page in ("report.html", "report.md"):
        text = (run / page).read_text()
        assert "resnet8: selection chose the default: both rows are the same" in text
        assert "Tuning gained resnet8" not in text
        assert "Tuning gained resnext8" in text
        assert "the default itself" in text


def test_a_failed_run_is_told_first_and_leaves_no_probabilities(tmp_path: Path, sliced: Path) -> None:
    run = write_run(tmp_path / "run", failed=1)
    body = told_after(run)
    clause = "1 of 6 resnext8 runs failed; that alone makes the interval this wide."
    assert body["headline"].endswith(clause)
    assert body["verdicts"][0]["p_tie"] is None
    rate = body["failure_rates"]["resnext8"]
    assert (rate["value"], rate["low"], rate["high"]) == pytest.approx((1 / 6, 0.00421, 0.64123), abs=1e-4)
    for page in ("report.html", "report.md"):
        text = (run / page).read_text()
        assert "resnet8 0 of 5 (0 to 52 %) and resnext8 1 of 6 (0 to 64 %)" in text
        assert "better by more than 0.50 pt" not in text
        assert "median" in text
        assert "better by more than 0.50 pt" in (sliced / page).read_text()
    assert told(sliced)["failure_rates"] == {}


def test_a_measured_time_that_the_audit_does_not_foretell_is_explained(sliced: Path) -> None:
    evidence = read(sliced)
    assert "before the study" not in whys._time(evidence, "resnext8", "resnet8", 0.95)[0]
    audits = dict(evidence.plan.audits)
    audits["resnext8"] = replace(audits["resnext8"], images_per_second=300.0)
    told = whys._time(
        replace(evidence, plan=replace(evidence.plan, audits=audits)), "resnext8", "resnet8", 0.95
    )[0]
    assert "in training steps alone, would give 3.00" in told
