"""The schedule's guarantees on synthetic curves and a simulated clock (without Ray).

Trial costs differ between the arms, trials diverge, and two run side by side, as on a real machine.
"""

import dataclasses
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState
from support.schedules import ARMS, SECONDS, a_plan, accuracy, all_trials, diverges, drive, play

from search_spaces import Config
from study.protocol import accounting, allocation, selection, validation
from study.protocol.accounting import repriced, search_runs, shrunk, unspent
from study.protocol.allocation import slice_runs
from study.protocol.budget import Budget
from study.protocol.consistency import check
from study.protocol.errors import LedgerError, StudyError
from study.protocol.history import History
from study.protocol.ledger import Ledger, read, records
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Manifest, Outcome, Record, Trial
from study.protocol.selection import AHEAD, default_of, found_by, runs_floor
from study.protocol.standing import overspent, to_go
from study.scheduling.schedule import Schedule, Start, derive_seed

STAGES = {"baseline": 0, "slice": 1, "search": 1, "select": 2, "confirm": 3}


def play_killed(plan: Plan, path: Path, *, seed: int, rate: float) -> tuple[Ledger, int]:
    """Like ``play``, but the process dies at random events and another continues. Returns the number of deaths."""
    now, rng, deaths = [0.0], np.random.default_rng(seed), -1
    while True:
        deaths += 1
        with Ledger(path) as ledger:
            schedule = Schedule(plan, ledger, ARMS, clock=lambda: now[0])
            if drive(schedule, now, diverges, lambda: float(rng.uniform()) < rate):
                return ledger, deaths


def test_the_budget_holds_to_within_one_report_per_running_trial(tmp_path: Path) -> None:
    for minutes in (8, 12, 40):
        plan = a_plan(minutes=minutes)
        ledger = play(plan, tmp_path / f"{minutes}.jsonl")
        for arm in plan.arms:
            total = ledger.spent(arm) + allocation.startup(plan)  # scoring the nets comes after the schedule
            assert total <= plan.share + plan.machine.slots * (SECONDS[arm] + 0.05)


def test_phases_follow_one_another_per_arm(tmp_path: Path) -> None:
    plan = a_plan(minutes=20)
    ledger = play(plan, tmp_path / "ledger.jsonl")
    check(ledger, plan)
    for arm in plan.arms:
        order = [STAGES[t.phase] for t in all_trials(ledger) if t.arm == arm]
        assert order == sorted(order)
        assert [t.fold for t in ledger.of(arm, "baseline")] == list(range(plan.folds))
        choices = ledger.choices(arm)
        assert [c.pair for c in choices] == list(range(plan.pairs))
        for choice in choices:
            confirmed = ledger.confirmed(arm, choice.pair)
            hand = ledger.in_hand(arm) == choice.pair
            assert runs_floor(plan, ledger, hand=hand) <= len(confirmed) <= choice.runs
            assert all(t.config == choice.config for t in confirmed)
            assert [t.fold for t in confirmed] == [
                (choice.pair + run) % plan.folds for run in range(len(confirmed))
            ]
        assert max(choices, key=lambda c: c.val_accuracy).pair == ledger.in_hand(arm)
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    manifest = next(i for i, line in enumerate(lines) if '"Manifest"' in line)
    first_confirm = next(i for i, line in enumerate(lines) if '"phase":"confirm"' in line)
    assert manifest < first_confirm


def test_the_whole_study_goes_by_its_metric(tmp_path: Path) -> None:
    """Search, rungs, selection and the net in hand follow the score, which orders settings otherwise than accuracy does."""
    plan = dataclasses.replace(a_plan(minutes=20), metric="log-loss", rope=0.02)
    ledger = play(plan, tmp_path / "ledger.jsonl")
    for arm in ARMS:
        choices = ledger.choices(arm)
        assert max(choices, key=lambda c: c.val_score).pair == ledger.in_hand(arm)
        assert all(c.score is not None and c.score < 0 for c in choices)
        for pair in range(plan.pairs):
            best, _ = found_by(plan, ledger, arm, pair)
            assert best is not None
            trials = [t for t in ledger.of(arm, "search") if t.pair == pair and ledger.finished(t.id)]
            top = max(
                ledger.epochs[t.id][-1].val_score for t in trials if t.config != default_of(ledger, arm)
            )
            assert ledger.epochs[best.id][-1].val_score == top
        # a loss's best learning rate is 0.03, an accuracy's is 0.1
        assert max(c.val_score for c in choices) > -0.3
        assert ledger.best[arm] <= 0
        for trial in ledger.of(arm, "search"):
            assert "class_weights" not in trial.config
    # and goes on from its ledger as it was: the searches are rebuilt from the scores
    again = Schedule(plan, ledger, ARMS)
    for (arm, pair), search in again.searches.items():
        values = [t.value for t in search.trials if t.state == TrialState.COMPLETE]
        own = [t for t in ledger.of(arm, "search") if t.pair == pair and ledger.finished(t.id)]
        assert values[1:] == [ledger.val_score(t.id) for t in own]


