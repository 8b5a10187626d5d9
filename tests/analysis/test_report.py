"""The report: facts, complete files, same bytes, and one sentence instead of a traceback."""

import dataclasses
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.edited import append, edit
from support.reports import composed
from support.synthetic import Diary, plan, verdict_json, write_run

from analysis import frames, scores
from analysis.__main__ import main
from analysis.report import figures
from analysis.report.build import write
from analysis.report.sections import default_tuned, ensembles, health, learning_curves
from analysis.results import fell_short, read
from analysis.summary import find
from study.protocol.consistency import plan_hash
from study.protocol.errors import StudyError
from study.protocol.ledger import Ledger
from study.protocol.metrics import ACCURACY
from study.protocol.records import (
    PHASES,
    Beat,
    Cost,
    Epoch,
    Manifest,
    Outcome,
    Record,
    Resumed,
    Scored,
    Session,
    TestOpened,
    Trial,
)
from study.protocol.rundir import RunDir

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two arms; tests that change it copy it first."""
    return write_run(tmp_path_factory.mktemp("study") / "run")


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def digests(run: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }


@pytest.mark.drawn
def test_the_report_is_complete_and_starts_with_the_verdict(copied: Path) -> None:
    report = write(copied)
    assert {p.name for p in copied.iterdir()} >= {"report.html", "report.md", "verdict.json", "figures"}
    assert {p.name for p in (copied / "figures").iterdir()} == {
        f"{name}.{kind}"
        for name in ("forest", "classes", "confusions", "reliability", "curves", "tuning", "costs", "spend")
        for kind in ("svg", "png")
    }
    body = verdict_json(copied)
    (answer,) = body["answer"]
    assert body["verdict"] == report.answers[0].word == answer["word"]
    assert body["headline"] == report.headline == report.answers[0].sentence
    assert answer["pairs"] == len(answer["differences"]) == 4
    assert answer["low"] < answer["delta"] < answer["high"]
    assert answer["budget_per_search"] == pytest.approx(1000 / 4)
    assert 0 <= body["nets"][0]["mean_first"] <= 1
    text = (copied / "report.html").read_text()
    for needed in (
        report.headline,
        "4 searches, in pairs, per arm",
        "opened once",
        body["manifests"][0],
        "when each is tuned with a search of 4.17 cpu-minutes",
        "What selection decided",
        "The nets in hand",
        "All arms are trained by the recipe sgd.",
        "Rank correlation of epoch 1, the first rung, with the end, over the random settings: resnet8",
    ):
        assert needed in text
    assert text.index(report.headline) < text.index("Default against tuned") < text.index("Learning curves")
    assert report.headline in (copied / "report.md").read_text()


def test_the_report_explains_the_packing(copied: Path) -> None:
    write(copied)
    for page in ("report.html", "report.md"):
        text = (copied / page).read_text()
        assert "2 trials side by side, each on 1 CPU with 1 thread" in text
        assert "Packing chosen by images/s of all trials together" in text
        assert text.count("channels_last") == 2  # one row for each arm


@pytest.mark.drawn
def test_the_same_inputs_give_the_same_bytes(copied: Path, tmp_path: Path) -> None:
    write(copied)
    first = digests(copied)
    other = Path(shutil.copytree(copied, tmp_path / "elsewhere"))
    shutil.rmtree(other / "figures")
    done = subprocess.run(
        [sys.executable, "-m", "analysis", str(other)], capture_output=True, text=True, check=True
    )
    assert digests(other) == first
    assert done.stdout.splitlines()[-1] == str(other / "report.html")


@pytest.mark.drawn
def test_the_page_loads_nothing_and_closes_its_tags(copied: Path) -> None:
    write(copied)
    text = (copied / "report.html").read_text()
    asked = re.findall(r'(?:src|href|action)="([^"]*)"', text)
    assert all(a.startswith(("#", "data:")) for a in asked)
    assert not re.search(r"@import|<script|<iframe|url\((?!#)", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    open_tags: list[str] = []

    class Walker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
            if tag not in {"meta", "link", "br", "img"}:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass

    Walker().feed(text)
    assert open_tags == []


def test_ten_thousand_classes_are_counted_not_listed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", classes=10_000, images=10, runs=6)
    write(run)
    text = (run / "report.html").read_text()
    assert "10000 classes" in text
    assert "class 9999" not in text
    assert len(text) < 1_000_000
    evidence = read(run)
    tracemalloc.start()
    nets, _ = ensembles._load(run, evidence, "resnet8")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert nets.shape == (6, 10, 10_000)
    assert peak < 1.7 * nets.nbytes, "all nets are held twice"


@pytest.mark.drawn
def test_names_are_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", arms=("resnet8", NASTY))
    report = write(run)
    assert NASTY in report.headline
    text = (run / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script" not in (run / "report.md").read_text()


def test_three_arms_are_compared_pair_by_pair(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", arms=("a", "b", "c"), default=(0.9, 0.9, 0.9), tuned=(0.90, 0.93, 0.91), images=5000
    )
    report = write(run)
    assert report.headline.startswith(
        "Of 3 arms, each tuned with a search of 4.17 cpu-minutes, b has the highest mean"
    )
    body = verdict_json(run)
    assert (len(body["answer"]), body["verdict"]) == (3, None)
    assert all(a["level"] == pytest.approx(1 - 0.05 / 3) for a in body["answer"])
    assert all(a["p"] <= a["holm_p"] <= 3 * a["p"] + 1e-12 for a in body["answer"])
    text = (run / "report.html").read_text()
    assert "95 % over 3 pairs of arms: " in text
    assert "by Holm" in text
    assert "each by itself: they do not share the intervals" in text


def test_an_unfinished_study_has_a_report_without_an_answer(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", confirmed=False)
    report = write(run)
    assert report.answers == ()
    assert report.headline.startswith("No answer yet: no setting has been frozen")
    text = (run / "report.html").read_text()
    assert "Learning curves" in text
    assert verdict_json(run)["verdict"] is None


def test_a_study_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "run", plan())
    diary.ledger.__exit__(None, None, None)
    assert write(tmp_path / "run").answers == ()


def test_missing_scores_withhold_the_verdict(copied: Path) -> None:
    *_, last = read(copied).history.scores.values()
    edit(copied / "ledger.jsonl", lambda record: None if record == last else record)
    report = write(copied)
    assert report.answers == ()
    assert "resnext8: 1 confirmation run not scored" in report.headline


def test_one_confirmation_run_per_find_answers_but_not_for_the_nets(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", runs=1)
    report = write(run)
    assert (len(report.answers), report.nets) == (1, ())
    assert report.answers[0].low is not None
    assert "nan" not in (run / "report.html").read_text().lower().replace("finance", "")


@pytest.mark.drawn
def test_all_outside_text_is_escaped(copied: Path) -> None:
    body = json.loads((copied / "plan.json").read_text())
    for name in ("command", "code"):
        body[name] += NASTY
    for name in ("spec", "note"):
        body["data"][name] += NASTY
    body["data"]["classes"][0] = body["machine"]["name"] = NASTY
    body["versions"] = {NASTY: NASTY}
    body["widen"] = [NASTY]
    (copied / "plan.json").write_text(json.dumps(body))
    edit(copied / "ledger.jsonl", nastier)
    write(copied)
    for name in ("report.html", "report.md"):
        text = (copied / name).read_text()
        assert NASTY[1:7] in text, "nothing of it is shown at all"
        assert "<script" not in text
    for figure in (copied / "figures").glob("*.svg"):
        assert "<script" not in figure.read_text()


def nastier(record: Record) -> Record:
    """The record with markup in every text that comes from a user, an arm or the machine."""
    match record:
        case Trial():
            return dataclasses.replace(record, config={**record.config, NASTY: NASTY})
        case Outcome(state="failed"):
            return dataclasses.replace(record, reason=f"error: {NASTY}")
        case Cost():
            return dataclasses.replace(record, what=NASTY)
        case Manifest():
            nasty = {
                arm: tuple(
                    dataclasses.replace(c, config={**c.config, NASTY: NASTY}, ties=NASTY) for c in found
                )
                for arm, found in record.choices.items()
            }
            return Manifest.of(nasty, record.in_hand, look=record.look)
        case _:
            pass
    return record


def test_an_interruption_is_reported_with_its_cost_and_accepted_changes(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "run", plan())
    with diary.ledger as ledger:
        broke = diary.trial("resnet8", "confirm", state="failed", reason="diverged: loss nan", epochs=2)
        assert fell_short(ledger, broke)
        open_ = dataclasses.replace(ledger.trials[broke], id="open", index=1)
        ledger.add(open_)
        ledger.add(Beat(held={"open": 500.0}))
        ledger.add(Resumed(trial="open", epoch=0, reason="study interrupted", cost=0, lost=500.0, fraction=1))
        ledger.add(
            Session(
                plan=plan_hash(RunDir(tmp_path / "run")), code={}, versions={}, accepted="torch 2.11 -> 2.15"
            )
        )
        assert not fell_short(ledger, "open")
    composed(tmp_path / "run")
    body = verdict_json(tmp_path / "run")
    assert "torch 2.11 -> 2.15" in " ".join(body["warnings"])
    assert "Interruptions cost 8.3 min" in " ".join(body["warnings"])
    assert "no setting has been frozen for confirmation" in (tmp_path / "run" / "report.md").read_text()
    assert "| lost | 500.0 |" in (tmp_path / "run" / "report.md").read_text()


def test_health_warnings_name_each_problem(copied: Path) -> None:
    body = json.loads((copied / "plan.json").read_text())
    body["audits"]["resnext8"]["macs"] *= 2
    (copied / "plan.json").write_text(json.dumps(body))
    append(copied / "ledger.jsonl", TestOpened(manifest="other", trials=()))
    append(copied / "ledger.jsonl", Cost(arm="resnext8", phase="probe", what="measured", cost=3000.0))
    with (copied / "ledger.jsonl").open("a") as file:
        file.write('{"record":"Outc')
    composed(copied)
    warnings = " ".join(verdict_json(copied)["warnings"])
    for needed in (
        "torn",
        "another manifest",
        "not matched",
        "over its share",
        "trials failed",
    ):
        assert needed in warnings


def test_ties_that_disable_early_stopping_are_reported(copied: Path) -> None:
    assert "are all promoted" not in " ".join(health.warnings(read(copied)))

    def level(record: Record) -> Record:
        """Equal first epochs; trials that ASHA stopped there run until the budget ends."""
        if isinstance(record, Epoch) and "arm0-search" in record.trial and record.epoch == 1:
            return dataclasses.replace(record, val_accuracy=0.5)
        if isinstance(record, Outcome) and "arm0-search" in record.trial and record.reason == "asha: rung":
            return dataclasses.replace(record, reason="budget: share spent")
        return record

    edit(copied / "ledger.jsonl", level)
    (warning,) = (line for line in health.warnings(read(copied)) if "are all promoted" in line)
    assert warning.startswith("resnet8: ASHA, which means to stop two thirds at each rung, stopped 0 of 18")
    assert "on 1000 validation images all trials scored the same at its" in warning


@pytest.mark.parametrize("ranks", [True, False])
def test_a_first_rung_that_is_not_shown_to_rank_is_warned_of(tmp_path: Path, ranks: bool) -> None:
    run = write_run(tmp_path / "run", slice_runs=12)

    def ordered(record: Record) -> Record:
        """Random settings score by their number, at the first epoch in reverse unless it ``ranks``."""
        if isinstance(record, Epoch) and "slice" in record.trial:
            place = int(record.trial.rpartition("-")[2]) / 100
            return dataclasses.replace(
                record, val_accuracy=0.5 + (place if ranks or record.epoch > 1 else -place)
            )
        return record

    edit(run / "ledger.jsonl", ordered)
    evidence = read(run)
    assert [shown for _, _, shown in health.first_rung(evidence)] == [ranks, ranks]
    assert len([line for line in health.warnings(evidence) if "ASHA stops most trials" in line]) == (
        not ranks
    )


def test_copies_of_training_images_weaken_the_verdict_by_their_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """resnext8 leads by about 4 pt: 2 of 2000 copies cannot explain that, 180 can."""
    copied = write_run(tmp_path / "run", tuned=(0.90, 0.94))
    plain = find(read(copied)).answers[0]
    assert plain.ahead == "resnext8"
    body = json.loads((copied / "plan.json").read_text())
    for count, word, code in ((2, plain.word, 0), (180, "open", 4)):
        body["data"]["copies"] = count
        (copied / "plan.json").write_text(json.dumps(body))
        assert main([str(copied), "--expect", "resnext8"]) == code
        shown = capsys.readouterr().out
        sentence = f"{count} of the 2000 test images ({count / 20:.2f} %) are training images too"
        assert sentence in shown
        verdict = verdict_json(copied)
        assert verdict["warnings"][0].startswith(sentence)
        assert verdict["verdict"] == word
        assert (verdict["answer"][0]["p_tie"] is None) == (count == 180)
        assert ("which alone can make up 9.00 pt" in verdict["headline"]) == (count == 180)
        text = (copied / "report.html").read_text()
        assert sentence in text[text.index("Before you rely on it") :]
        assert ("Take the copies out" in text) == (count == 180)


def test_untrained_nets_get_no_verdict_and_no_recommendation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", default=(0.3, 0.3), tuned=(0.1, 0.1), images=5000, rope=0.1)
    report = write(run)
    body = verdict_json(run)
    assert body["verdict"] == "open"
    assert "Neither of them is shown to be above guessing the most frequent class" in report.headline
    assert "say nothing about their architectures" in report.answers[0].advice
    first, second, third, fourth = body["warnings"][:4]
    assert "resnet8: its confirmation runs" in first
    assert "it learnt nothing" in first
    assert "resnet8: the net in hand is below the default on the test images, by" in second
    assert "resnext8" in third
    assert "the search lost what the default had" in fourth
    for page in ("report.html", "report.md"):
        text = (run / page).read_text()
        assert "Tuning lost: resnet8 −" in text
        assert "Tuning gained" not in text
        assert not re.search("practical tie</span>|costs the same|is the cheaper|Take resn", text)


def test_an_arm_that_learnt_is_better_than_one_that_did_not(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tuned=(0.9, 0.1))
    verdict = write(run).answers[0]
    assert (verdict.word, verdict.ahead, verdict.doubt) == ("better", "resnet8", "")
    assert "resnext8: its confirmation runs" in " ".join(verdict_json(run)["warnings"])


@pytest.mark.parametrize("missing", ["plan.json", "ledger.jsonl", "predictions/arm0-confirm-1.npz"])
def test_a_missing_file_is_named(copied: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / missing).unlink()
    assert main([str(copied)]) == 2
    error = capsys.readouterr().err
    assert missing in error
    assert error.startswith("error: ")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text"])
def test_damaged_predictions_are_named(copied: Path, content: bytes) -> None:
    (copied / "predictions" / "arm0-confirm-1.npz").write_bytes(content)
    with pytest.raises(StudyError, match=r"arm0-confirm-1\.npz cannot be read"):
        composed(copied)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda own: {"labels": own, "predictions": own}, "does not give the accuracy"),
        (lambda own: {"labels": own[::-1], "predictions": own}, "other labels"),
        (lambda own: {"labels": own, "predictions": own[:-1]}, "of one length"),
        (lambda own: {"labels": own, "predictions": own.astype(str)}, "class numbers"),
        (lambda _: dict.fromkeys(("labels", "predictions"), np.array([{}], dtype=object)), "cannot be read"),
    ],
)
def test_predictions_that_contradict_the_ledger_or_are_pickles_are_refused(
    copied: Path, change: Callable[[Any], dict[str, Any]], why: str
) -> None:
    path = copied / "predictions" / "arm0-confirm-1.npz"
    with np.load(path) as arrays:
        labels = arrays["labels"]
    np.savez(path, **change(labels))
    with pytest.raises(StudyError, match=why):
        composed(copied)


def test_a_damaged_ledger_is_named_by_line(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (copied / "ledger.jsonl").read_text().splitlines(keepends=True)
    lines[6] = "{broken\n"
    (copied / "ledger.jsonl").write_text("".join(lines))
    assert main([str(copied)]) == 2
    assert "line 7" in capsys.readouterr().err


def test_a_ledger_changed_by_hand_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (copied / "ledger.jsonl").read_text()
    (copied / "ledger.jsonl").write_text(text.replace('"test_accuracy":0.', '"test_accuracy":1.', 1))
    assert main([str(copied)]) == 2
    assert "its checksum does not fit" in capsys.readouterr().err


def test_a_failed_run_cannot_be_taken_out_of_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Removing it would change the answer."""
    run = write_run(tmp_path / "run", failed=1)
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    own = [i for i, line in enumerate(lines) if '"arm1-confirm-20"' in line and "TestOpened" not in line]
    assert len(own) == 4  # the trial, two epochs, its end
    (run / "ledger.jsonl").write_text("".join(line for i, line in enumerate(lines) if i not in own))
    assert main([str(run)]) == 2
    assert f"line {own[0] + 1}: its checksum does not fit" in capsys.readouterr().err


