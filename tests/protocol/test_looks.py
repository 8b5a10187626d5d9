"""Second looks and added arms: levels by METHOD.md and by simulation, earlier studies, and refusals with reasons."""

import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.records import unpacked
from support.schedules import ARMS, a_plan, an_arm, diverges, drive, play

from search_spaces import load
from study.protocol import allocation, consistency, levels, looks
from study.protocol.budget import Budget
from study.protocol.consistency import check
from study.protocol.errors import InputError
from study.protocol.ledger import Ledger, read
from study.protocol.plan import Plan
from study.protocol.question import Earlier
from study.protocol.records import Phase, Scored, TestOpened
from study.protocol.rundir import SERIES, RunDir
from study.scheduling.schedule import Schedule


def test_second_level_matches_normal_theory_over_many_pairs_and_is_lower_over_few() -> None:
    assert levels.second_level(100, 400, spent=0.027, total=0.05) == pytest.approx(0.027, abs=5e-4)
    assert levels.second_level(4, 16, spent=0.027, total=0.05) < 0.026
    assert levels.second_level(1, 4, spent=0.0, total=0.05) == 0.05
    for first, second, spent, total in ((4, 8, 0.027, 0.05), (4, 8, 0.05, 0.06), (3, 4, 0.05, 0.06)):
        level = levels.second_level(first, second, spent=spent, total=total)
        assert levels.either(spent, level, first, second) < total


def test_an_undecided_study_goes_on_with_further_pairs(tmp_path: Path) -> None:
    plan = a_plan(minutes=20)
    with a_finished(plan, tmp_path) as ledger:
        extension = looks.second_look(plan, ledger, Budget.parse("35cpu-minutes"))
        assert extension.pairs == 3
        assert extension.level == pytest.approx(
            0.01838, abs=5e-5
        )  # 0.06 in all, of which the first look took 0.05
        assert "3 further pairs" in looks.describe_second_look(plan, ledger, extension)
        before = {t.id: t for t in ledger.trials.values()}
        ledger.add(extension)
        now = [1e6]
        drive(Schedule(plan, ledger, ARMS, clock=lambda: now[0]), now, diverges)
        check(ledger, plan)
        new = [t for t in ledger.trials.values() if t.id not in before]
        assert {t.phase for t in new} == {"search", "select", "confirm"}
        assert {t.pair for t in new} == {4, 5, 6}
        assert all(t.fold == t.pair % plan.folds for t in new if t.phase == "search")
        for arm in ARMS:
            assert [c.pair for c in ledger.choices(arm)] == list(range(7))
            best = max(ledger.choices(arm), key=lambda c: c.val_accuracy)
            assert best.val_accuracy == ledger.choices(arm)[ledger.in_hand(arm)].val_accuracy
            assert ledger.spent(arm) <= 35 * 60 / 2 + 2 * allocation.full_run(plan, arm)
            searches = [ledger.spent(arm, "search", pair=p) for p in range(7)]
            assert max(searches) < 1.3 * min(searches)
        assert [m.look for m in ledger.manifests] == [1, 2]
        assert ledger.manifests[1].choices.keys() == set(ARMS)


def test_a_second_look_that_is_interrupted_goes_on(tmp_path: Path) -> None:
    plan = a_plan(minutes=20, slots=1)
    with a_finished(plan, tmp_path) as ledger:
        ledger.add(looks.second_look(plan, ledger, Budget.parse("35cpu-minutes")))
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    for path in (whole, killed):
        path.write_bytes((tmp_path / "ledger.jsonl").read_bytes())
    rng, done = np.random.default_rng(0), False
    while not done:
        with Ledger(killed) as ledger:
            now = [1e6]
            done = drive(
                Schedule(plan, ledger, ARMS, clock=functools.partial(now.__getitem__, 0)), now, diverges,
                lambda: float(rng.uniform()) < 0.02,
            )  # fmt: skip
    with Ledger(whole) as ledger:
        now = [1e6]
        drive(Schedule(plan, ledger, ARMS, clock=lambda: now[0]), now, diverges)
    assert read(killed).manifests == read(whole).manifests
    assert list(read(killed).trials.values()) == list(read(whole).trials.values())