def test_the_weights_of_classes_are_searched_under_balanced_accuracy_alone(tmp_path: Path) -> None:
    plan = dataclasses.replace(a_plan(minutes=20), metric="balanced-accuracy")
    ledger = play(plan, tmp_path / "ledger.jsonl")
    for arm in ARMS:
        assert default_of(ledger, arm)["class_weights"] == "none"
        assert {t.config["class_weights"] for t in ledger.of(arm, "search")} == {"none", "balanced"}
    usual = play(dataclasses.replace(plan, metric="accuracy"), tmp_path / "usual.jsonl")
    assert not any("class_weights" in t.config for t in all_trials(usual))


def test_every_search_is_on_its_own_fold_and_selected_on_two_others(tmp_path: Path) -> None:
    plan = a_plan(minutes=20)
    ledger = play(plan, tmp_path / "ledger.jsonl")
    for arm in ARMS:
        assert {t.fold for t in ledger.of(arm, "slice")} <= {0}
        for pair in range(plan.pairs):
            assert {t.fold for t in ledger.of(arm, "search") if t.pair == pair} == {pair}
            found, _ = found_by(plan, ledger, arm, pair)
            selected = [t for t in ledger.of(arm, "select") if t.pair == pair]
            assert found is not None
            assert [t.config for t in selected] == [found.config] * 2
            assert [t.fold for t in selected] == [(pair + 1) % plan.folds, (pair + 2) % plan.folds]


def test_the_searches_of_a_pair_begin_with_the_same_proposals_and_share_the_budget(tmp_path: Path) -> None:
    plan = a_plan(minutes=30)
    assert plan.pairs == 4
    ledger = play(plan, tmp_path / "ledger.jsonl")
    first, second = ARMS
    spaces = {arm: set(ARMS[arm].space) for arm in ARMS}
    common = spaces[first] & spaces[second]
    for arm in ARMS:
        spends = [ledger.spent(arm, "search", pair=i) for i in range(4)]
        assert sum(spends) == pytest.approx(ledger.spent(arm, "search"))
        assert max(spends) - min(spends) <= 4 * (SECONDS[arm] + 0.05)
        own = search_runs(plan, ledger)[arm]
        assert own == pytest.approx(
            [s / ledger.tuning.full_run[arm] for s in spends] if ledger.tuning else []
        )
    begins = []
    for pair in range(4):
        configs = [
            [{k: t.config[k] for k in common} for t in ledger.of(arm, "search") if t.pair == pair][:7]
            for arm in ARMS
        ]
        assert configs[0] == configs[1]
        begins.append(str(configs[0][3:]))  # after the known settings that start every search
    assert len(set(begins)) == 4


def test_the_default_is_each_searchs_first_trial_and_is_paid_once(tmp_path: Path) -> None:
    plan = a_plan(minutes=20)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        now = [0.0]
        drive(Schedule(plan, ledger, ARMS, clock=lambda: now[0]), now, diverges)
        again = Schedule(plan, ledger, ARMS, clock=lambda: now[0])
        for arm in ARMS:
            default = ledger.of(arm, "baseline")[0].config
            assert default not in [t.config for t in ledger.of(arm, "search")]
            for pair in range(plan.pairs):
                trials = again.searches[arm, pair].trials
                run = ledger.of(arm, "baseline")[pair]
                assert trials[0].params == default
                assert trials[0].value == ledger.val_accuracy(run.id)
                assert len(trials) == 1 + sum(t.pair == pair for t in ledger.of(arm, "search"))