def test_a_plan_with_wrong_values_is_no_traceback(copied: Path) -> None:
    body = json.loads((copied / "plan.json").read_text())
    (copied / "plan.json").write_text(json.dumps(body | {"audits": []}))
    assert main([str(copied)]) == 2


def test_scores_of_unknown_trials_are_refused(copied: Path) -> None:
    with Ledger(copied / "ledger.jsonl") as ledger:
        ledger.add(Scored(trial="nobody", test_accuracy=0.9))
    with pytest.raises(StudyError, match="unknown trials nobody"):
        composed(copied)


def test_the_command_prints_scope_verdict_and_path(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(copied)]) == 0
    scope, *between, sentence, path = capsys.readouterr().out.splitlines()
    body = verdict_json(copied)
    assert (scope, sentence) == (body["scope"], body["headline"])
    nets = [v["sentence"] for v in body["nets"] if v["sentence"] not in body["headline"]]
    assert between == [*nets, *(a["advice"] for a in body["answer"] if a["advice"])]
    assert path == str(copied / "report.html")


def test_the_command_refuses_a_folder_without_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2


def test_an_unwritable_folder_is_reported(copied: Path) -> None:
    (copied / "figures").write_text("in the way")
    with pytest.raises(StudyError, match="cannot be written"):
        write(copied)


