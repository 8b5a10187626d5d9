"""Shares add up, and the budget sets lengths, pairs, folds and rungs."""

import dataclasses

import pytest
from support.plans import AUDIT, PLAN

from study.protocol import allocation
from study.protocol.allocation import CONFIRM_FLOOR, TUNING_RUNS_FLOOR, rungs, with_length
from study.protocol.budget import Budget
from study.protocol.errors import InputError
from study.protocol.question import unmatched


def test_shares_are_counted_for_the_most_expensive_arm() -> None:
    assert allocation.full_run(PLAN, "b") > allocation.full_run(PLAN, "a")
    reserved = (
        PLAN.folds
        + 1.1 * (allocation.select_runs(PLAN) + allocation.confirm_reserved(PLAN))
        + allocation.tuning_runs(PLAN)
    )
    assert allocation.overhead(PLAN) + reserved * allocation.full_run(PLAN, "b") == pytest.approx(PLAN.share)
    assert allocation.confirm_reserved(PLAN) >= CONFIRM_FLOOR


@pytest.mark.parametrize("minutes", [1, 2, 3, 5, 10, 30, 300])
def test_a_refused_budget_names_an_accepted_one(minutes: int) -> None:
    plan = dataclasses.replace(PLAN, budget=Budget(seconds=60.0 * minutes, resource="cpu"))
    for epochs in (None, 3, 20):
        try:
            accepted = with_length(plan, epochs)
        except InputError as error:
            named = Budget.parse(str(error).split("--budget ")[1].split(" ")[0])
            assert named.seconds > plan.budget.seconds
            slower = {  # as when other work slows down the second measurement
                arm: dataclasses.replace(
                    audit,
                    images_per_second=audit.images_per_second / 1.2,
                    startup_seconds=1.2 * audit.startup_seconds,
                )
                for arm, audit in plan.audits.items()
            }
            cost = {arm: 1.2 * cost for arm, cost in plan.probe_cost.items()}
            with_length(dataclasses.replace(plan, budget=named, audits=slower, probe_cost=cost), epochs)
        else:
            assert (
                allocation.tuning_runs(accepted) + accepted.pairs >= TUNING_RUNS_FLOOR
            )  # default runs restored from the ledger count


def test_a_chosen_length_grows_with_the_budget_up_to_the_posts_fifty_epochs() -> None:
    lengths = [
        with_length(dataclasses.replace(PLAN, budget=Budget(seconds=s, resource="cpu")), None).epochs
        for s in (300.0, 450.0, 1500.0, 1e6)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[1] < lengths[2]
    assert lengths[-1] == 50
    four = dataclasses.replace(PLAN, budget=Budget(seconds=1500.0, resource="cpu"))
    assert with_length(four, None).pairs == 4  # unless runs are already short, the length leaves room


@pytest.mark.parametrize(
    ("full_runs", "pairs"), [(20, 1), (24.9, 1), (25, 3), (49, 3), (50, 4), (110, 6), (220, 8)]
)
def test_the_budget_sets_the_number_of_pairs_of_searches(full_runs: float, pairs: int) -> None:
    share = allocation.overhead(PLAN) + (full_runs + 0.01) * allocation.full_run(PLAN, "b")
    plan = dataclasses.replace(PLAN, budget=Budget(seconds=2 * share, resource="cpu"))
    assert plan.pairs == pairs
    assert plan.folds == max(3, pairs)
    assert allocation.tuning_runs(plan) + plan.pairs >= TUNING_RUNS_FLOOR
    each = allocation.confirm_reserved(plan) - plan.pairs * allocation.confirm_each(plan)
    assert allocation.confirm_each(plan) + each >= CONFIRM_FLOOR  # for the net in hand
    for pair in range(2 * pairs):
        own, *others = allocation.search_fold(plan, pair), *allocation.select_folds(plan, pair)
        assert own not in others
        assert len(set(others)) == 2
        assert {own, *others} <= set(range(plan.folds))


@pytest.mark.parametrize(
    ("pool", "pairs", "images"),
    [(300, 1, 60), (1437, 3, 287), (5000, 4, 1000), (9000, 4, 1000), (50_000, 4, 5000), (1437, 8, 179)],
)
def test_a_fold_has_a_fifth_of_few_images_and_a_tenth_of_many(pool: int, pairs: int, images: int) -> None:
    plan = dataclasses.replace(PLAN, data=dataclasses.replace(PLAN.data, train=pool))
    assert allocation.fold_images(plan, max(3, pairs)) == images


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, ()), (2, ()), (3, (1,)), (10, (1, 3)), (27, (1, 3, 9)), (50, (1, 5, 16))]
)
def test_rungs_are_thirds_of_thirds(epochs: int, expected: tuple[int, ...]) -> None:
    assert rungs(epochs) == expected


def test_unmatched_arms_cause_a_warning() -> None:
    assert unmatched({"a": AUDIT, "b": AUDIT}) == ""
    warning = unmatched({"a": AUDIT, "b": dataclasses.replace(AUDIT, macs=2 * AUDIT.macs)})
    assert "b needs 2.0 times the multiply-accumulates" in warning
    slightly = unmatched({"a": AUDIT, "b": dataclasses.replace(AUDIT, macs=round(1.2 * AUDIT.macs))})
    assert "b needs 20 % more" in slightly