def test_a_setting_is_taken_when_it_leads_the_default_by_half_a_standard_error(tmp_path: Path) -> None:
    plan = a_plan(minutes=20)
    ledger = play(plan, tmp_path / "ledger.jsonl")
    for arm in ARMS:
        default = {t.fold: t for t in ledger.of(arm, "baseline")}
        for choice in ledger.choices(arm):
            runs = [t for t in ledger.of(arm, "select") if t.pair == choice.pair]
            leads = [accuracy(ledger, t) - accuracy(ledger, default[t.fold]) for t in runs]
            assert choice.lead == pytest.approx(sum(leads) / 2)
            assert choice.lead is not None
            assert choice.lead_se is not None
            assert choice.default == (choice.lead < AHEAD * choice.lead_se or choice.lead <= 0)
            chosen = [default[t.fold] for t in runs] if choice.default else runs
            assert choice.trials == tuple(t.id for t in chosen)
            assert choice.val_accuracy == pytest.approx(sum(accuracy(ledger, t) for t in chosen) / 2)
    kinds = {c.default for arm in ARMS for c in ledger.choices(arm)}
    assert False in kinds


def test_comparing_image_by_image_sharpens_the_lead(tmp_path: Path) -> None:
    """Settings that differ on few images are distinguished; treated as independent they would not be."""
    plan = a_plan(minutes=20)
    images = plan.val_images

    def kept(trial: str) -> validation.Kept | None:
        right = np.zeros(images, dtype=np.bool_)
        right[: round(images * (accuracy(ledger, ledger.trials[trial])))] = True
        return validation.Kept(right)

    now = [0.0]
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        drive(Schedule(plan, ledger, ARMS, clock=lambda: now[0], kept=kept), now, diverges)
    blind = play(plan, tmp_path / "blind.jsonl")
    for arm in ARMS:
        for sharp, blurred in zip(ledger.choices(arm), blind.choices(arm), strict=True):
            assert sharp.lead == blurred.lead
            assert sharp.lead_se is not None
            assert blurred.lead_se is not None
            assert sharp.lead_se < blurred.lead_se


def test_a_default_that_nothing_beats_is_confirmed_and_one_that_fails_is_not(tmp_path: Path) -> None:
    plan = a_plan(minutes=20)
    default = Schedule(plan, Ledger(tmp_path / "unused.jsonl"), ARMS).defaults["tiny_resnext"]

    def hopeless(trial: Trial, epoch: int) -> str:
        del epoch
        return "" if trial.arm == "tiny_resnet" or trial.config == default else "error: boom"

    def poor(trial: Trial, epoch: int) -> str:
        return "diverged: nan" if trial.config == default and epoch == 2 and trial.index == 1 else ""

    only = play(plan, tmp_path / "default.jsonl", fails=hopeless)
    assert all(c.default and c.lead is None for c in only.choices("tiny_resnext"))
    assert all(t.config == default for t in only.of("tiny_resnext", "confirm"))
    assert not only.of("tiny_resnext", "select")
    without = play(plan, tmp_path / "poor.jsonl", fails=poor)
    assert not any(c.default for c in without.choices("tiny_resnext"))


@pytest.mark.parametrize("minutes", [8, 12, 20])
def test_arms_wait_for_each_other_for_less_than_a_run(tmp_path: Path, minutes: float) -> None:
    """Runs of one arm take 1.4 times as long; with a fixed slot per arm, one would wait for the other."""
    plan, now, idle, seen = a_plan(minutes=minutes), [0.0], [0.0], [0.0]

    def watch(record: Record) -> None:
        """Before a trial starts or after it ends: add the idle time of free slots since the last call."""
        if isinstance(record, Trial | Outcome):
            held = len(ledger.open) - (1 if isinstance(record, Trial) else -1)
            idle[0] += (plan.machine.slots - held) * (now[0] - seen[0])
            seen[0] = now[0]

    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.watchers.append(watch)
        drive(Schedule(plan, ledger, ARMS, clock=lambda: now[0]), now, diverges)
    assert seen[0] == now[0]
    assert idle[0] < 0.5 * plan.epochs * min(SECONDS.values())  # at the manifest and at the end together


def test_the_random_slice_is_never_stopped_and_shared_by_the_arms(tmp_path: Path) -> None:
    plan = a_plan(minutes=40)
    ledger = play(plan, tmp_path / "ledger.jsonl")
    assert ledger.tuning is not None
    assert ledger.tuning.slice_runs >= 5
    slices = [ledger.of(arm, "slice") for arm in ARMS]
    for trials in slices:
        assert len(trials) == ledger.tuning.slice_runs
        assert {ledger.outcomes[t.id].state for t in trials} <= {"finished", "failed"}
    for one, other in zip(*slices, strict=True):
        assert one.config == {k: v for k, v in other.config.items() if k in one.config}
    share = ledger.spent("tiny_resnext", "slice") / ledger.tuning.per_arm
    assert 0.05 < share < 0.2