def test_an_added_arm_gets_the_same_budget_and_proposals(tmp_path: Path) -> None:
    three = dataclasses.replace(
        a_plan(minutes=30),
        arms=(*ARMS, "third"),
        audits={**a_plan().audits, "third": a_plan().audits["tiny_resnet"]},
        probe_cost=dict.fromkeys((*ARMS, "third"), 10.0),
    )
    plan = a_plan(minutes=20)
    with a_finished(plan, tmp_path) as ledger:
        assert looks.added_arm(plan, ledger, [*ARMS, "third"]) == "third"
        ledger.add(an_arm(three))
        extended = plan.extended(ledger.extension)
        assert extended.arms == (*ARMS, "third")
        assert extended.share == plan.share
        assert extended.pairs == plan.pairs
        before = {arm: ledger.spent(arm) for arm in ARMS}
        now = [1e6]
        arms = {**ARMS, "third": load("tiny_resnet")}
        drive(Schedule(extended, ledger, arms, clock=lambda: now[0]), now, diverges)
        check(ledger, extended)
        assert {arm: ledger.spent(arm) for arm in ARMS} == before
        assert [c.pair for c in ledger.choices("third")] == list(range(plan.pairs))
        assert ledger.manifests[1].choices.keys() == {"third"}
        first, third = (
            [[t.config["lr"] for t in ledger.of(arm, "search") if t.pair == p][:6] for p in range(plan.pairs)]
            for arm in ("tiny_resnet", "third")
        )
        assert first == third  # the same random first proposals
        with pytest.raises(InputError, match="extended already"):
            looks.added_arm(extended, ledger, [*ARMS, "third", "fourth"])
    reread = read(tmp_path / "ledger.jsonl")
    assert plan.extended(reread.extension) == extended


def test_an_impossible_extension_is_refused_with_the_reason(tmp_path: Path) -> None:
    plan = a_plan(minutes=20)
    with Ledger(tmp_path / "none.jsonl") as ledger, pytest.raises(InputError, match="not finished"):
        looks.second_look(plan, ledger, Budget.parse("35cpu-minutes"))
    with a_finished(plan, tmp_path) as ledger:
        asked = looks.second_look(plan, ledger, Budget.parse("35cpu-minutes"))
        with pytest.raises(InputError, match="no answer that"):
            looks.still_open(asked, [])
        with pytest.raises(InputError, match="has its answer"):
            looks.still_open(asked, [("better", "A is better."), ("practical tie", "Equal.")])
        assert "Open." in looks.still_open(asked, [("better", "A is."), ("open", "Open.")]).reason
        for amount, why in (
            ("20cpu-minutes", "new total"),
            ("1gpu-hours", "cpu time"),
            ("20.5cpu-minutes", "buys no"),
            ("9cpu-hours", "both looks together have 20 at most"),
        ):
            with pytest.raises(InputError, match=why):
                looks.second_look(plan, ledger, Budget.parse(amount))
        for pairs in (1, 3, 16):
            enough = looks.budget_for(plan, ledger, pairs)
            assert looks.second_look(plan, ledger, enough).pairs == pairs
        with pytest.raises(InputError, match=r"--budget (\S+) does") as caught:
            looks.second_look(plan, ledger, Budget.parse("20.5cpu-minutes"))
        named = str(caught.value).split("--budget ")[-1].split(" ")[0]
        assert looks.second_look(plan, ledger, Budget.parse(named)).pairs >= 1
        for arms in (list(ARMS), [*ARMS, "c", "d"], ["tiny_resnet", "c"], ["c"]):
            with pytest.raises(InputError, match=f"exactly one more: --arms {','.join(ARMS)},"):
                looks.added_arm(plan, ledger, arms)
        ledger.add(looks.second_look(plan, ledger, Budget.parse("35cpu-minutes")))
        with pytest.raises(InputError, match=looks.NO_THIRD):
            looks.second_look(plan, ledger, Budget.parse("90cpu-minutes"))


def test_an_arm_with_too_expensive_runs_is_refused() -> None:
    plan = a_plan(minutes=20)
    slow = dataclasses.replace(plan.audits["tiny_resnet"], images_per_second=200.0)
    dear = dataclasses.replace(
        plan, arms=(*ARMS, "third"), audits={**plan.audits, "third": slow}, probe_cost=dict.fromkeys((*ARMS, "third"), 1.0)
    )  # fmt: skip
    with pytest.raises(InputError, match="the added arm has 1 searches, the others have 4"):
        plan.extended(an_arm(dear))