def test_activities_add_up_to_the_spend_per_arm_and_phase(copied: Path) -> None:
    evidence = read(copied)
    composed(copied)
    history, table = evidence.history, frames.activities(evidence.history, evidence.plan)
    for arm, phase in itertools.product(evidence.plan.arms, PHASES):
        costs = table.loc[(table["arm"] == arm) & (table["phase"] == phase), "cost"]
        assert costs.sum() == pytest.approx(history.spent(arm, phase))
        assert (costs >= 0).all()
    trained = table[table["activity"] == "training"].groupby("arm")["share"].sum()
    assert trained.between(0.1, 1).all()
    text = (copied / "report.md").read_text()
    assert "| search: training |" in text
    assert "| confirm: evaluation |" in text


def test_both_cost_tables_agree_after_an_interruption(tmp_path: Path) -> None:
    """As the runner books it: a restart ends when the trial reports its position, and is recorded with its next epoch."""
    question = plan(("a", "b"))

    def epoch(number: int, cost: float, startup: float) -> Epoch:
        return Epoch(
            trial="t", epoch=number, train_loss=1.0, train_accuracy=0.5, val_loss=1.0, val_accuracy=0.5,
            train_seconds=6.0, eval_seconds=1.0, startup_seconds=startup, cost=cost,
        )  # fmt: skip

    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.add(
            Trial(id="t", arm="a", phase="search", index=0, pair=0, config={}, seed=0, fold=0, epochs=3)
        )
        ledger.add(epoch(1, 9.0, 2.0))
        ledger.add(Beat(held={"t": 12.0}))
        ledger.add(
            Resumed(trial="t", epoch=1, reason="study interrupted", cost=9.0, lost=3.0 + 4.0, fraction=1)
        )
        ledger.add(epoch(2, 16.0, 4.0))
        ledger.add(epoch(3, 23.0, 0.0))
        ledger.add(Outcome(trial="t", state="finished", reason="full length", epochs=3, cost=23.0))
        table, spend = frames.activities(ledger, question), frames.spend(ledger, question)
    assert table["cost"].sum() == spend["cost"].sum() == 30.0
    by_activity = table.groupby("activity")["cost"].sum()
    assert (by_activity["start-up"], by_activity["lost"]) == (2.0, 7.0)