def test_with_one_trial_at_a_time_the_same_seed_proposes_the_same(tmp_path: Path) -> None:
    def proposals(name: str, seed: int) -> list[tuple[str, Config]]:
        ledger = play(a_plan(minutes=12, slots=1, seed=seed), tmp_path / name)
        return [(t.id, t.config) for t in all_trials(ledger)]

    assert proposals("a", 0) == proposals("b", 0)
    assert proposals("c", 1) != proposals("d", 0)


def test_the_ledger_on_disk_is_the_ledger_in_memory(tmp_path: Path) -> None:
    ledger = play(a_plan(), tmp_path / "ledger.jsonl")
    again = read(tmp_path / "ledger.jsonl")
    assert again.trials == ledger.trials
    assert again.outcomes == ledger.outcomes
    assert again.manifests == ledger.manifests
    for arm in ARMS:
        assert again.spent(arm) == pytest.approx(ledger.spent(arm))


def test_an_arm_that_always_fails_ends_the_study_with_its_reason(tmp_path: Path) -> None:
    def fails(trial: Trial, epoch: int) -> str:
        return "error: RuntimeError: boom" if trial.arm == "tiny_resnext" else diverges(trial, epoch)

    with pytest.raises(StudyError, match=r"tiny_resnext.*boom"):
        play(a_plan(), tmp_path / "ledger.jsonl", fails=fails)


def test_a_search_without_budget_confirms_the_default(tmp_path: Path) -> None:
    """The machine is ten times slower than measured; no search overruns the rest of the share."""
    plan = a_plan(minutes=12)
    fast = {name: dataclasses.replace(a, images_per_second=20_000.0) for name, a in plan.audits.items()}
    starved = dataclasses.replace(plan, audits=fast, budget=Budget(seconds=150.0, resource="cpu"))
    ledger = play(starved, tmp_path / "ledger.jsonl")
    assert ledger.tuning is not None
    assert ledger.tuning.per_arm == 0
    assert "nothing is left for a search" in shrunk(starved, ledger)
    for arm in starved.arms:
        hand = ledger.in_hand(arm)
        assert len(ledger.confirmed(arm, hand)) >= runs_floor(starved, ledger, hand=True)
        assert sum(search_runs(starved, ledger)[arm]) < 2  # started before the cost of runs was known
    history, spent = History(), 0.0
    for record in records(tmp_path / "ledger.jsonl"):
        history.add(record)
        spent = sum(map(history.spent, starved.arms))
        if isinstance(
            record, Manifest
        ):  # said while there is budget left, with the time that the runs still take
            assert "126 %: full runs came to cost 13.7 times" in overspent(starved, history)
            assert 2 * to_go(starved, history, spent) > starved.budget.seconds - spent > 0
    assert overspent(starved, history)
    assert to_go(starved, history, spent) == 0 < spent - starved.budget.seconds


def test_an_interrupted_study_books_its_running_trials_and_resumes(tmp_path: Path) -> None:
    now, path = [0.0], tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        schedule = Schedule(a_plan(), ledger, ARMS, clock=lambda: now[0])
        starts = [schedule.next(), schedule.next()]
        assert all(start is not None and not start.again for start in starts)
        now[0] = 7.0
        schedule.slots.leave()
        assert [ledger.spent(arm, "baseline") for arm in ARMS] == [7.0, 7.0]
    with Ledger(path) as ledger:
        again = Schedule(a_plan(), ledger, ARMS, clock=lambda: now[0])
        taken_up = [again.next(), again.next()]
        assert [s and s.trial for s in taken_up] == [s and s.trial for s in starts]
        assert all(s is not None and s.again for s in taken_up)
        now[0] = 9.0
        for start in taken_up:
            assert start is not None
            again.resumed(start.trial.id, 0, 4.0)  # its checkpoint had 4 of the 7 seconds; 2 more were lost
        assert [ledger.spent(arm, "baseline") for arm in ARMS] == [4.0, 4.0]
        assert [ledger.spent(arm, "lost") for arm in ARMS] == [5.0, 5.0]


