"""Searches cut to equal time, epochs and trials: computed by hand on a ledger of known trials."""

import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from support.synthetic import plan, verdict_json, write_run

from analysis.report.build import write
from analysis.report.section import Context
from analysis.report.sections import robustness
from analysis.results import Evidence, read
from analysis.summary import find
from study.protocol.allocation import budget_for_pairs
from study.protocol.history import History
from study.protocol.records import Choice, Config, Epoch, Manifest, Outcome, Phase, Scored, Trial

ARMS = ("cheap", "dear")


class Book:
    """A ledger in memory, with trials of stated epochs, accuracy and seconds per epoch."""

    def __init__(self, pairs: int = 3) -> None:
        self.history, self.pairs = History(), pairs

    def trial(
        self, arm: str, phase: Phase, lr: float, *, val: float, epochs: int, seconds: float, state: str = ""
    ) -> str:
        index = len(self.history.of(arm, phase))
        name = f"{arm}-{phase}-{index}"
        pair = index % self.pairs if phase == "search" else 0
        self.history.add(
            Trial(id=name, arm=arm, phase=phase, index=index, pair=pair, config={"lr": lr}, seed=zlib.crc32(name.encode()), fold=0, epochs=3)
        )  # fmt: skip
        for epoch in range(1, epochs + 1):
            self.history.add(
                Epoch(
                    trial=name, epoch=epoch, train_loss=0.0, train_accuracy=val, val_loss=0.0,
                    val_accuracy=val - 0.1 * (epochs - epoch), train_seconds=seconds, eval_seconds=0.0,
                    cost=epoch * seconds,
                )
            )  # fmt: skip
        self.history.add(
            Outcome(
                trial=name,
                state="failed" if state else "finished" if epochs == 3 else "stopped",
                reason=state or "full length",
                epochs=epochs,
                cost=epochs * seconds,
            )
        )
        return name

    def evidence(self, **confirmed: Config) -> Evidence:
        choices = {
            arm: tuple(
                Choice(
                    pair=pair, config=config, default=config == {"lr": 0.5}, trials=(), val_accuracy=0.9, lead=None,
                    lead_se=None, run_variance=0.0, runs=2, ties="",
                )
                for pair in range(self.pairs)
            )
            for arm, config in confirmed.items()
        }  # fmt: skip
        self.history.add(Manifest.of(choices, dict.fromkeys(confirmed, 0)))
        question = replace(plan(ARMS), budget=budget_for_pairs(plan(ARMS), 3))
        return Evidence(
            plan=question, history=self.history, default={}, tuned={}, finds={}, slices={}, open=()
        )


def section(evidence: Evidence) -> tuple[str, ...]:
    return robustness.section(Context(run=Path(), evidence=evidence, found=find(evidence))).text


@pytest.fixture
def book() -> Book:
    """``dear`` takes three times as long per epoch; ``cheap`` found its best, lr 5, late."""
    made = Book()
    for arm, seconds in zip(ARMS, (10.0, 30.0), strict=True):
        made.trial(arm, "baseline", 0.5, val=0.70, epochs=3, seconds=seconds)
        made.trial(arm, "slice", 1, val=0.80, epochs=3, seconds=seconds)
        made.trial(arm, "search", 2, val=0.85, epochs=3, seconds=seconds)
    for lr, val in ((3.0, 0.86), (4.0, 0.84), (5.0, 0.92), (6.0, 0.2)):
        made.trial("cheap", "search", lr, val=val, epochs=3, seconds=10.0)
    return made


def test_every_currency_cuts_at_the_smaller_arms_total(book: Book) -> None:
    # cheap: 6 trials, 18 epochs, 180 s; dear: 2 trials, 6 epochs, 180 s
    time, epochs, trials = robustness.replay(book.evidence(cheap={"lr": 5.0}, dear={"lr": 2}))
    assert [e.currency for e in (time, epochs, trials)] == ["resource-time", "epochs", "trials"]
    assert [(f.used, f.of) for f in time.found] == [(180, 180), (180, 180)]
    assert [(f.used, f.of) for f in epochs.found] == [(6, 18), (6, 6)]
    assert [(f.used, f.of) for f in trials.found] == [(2, 6), (2, 2)]
    assert [f.setting for f in time.found] == [{"lr": 5.0}, {"lr": 2}]
    assert [f.setting for f in epochs.found] == [{"lr": 2}, {"lr": 2}]
    assert [f.standing for f in time.found] == ["same finds", "same finds"]
    assert [f.standing for f in trials.found] == ["not found", "same finds"]