def test_time_after_a_trials_last_report_counts_as_draining(tmp_path: Path) -> None:
    question = plan(("a", "b"))
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        trial = Trial(
            id="t", arm="a", phase="search", index=0, pair=0, config={}, seed=0, fold=0, epochs=1
        )  # fmt: skip
        ledger.add(trial)
        ledger.add(
            Epoch(
                trial="t", epoch=1, train_loss=1.0, train_accuracy=0.5, val_loss=1.0, val_accuracy=0.5,
                train_seconds=6.0, data_seconds=2.0, eval_seconds=1.0, startup_seconds=0.5, cost=10.0,
            )
        )  # fmt: skip
        ledger.add(Outcome(trial="t", state="finished", reason="full length", epochs=1, cost=13.0))
        table = frames.activities(ledger, question)
    found = table[table["cost"] > 0].set_index(["arm", "phase", "activity"])["cost"]
    seconds = {
        "training": 4.0,
        "data": 2.0,
        "evaluation": 1.0,
        "start-up": 0.5,
        "waiting": 2.5,
        "draining": 3.0,
    }
    fraction = question.machine.fraction
    assert fraction == 1
    assert found.to_dict() == {("a", "search", name): cost for name, cost in seconds.items()}


def test_tables_add_up_to_the_ledger(finished: Path) -> None:
    evidence = read(finished)
    trials, spend = frames.trials(evidence.history), frames.spend(evidence.history, evidence.plan)
    assert len(trials) == len(evidence.history.trials)
    assert set(trials["end"]) <= set(frames.ENDS)
    assert "config.learning_rate" in trials.columns
    for arm in evidence.plan.arms:
        assert spend.loc[spend["arm"] == arm, "cost"].sum() == pytest.approx(evidence.history.spent(arm))
        assert spend.loc[spend["arm"] == arm, "share"].sum() == pytest.approx(1)
    assert len(frames.epochs(evidence.history)) == sum(map(len, evidence.history.epochs.values()))
    table = scores.accuracies(evidence)
    assert list(table["runs"]) == [4, 5, 4, 5]
    assert (table["low"] < table["mean"]).all()