def test_a_trial_pays_nothing_while_it_waits_for_a_machine(tmp_path: Path) -> None:
    now = [0.0]
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        schedule = Schedule(a_plan(), ledger, ARMS, clock=lambda: now[0])
        first, second = schedule.next(), schedule.next()
        assert first is not None
        assert second is not None
        schedule.slots.wait(first.trial.id)
        now[0] = 60.0
        schedule.slots.beat()
        assert [ledger.booked[s.trial.id] for s in (first, second)] == [0.0, 60.0]
        for _ in range(2):  # the second time it already has its machine
            schedule.slots.grant(first.trial.id)
            now[0] += 5.0
        assert schedule.slots.held(first.trial.id) == 10.0
        assert schedule.next() is None  # it kept its slot
        schedule.put_back(first.trial.id, "no worker")
        again = schedule.next()
        assert again is not None
        assert again.trial == first.trial
        schedule.slots.wait(first.trial.id)
        now[0] += 100.0
        schedule.slots.grant(first.trial.id)
        now[0] += 1.0
        assert schedule.end(first.trial.id, "worker died").cost == 11.0


def test_what_the_pairs_have_spent_is_what_the_search_has(tmp_path: Path) -> None:
    """While trials run, end, wait for another machine and resume."""
    now = [0.0]
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        schedule = Schedule(a_plan(minutes=60, slots=8), ledger, ARMS, clock=lambda: now[0])

        def disturbed(trial: Trial, epoch: int) -> str:
            slots = schedule.slots
            for arm in ARMS:
                each = [slots.spent(arm, "search", pair=pair) for pair in range(schedule.plan.pairs)]
                assert sum(each) == pytest.approx(slots.spent(arm, "search"))
            running = [t for t in ledger.open if t.id in slots and t.id != trial.id]
            if epoch == 2 and running:
                schedule.put_back(running[0].id, "no worker")
                assert schedule.next() is not None
                schedule.resumed(running[0].id, len(ledger.epochs[running[0].id]), 0.0)
            assert not slots.fits(1.0) or len(running) < 7
            return diverges(trial, epoch)

        drive(schedule, now, disturbed)


def test_an_arm_with_a_working_default_is_kept(tmp_path: Path) -> None:
    """The search must learn that half of the space fails, even after many failures in a row."""

    def fails(trial: Trial, epoch: int) -> str:
        del epoch
        lasting = trial.arm == "tiny_resnet" or trial.config == default
        return "" if lasting else "error: RuntimeError: too wide"

    default = Schedule(a_plan(), Ledger(tmp_path / "unused.jsonl"), ARMS).defaults["tiny_resnext"]
    ledger = play(a_plan(), tmp_path / "ledger.jsonl", fails=fails)
    assert all(c.config == default for c in ledger.choices("tiny_resnext"))
    assert sum(o.state == "failed" for o in ledger.outcomes.values()) > 8


@pytest.mark.parametrize(("tuning", "runs"), [(4, 0), (13, 0), (26, 0), (27, 5), (40, 6), (200, 30)])
def test_the_slice_is_15_to_20_percent_or_absent(tuning: float, runs: int) -> None:
    assert slice_runs(tuning) == runs


@pytest.mark.parametrize("seed", range(3))
def test_a_study_killed_at_random_makes_the_same_decisions(tmp_path: Path, seed: int) -> None:
    """One trial at a time; some deaths fall between a report and the end it decides."""
    plan = a_plan(minutes=8, slots=1, seed=seed)
    whole = play(plan, tmp_path / "whole.jsonl")
    killed, deaths = play_killed(plan, tmp_path / "killed.jsonl", seed=seed, rate=0.05)
    assert deaths > 5
    assert all_trials(killed) == all_trials(whole)
    assert killed.manifests == whole.manifests
    for trial in all_trials(whole):
        ends = [(h.outcomes[trial.id].state, h.outcomes[trial.id].reason) for h in (killed, whole)]
        assert ends[0] == ends[1]
        assert [e.val_accuracy for e in killed.epochs[trial.id]] == [
            e.val_accuracy for e in whole.epochs[trial.id]
        ]
    again = read(tmp_path / "killed.jsonl")
    assert all(again.spent(arm) == pytest.approx(killed.spent(arm)) for arm in ARMS)


