"""What a plan's budget buys: shares, full runs, pairs of searches, folds, rungs and floors (METHOD.md 3).

Plain functions of the plan, so that ``--plan``, the study and the report use the same numbers. Costs are resource-seconds, as
estimated from what was measured.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

from study.protocol.budget import Budget
from study.protocol.errors import InputError
from study.protocol.settings import SETTINGS

if TYPE_CHECKING:  # at run time the plan imports this module for its properties
    from study.protocol.plan import Plan

FOLDS_FLOOR = 3
"""Disjoint folds of the training pool, at least: a search's own, and two more to select on (METHOD.md 2)."""
PAIRS = {8: 200, 6: 100, 4: 50, 3: 25}
"""Paired searches per arm -> the full runs per arm from which a share is divided into that many (METHOD.md 3)."""
SELECT_ROUNDS = 2
"""Selection runs of each find, one on each of that many folds other than its own (METHOD.md 3)."""
SLICE_SHARE = (0.15, 0.2)
"""Aim and ceiling: part of the search share for random settings, which are never stopped (METHOD.md 3)."""
SLICE_FLOOR = 5
"""With fewer random settings none are run: a band over fewer is trivial, and the searches need the money."""
TUNING_RUNS_FLOOR = 8
"""Full-run equivalents of tuning per arm that are too few to call it a search, the restored defaults included."""
CONFIRM_FLOOR = 3
"""Confirmation runs of the net in hand below which no plan is made (METHOD.md 3)."""
CONFIRM_EACH = 2
"""Confirmation runs of every other find, at least."""
CONFIRM_CEILING = SETTINGS.confirm_ceiling
"""Confirmation runs of one find, at most."""
CONFIRM_SHARE = 0.2
"""Part of an arm's share set apart for confirmation before anything else."""
MARGIN = 1.1
"""Full runs are reserved at this multiple of their measured cost, since machines are noisy."""
VAL_SHARE = (0.1, 0.2)
"""Part of the training pool in a fold: the first where images are many, the second where they are few."""
VAL_IMAGES = 1000
"""Images that are enough for a fold of the smaller share (METHOD.md 2)."""
FEWEST_RUNS = FOLDS_FLOOR + TUNING_RUNS_FLOOR - 1 + MARGIN * (SELECT_ROUNDS + CONFIRM_FLOOR)
"""Full runs per arm from which a plan is made: one search, whose first trial is a default that is paid for already."""
REDUCTION = 3
"""ASHA's reduction factor: the best third of a rung goes on."""
EPOCHS = (3, 50)
"""Shortest and longest full run chosen without ``--epochs``; 50 is the seed post's length."""
SCATTER = 1.25
"""Two measurements of the same arms differ by less: a budget named in a refusal must also do when measured again."""
AIMS = ((60, 10), (30, 3))
"""A chosen length leaves room for 60 full runs per arm, enough for four pairs of searches even where a run costs a fifth more
than measured. Where these would be shorter than 10 epochs, too short for two rungs, it leaves room for 30: three pairs."""


# -- images


def fold_images(plan: "Plan", folds: int) -> int:
    """Images of each fold: 20 % of the pool where images are few, 10 % where they are many (METHOD.md 2)."""
    pool, (least, most) = plan.data.train, VAL_SHARE
    wanted = max(least * pool, min(most * pool, VAL_IMAGES))
    return max(len(plan.data.classes), math.floor(min(pool / folds, wanted)))


def images_beside(plan: "Plan", val_images: int) -> int:
    """Images that a run trains on when ``val_images`` are held out."""
    return max(len(plan.data.classes), round(plan.train_fraction * (plan.data.train - val_images)))


# -- costs


def epoch_cost(plan: "Plan", arm: str, val_images: int | None = None) -> float:
    """One epoch with its validation, on ``val_images`` images instead of the plan's if given."""
    val = plan.val_images if val_images is None else val_images
    audit = plan.audits[arm]
    wall = images_beside(plan, val) / audit.images_per_second + val / audit.eval_images_per_second
    return wall * plan.machine.fraction


def test_cost(plan: "Plan", arm: str) -> float:
    """Scoring one net on the test set."""
    return plan.data.test / plan.audits[arm].eval_images_per_second * plan.machine.fraction


def full_run(plan: "Plan", arm: str, val_images: int | None = None) -> float:
    """One full-length run with its test score, on ``val_images`` validation images instead of the plan's if given."""
    return plan.epochs * epoch_cost(plan, arm, val_images) + test_cost(plan, arm)


def startup(plan: "Plan") -> float:
    """Per arm, while the workers of all slots import torch."""
    seconds = max(a.startup_seconds for a in plan.audits.values())
    return seconds * plan.machine.slots * plan.machine.fraction / len(plan.arms)


def overhead(plan: "Plan") -> float:
    """Per arm, what no run gets: measuring, and starting workers for the trials and for the test."""
    return max(plan.probe_cost.values()) + 2 * startup(plan)


# -- runs and searches


def full_runs(plan: "Plan", val_images: int | None = None) -> float:
    """Full-length runs that the share of the most expensive arm buys."""
    return (plan.share - overhead(plan)) / max(full_run(plan, arm, val_images) for arm in plan.arms)