def test_what_a_refused_arm_is_told_to_do_instead_can_be_done() -> None:
    for minutes in (7, 20):
        plan = a_plan(minutes=minutes)
        slow = dataclasses.replace(plan.audits["tiny_resnet"], images_per_second=200.0)
        said = looks.instead(plan, "third", slow, 1.0)
        whole = dataclasses.replace(
            plan, arms=(*ARMS, "third"), audits={**plan.audits, "third": slow}, probe_cost=dict.fromkeys((*ARMS, "third"), 1.0),
            budget=Budget.parse(said.split("--budget ")[1].split()[0]),
        )  # fmt: skip
        assert allocation.with_length(whole, int(said.split("--epochs ")[1])).pairs >= plan.pairs


def test_studies_that_opened_the_same_test_files_are_counted(tmp_path: Path) -> None:
    plan = dataclasses.replace(a_plan(minutes=20), test_source="s" * 64)
    for seed, (name, source) in enumerate(
        (("one", "s" * 64), ("two", "s" * 64), ("other", "t" * 64), ("unopened", "s" * 64))
    ):
        (tmp_path / name).mkdir()
        own = dataclasses.replace(plan, test_source=source, seed=seed)
        own.save(tmp_path / name / "plan.json")
        if name == "unopened":
            (tmp_path / name / "ledger.jsonl").write_text("")
        else:
            with a_finished(own, tmp_path / name):
                pass
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "plan.json").write_text("{")
    found = looks.earlier_studies(tmp_path / "two", "s" * 64)
    assert found == (Earlier(run="one", arms=tuple(ARMS), level=0.05),)
    assert looks.earlier_studies(tmp_path / "new", "u" * 64) == ()
    series = tmp_path / "series"
    series.mkdir()
    (series / SERIES).write_text("{}")
    (tmp_path / "two").rename(series / "1-two")
    assert looks.earlier_studies(series / "1-two", "s" * 64) == found
    assert [e.run for e in looks.earlier_studies(tmp_path / "new", "s" * 64)] == ["one", "series/1-two"]
    again = dataclasses.replace(plan, earlier=found)
    assert levels.of_pair(again, *ARMS, first=4).alpha == 0.025
    assert levels.of_pair(again, "tiny_resnet", "another", first=4).alpha == 0.05
    assert "the second study of one question: its interval is at 97.5 %" in looks.describe_earlier(again)
    elsewhere = dataclasses.replace(plan, earlier=(Earlier(run="x", arms=("a", "b"), level=0.05),))
    assert "None of them asked for these arms" in looks.describe_earlier(elsewhere)
    assert looks.describe_earlier(plan) == ""


def test_copies_of_a_study_count_once_as_the_one_that_looked_again(tmp_path: Path) -> None:
    went_on = unpacked("second_look", tmp_path)
    shutil.copytree(went_on, tmp_path / "whole-copy")
    before = shutil.copytree(went_on, tmp_path / "a-copy-of-before") / "ledger.jsonl"
    before.write_bytes(before.read_bytes().partition(b'{"record":"Extension"')[0])
    plan, history = consistency.load(RunDir(went_on))
    assert history.extension is not None
    (found,) = looks.earlier_studies(tmp_path / "new", plan.test_source)
    assert (found.run, found.level) == ("second_look", levels.TOTAL_UNDECLARED)
    shutil.rmtree(went_on)
    shutil.rmtree(tmp_path / "whole-copy")
    (found,) = looks.earlier_studies(tmp_path / "new", plan.test_source)
    assert (found.run, found.level) == ("a-copy-of-before", levels.LEVEL)


def a_finished(plan: Plan, folder: Path) -> Ledger:
    """A simulated study with scored nets; its ledger is open."""
    play(plan, folder / "ledger.jsonl")
    ledger = Ledger(folder / "ledger.jsonl")
    phases: tuple[Phase, ...] = ("baseline", "slice", "confirm")
    nets = [t.id for arm in plan.arms for phase in phases for t in ledger.full_length(arm, phase)]
    ledger.add(TestOpened(manifest=ledger.manifests[-1].sha256, trials=tuple(nets)))
    for net in nets:
        ledger.add(Scored(trial=net, test_accuracy=0.9))
    return ledger