def test_a_disk_that_fails_at_random_moments_changes_no_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partly written lines, processes that stop or die there, and last lines torn off between two sessions."""
    plan, path = a_plan(minutes=8, slots=1), tmp_path / "broken.jsonl"
    whole = play(plan, tmp_path / "whole.jsonl")
    now, rng, deaths, real = [0.0], np.random.default_rng(0), -1, os.write

    def write(file: int, line: bytes) -> int:
        return real(file, line[: rng.integers(len(line))] if rng.uniform() < 0.02 else line)

    done = False
    while not done:
        deaths += 1
        with monkeypatch.context() as bad, suppress(LedgerError), Ledger(path) as ledger:
            schedule = Schedule(plan, ledger, ARMS, clock=lambda: now[0])
            bad.setattr(os, "write", write)
            try:
                done = drive(schedule, now, diverges, lambda: float(rng.uniform()) < 0.01)
            finally:
                if rng.uniform() < 0.5:
                    schedule.slots.leave()
        if not done and rng.uniform() < 0.3:
            content = path.read_bytes()
            last = len(content) - content.rstrip(b"\n").rfind(b"\n") - 1
            path.write_bytes(content[: len(content) - rng.integers(last)])
    assert deaths > 5
    broken = read(path)
    assert list(broken.trials.values()) == all_trials(whole)
    assert broken.manifests == whole.manifests
    for trial in all_trials(whole):
        ends = [(h.outcomes[trial.id].state, h.outcomes[trial.id].reason) for h in (broken, whole)]
        assert ends[0] == ends[1]


def test_with_two_at_a_time_a_killed_study_loses_and_doubles_nothing(tmp_path: Path) -> None:
    ledger, deaths = play_killed(a_plan(minutes=8), tmp_path / "ledger.jsonl", seed=1, rate=0.05)
    assert deaths > 5
    assert not ledger.open
    for arm in ARMS:
        for phase in ("baseline", "slice", "search", "select", "confirm"):
            assert [t.index for t in ledger.of(arm, phase)] == list(range(len(ledger.of(arm, phase))))
        by_hand = sum(o.cost for t, o in ledger.outcomes.items() if ledger.trials[t].arm == arm)
        assert ledger.spent(arm) - ledger.spent(arm, "lost") == pytest.approx(by_hand)


def losing(tmp_path: Path) -> tuple[Schedule, list[float]]:
    now = [0.0]
    ledger = Ledger(tmp_path / "ledger.jsonl")
    return Schedule(a_plan(), ledger, ARMS, clock=lambda: now[0]), now


def restarted(schedule: Schedule) -> Start:
    start = schedule.next()
    assert start is not None
    assert start.again
    schedule.resumed(start.trial.id, start.epochs, 0.0)
    return start


def test_a_lost_worker_is_replaced_until_the_trial_is_to_blame(tmp_path: Path) -> None:
    schedule, now = losing(tmp_path)
    first = schedule.next()
    assert first is not None
    for _ in range(2):
        now[0] += 5
        assert schedule.lost(first.trial.id, "worker died", "boom") is None
        assert restarted(schedule).trial == first.trial
    now[0] += 1
    ended = schedule.lost(first.trial.id, "worker died", "boom")
    assert ended is not None
    assert (ended.state, ended.reason, ended.cost) == ("failed", "worker died: boom (3 times)", 1.0)
    assert schedule.ledger.spent(first.trial.arm, "lost") == 10.0


def test_progress_forgives_lost_workers(tmp_path: Path) -> None:
    schedule, now = losing(tmp_path)
    first = schedule.next()
    assert first is not None
    for epoch in range(1, 6):
        now[0] += 1
        report = Epoch(
            trial=first.trial.id, epoch=epoch, train_loss=1, train_accuracy=0.5, val_loss=1, val_accuracy=0.5,
            train_seconds=1, eval_seconds=0,
        )  # fmt: skip
        assert schedule.report(report)
        assert schedule.lost(first.trial.id, "worker died", "spot") is None
        restarted(schedule)


def test_a_trial_that_hangs_twice_is_ended(tmp_path: Path) -> None:
    schedule, _ = losing(tmp_path)
    first = schedule.next()
    assert first is not None
    assert schedule.lost(first.trial.id, "hang", "silent") is None
    restarted(schedule)
    ended = schedule.lost(first.trial.id, "hang", "silent")
    assert ended is not None
    assert ended.reason == "hang: silent (2 times)"


def test_a_trial_out_of_memory_gets_more_of_the_machine_then_ends(tmp_path: Path) -> None:
    schedule, _ = losing(tmp_path)
    first, second = schedule.next(), schedule.next()
    assert first is not None
    assert second is not None
    assert schedule.lost(first.trial.id, "out of memory", "too big") is None
    assert schedule.next() is None  # it waits for both cores, and no trial overtakes it
    schedule.end(second.trial.id, "error: boom")
    assert restarted(schedule).fraction == 2.0
    assert schedule.next() is None
    ended = schedule.lost(first.trial.id, "out of memory", "too big")
    assert ended is not None
    assert ended.reason == "out of memory: too big (2 times)"


@pytest.mark.parametrize(
    ("cards", "trials", "fraction", "doubled"),
    [(1, 3, 0.3333, (0.6666, 1.0)), (1, 1, 0.6, (1.0,)), (2, 3, 0.3333, (0.6666, 1.0)), (2, 1, 0.6, (1.0,))],
)
def test_a_trial_that_needs_a_whole_gpu_gets_it_although_the_fractions_do_not_add_up(
    tmp_path: Path, cards: int, trials: int, fraction: float, doubled: tuple[float, ...]
) -> None:
    plan = a_plan()
    machine = dataclasses.replace(plan.machine, resource="gpu", slots=cards * trials, fraction=fraction)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        schedule = Schedule(dataclasses.replace(plan, machine=machine), ledger, ARMS)
        begun = [schedule.next() for _ in range(cards * trials)]
        assert schedule.next() is None
        first, *others = [start.trial.id for start in begun if start is not None]
        for other in others[: trials - 1]:  # fractions of one card
            schedule.end(other, "error: boom")
        for more in doubled:
            assert schedule.lost(first, "out of memory", "too big") is None
            assert restarted(schedule).fraction == more
        assert schedule.next() is None


def test_derived_seeds_are_distinct_and_fit_any_generator() -> None:
    seeds = {derive_seed(s, p, i) for s in range(5) for p in ("a", "b", "ab") for i in range(100)}
    assert len(seeds) == 1500
    assert all(0 <= s < 2**63 for s in seeds)


def test_only_the_arm_with_the_most_runs_has_a_remainder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = a_plan(), a_plan(minutes=30)
    assert unspent(small, play(small, tmp_path / "small.jsonl")) == {}
    for module in (accounting, selection):
        monkeypatch.setattr(module, "CONFIRM_CEILING", 3)  # at 20, studies take days
    ledger = play(large, tmp_path / "large.jsonl")
    over = unspent(large, ledger)
    assert over
    for arm, seconds in over.items():
        assert all(len(ledger.confirmed(arm, c.pair)) == 3 for c in ledger.choices(arm))
        assert 0 < seconds < large.share - ledger.spent(arm)


def test_a_slower_machine_makes_fewer_searches_instead_of_empty_ones(tmp_path: Path) -> None:
    """Full runs cost twice what was measured: one search that has something, where three would have had nothing."""
    plan = a_plan(minutes=12)
    fast = {
        name: dataclasses.replace(a, images_per_second=2 * a.images_per_second)
        for name, a in plan.audits.items()
    }
    quick = dataclasses.replace(plan, audits=fast, budget=Budget(seconds=330.0, resource="cpu"))
    assert quick.pairs == 3
    ledger = play(quick, tmp_path / "ledger.jsonl")
    assert ledger.tuning is not None
    assert 0 < ledger.tuning.pairs < quick.pairs
    assert f"each arm has {ledger.tuning.pairs} search of" in shrunk(quick, ledger)
    assert "only about the nets in hand" in shrunk(quick, ledger)
    assert overspent(quick, ledger) == ""
    slow = repriced(quick, ledger)
    enough = allocation.budget_for_pairs(slow, 3)
    assert enough.seconds > quick.budget.seconds  # measured as slow as it is, it has three
    assert (slow.pairs, dataclasses.replace(slow, budget=enough).pairs) == (1, 3)
    check(ledger, quick)
    for arm in quick.arms:
        assert [c.pair for c in ledger.choices(arm)] == list(range(ledger.tuning.pairs))
        assert min(search_runs(quick, ledger)[arm]) >= 0.8
        assert ledger.spent(arm) <= quick.share + 2 * ledger.tuning.full_run[arm]