def pairs(plan: "Plan") -> int:
    """Paired searches per arm, R: 8, 6, 4 or 3 by the full runs that a share buys; 1 where it buys fewer than 25."""
    for count, runs in PAIRS.items():
        if full_runs(plan, fold_images(plan, max(FOLDS_FLOOR, count))) >= runs:
            return count
    return 1


def search_fold(plan: "Plan", pair: int) -> int:
    """The fold that a search validates on."""
    return pair % plan.folds


def select_folds(plan: "Plan", pair: int) -> tuple[int, ...]:
    """The folds on which a search's find is selected, never the search's own."""
    return tuple((pair + i) % plan.folds for i in range(1, SELECT_ROUNDS + 1))


def confirm_fold(plan: "Plan", pair: int, run: int) -> int:
    """The fold held out in confirmation run number ``run`` of a find."""
    return (pair + run) % plan.folds


def select_runs(plan: "Plan") -> int:
    """Selection runs per arm, at most: a search that found nothing needs none."""
    return SELECT_ROUNDS * plan.pairs


def confirm_each(plan: "Plan") -> int:
    """Confirmation runs of every find whose cost is set apart before the search."""
    least = CONFIRM_EACH if plan.pairs > 1 else CONFIRM_FLOOR
    return min(CONFIRM_CEILING, max(least, math.floor(CONFIRM_SHARE * full_runs(plan) / plan.pairs)))


def confirm_reserved(plan: "Plan") -> int:
    """Confirmation runs per arm whose cost is set apart; the net in hand gets at least ``CONFIRM_FLOOR``."""
    return plan.pairs * confirm_each(plan) + max(0, CONFIRM_FLOOR - confirm_each(plan))


def reserve_floor(pairs: int) -> int:
    """The fewest runs per arm in which the finds of so many searches are selected and confirmed."""
    each = CONFIRM_EACH if pairs > 1 else CONFIRM_FLOOR
    return pairs * (SELECT_ROUNDS + each) + max(0, CONFIRM_FLOOR - each)


def tuning_runs(plan: "Plan") -> float:
    """Full-run equivalents per arm left for the searches and the random settings."""
    return full_runs(plan) - plan.folds - MARGIN * (select_runs(plan) + confirm_reserved(plan))


def slice_runs(tuning: float) -> int:
    """Random settings per arm out of a tuning share of so many full runs: the next above the aim, within the ceiling."""
    aim, ceiling = SLICE_SHARE
    runs = min(math.ceil(aim * tuning), math.floor(ceiling * tuning))
    return runs if runs >= SLICE_FLOOR else 0


def rungs(epochs: int) -> tuple[int, ...]:
    """Epochs at which ASHA decides, ascending: a third of the run, a third of that, ... down to one epoch, at most three."""
    found: list[int] = []
    rung = epochs // REDUCTION
    while rung >= 1 and len(found) < 3:
        found.insert(0, rung)
        rung //= REDUCTION
    return tuple(found)


# -- lengths and budgets


def with_length(plan: "Plan", epochs: int | None) -> "Plan":
    """The plan with full runs of ``epochs``; without one, of the longest that leave room for one of ``AIMS``.

    Raises InputError, naming a budget that would do, when too few runs would be left.
    """
    if epochs is None:
        epochs = _affordable(plan)
    plan = dataclasses.replace(plan, epochs=epochs)
    left = tuning_runs(plan)
    if left + plan.pairs < TUNING_RUNS_FLOOR:
        raise InputError(
            f"a budget of {plan.budget} is too small: it buys each arm {max(0.0, full_runs(plan)):.1f} full runs of "
            f"{epochs} epochs and leaves {max(0.0, left):.1f} of them for the search, and a search of fewer than "
            f"{TUNING_RUNS_FLOOR} says little. This would do: --budget {_budget_for(plan, FEWEST_RUNS, spare=SCATTER)}"
            + (" (or fewer --epochs)" if epochs > EPOCHS[0] else "")
        )
    return plan


def budget_for_pairs(plan: "Plan", pairs: int) -> Budget:
    """The smallest budget that is divided into this many searches per arm, length kept. Raises KeyError for other numbers."""
    return _budget_for(plan, PAIRS[pairs])


def budget_for_searches(plan: "Plan", pairs: int) -> Budget:
    """A budget that gives each arm so many searches also when the arms are measured again, length kept."""
    return _budget_for(plan, PAIRS.get(pairs, FEWEST_RUNS), spare=SCATTER)


def _budget_for(plan: "Plan", runs: float, *, spare: float = 1.02) -> Budget:
    """What buys every arm this many full runs, and a little more."""
    share = overhead(plan) + runs * max(full_run(plan, arm) for arm in plan.arms)
    return Budget.whole_minutes(spare * share * len(plan.arms), plan.budget.resource)


def _affordable(plan: "Plan") -> int:
    """The length of a full run that leaves room for one of ``AIMS``, within ``EPOCHS``."""
    ceiling = EPOCHS[1]
    for runs, shortest in AIMS:
        left = (plan.share - overhead(plan)) / runs
        longest = math.floor(min((left - test_cost(plan, arm)) / epoch_cost(plan, arm) for arm in plan.arms))
        if longest >= shortest:
            return min(longest, ceiling)
        ceiling = shortest
    return EPOCHS[0]