def test_figures_draw_the_table_and_nothing_else(finished: Path) -> None:
    evidence = read(finished)
    palette = figures.colours(evidence.plan.arms)
    ax = Figure().subplots()
    table = scores.accuracies(evidence).assign(shown=lambda t: t["kind"])
    default_tuned.draw_forest(table, ax, palette, ACCURACY)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [len(np.asarray(line.get_xdata())) for line in dots] == list(table["runs"])
    assert {line.get_color() for line in ax.lines} == set(palette.values())
    curves = frames.epochs(evidence.history)
    ax = Figure().subplots()
    learning_curves.draw_curves(curves[curves["arm"] == "resnet8"], ax, palette["resnet8"], ACCURACY)
    marks = [line.get_markevery() for line in ax.lines]  # a mark at the end of every trial's curve
    drawn = sum(len(ends) for ends in marks if isinstance(ends, list))
    assert drawn == curves.loc[curves["arm"] == "resnet8", "trial"].nunique()


def test_the_manifest_of_the_made_up_study_is_its_own(finished: Path) -> None:
    history = read(finished).history
    (manifest,) = history.manifests
    assert [type(o) for o in history.opened] == [TestOpened]
    assert history.opened[0].manifest == manifest.sha256


def slowed(run: Path, prefix: str, factor: float) -> None:
    """Slow down the epochs of all trials with this name prefix."""

    def slower(record: Record) -> Record:
        if isinstance(record, Epoch) and record.trial.startswith(prefix):
            return dataclasses.replace(record, train_seconds=factor * 9.5, eval_seconds=0.0)
        return record

    edit(run / "ledger.jsonl", slower)


def test_a_full_run_costs_its_epochs_and_one_slow_run_does_not_count(copied: Path) -> None:
    slowed(copied, "arm0-baseline-0", 4)
    evidence = read(copied)
    held = [evidence.history.outcomes[t.id].cost for t in evidence.history.of("resnet8", "baseline")]
    assert min(held) > 9 * 9.5
    assert evidence.default["resnet8"].full_run == evidence.tuned["resnet8"].full_run == 9 * 9.5
    composed(copied)
    assert "rough" not in " ".join(verdict_json(copied)["warnings"])


def test_one_setting_at_two_prices_causes_a_warning(copied: Path) -> None:
    slowed(copied, "arm1-confirm", 2)
    composed(copied)
    rough = [w for w in verdict_json(copied)["warnings"] if "rough" in w]
    (warning,) = rough
    assert warning.startswith("resnext8: the epochs of a full run of one setting took 85.5 s in ")
    assert "2.9 min in confirm (medians), 2.0 times as long" in warning