def test_further_pairs_of_a_second_look_are_compared_too() -> None:
    made = Book(pairs=4)
    for arm, searched in zip(ARMS, (4, 3), strict=True):
        made.trial(arm, "baseline", 0.5, val=0.70, epochs=3, seconds=10.0)
        for lr in range(2, 2 + searched):
            made.trial(arm, "search", lr, val=0.8, epochs=3, seconds=10.0)
    _, _, trials = robustness.replay(made.evidence(cheap={"lr": 2}, dear={"lr": 2}))
    assert [(f.used, f.of) for f in trials.found] == [(3, 4), (3, 3)]
    assert [f.standing for f in trials.found] == [
        "still found",
        "same finds",
    ]  # pair 4 of cheap lost its find


def test_the_last_trial_is_cut_at_an_epoch(book: Book) -> None:
    book.trial("dear", "search", 7.0, val=0.95, epochs=1, seconds=30.0)  # 7 epochs, 210 s, 3 trials
    _, epochs, trials = robustness.replay(book.evidence(cheap={"lr": 3.0}, dear={"lr": 2}))
    cheap = epochs.found[0]
    assert cheap.used == 7  # lr 3 trained one epoch
    assert cheap.standing == "still found"  # alone in its search, against fewer
    assert trials.found[0].setting == {"lr": 3.0}


def test_time_counts_failed_trials_and_stops_within_an_epoch(book: Book) -> None:
    book.trial("dear", "search", 7.0, val=0.3, epochs=1, seconds=25.0, state="diverged: loss nan")
    time, _, trials = robustness.replay(book.evidence(cheap={"lr": 5.0}, dear={"lr": 2}))
    assert [(f.used, f.of) for f in time.found] == [(180, 180), (180, 205)]
    assert time.found[1].setting == {"lr": 2}  # 5 s remain, too little for an epoch of the failed trial
    assert [f.used for f in trials.found] == [3, 3]
    assert trials.found[1].setting == {"lr": 2}  # a failed trial is no find


def test_the_test_accuracy_is_of_the_setting_found(book: Book) -> None:
    for trial, accuracy in (("cheap-slice-0", 0.81), ("dear-slice-0", 0.79)):
        book.history.add(Scored(trial=trial, test_accuracy=accuracy))
    own = book.trial("cheap", "confirm", 5.0, val=0.9, epochs=3, seconds=10.0)
    book.history.add(Scored(trial=own, test_accuracy=0.91))
    net = book.trial("cheap", "select", 2, val=0.85, epochs=3, seconds=10.0)
    book.history.add(Scored(trial=net, test_accuracy=0.83))
    time, epochs, _ = robustness.replay(book.evidence(cheap={"lr": 5.0}, dear={"lr": 2}))
    assert (time.found[0].test, time.found[0].nets) == (0.91, 1)
    assert (epochs.found[0].test, epochs.found[0].nets) == (0.83, 1)  # it would have found lr 2
    assert (epochs.found[1].test, epochs.found[1].nets) == (None, 0)


def test_a_search_without_a_lasting_trial_has_the_default_left() -> None:
    book = Book()
    for arm in ARMS:
        book.trial(arm, "baseline", 0.5, val=0.7, epochs=3, seconds=10.0)
    book.trial("cheap", "search", 1.0, val=0.8, epochs=3, seconds=10.0)
    evidence = book.evidence(cheap={"lr": 0.5}, dear={"lr": 0.5})
    for equal in robustness.replay(evidence):
        assert [f.used for f in equal.found] == [0, 0]
        assert [f.standing for f in equal.found] == ["still found", "same finds"]  # the default


def test_the_report_says_which_candidates_stand_and_compares_no_validation(
    book: Book, tmp_path: Path
) -> None:
    (lost,) = section(book.evidence(cheap={"lr": 5.0}, dear={"lr": 2}))
    assert (
        "At equal epochs and equal trials no search would have come to the setting in hand of cheap:" in lost
    )
    for name, arms in (("two", ("a", "b")), ("three", ("a", "b", "c"))):
        level = (0.9,) * len(arms)
        run = write_run(tmp_path / name, arms=arms, default=level, tuned=level)
        write(run)
        body = verdict_json(run)["what_changes_the_answer"]
        assert [[f["arm"] for f in e["found"]] for e in body["currencies"]] == [list(arms)] * 3
        assert "val" not in body["currencies"][0]["found"][0]
        page = (run / "report.md").read_text()
        part = page[page.index("## What changes the answer") :].split("\n## ")[0]
        assert "optimistic" not in part
        assert body["sentences"][0] in part
        for equal in body["currencies"]:
            used = [f["used"] for f in equal["found"]]
            step = {"resource-time": 11.5, "epochs": 1, "trials": 0}[equal["currency"]]
            assert max(used) == pytest.approx(min(f["of"] for f in equal["found"]))
            assert max(used) - min(used) <= step


def test_nothing_is_replayed_before_the_settings_are_frozen(tmp_path: Path) -> None:
    evidence = read(write_run(tmp_path / "run", confirmed=False))
    assert robustness.replay(evidence) == []
    assert "no setting has been frozen" in section(evidence)[0]
