"""From a request to a plan: measure the arms, freeze the question, refuse what the budget cannot do."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import Arm, load_recipe
from study import provenance
from study.cli import Request
from study.protocol import allocation, levels, looks
from study.protocol.accounting import searches
from study.protocol.budget import Budget
from study.protocol.codec import plain
from study.protocol.errors import InputError
from study.protocol.history import History
from study.protocol.metrics import METRICS
from study.protocol.plan import Plan
from study.protocol.question import DataCard, Weights
from study.protocol.records import Extension
from study.protocol.text import counted, duration, level

if TYPE_CHECKING:
    from study.data.sealed import Prepared
    from study.data.weights import Start
    from study.execution.profile import Survey


def need_gpu(budget: Budget, request: Request) -> None:
    """Raises InputError when the budget is one of GPUs and this machine, without a cluster, has none."""
    if budget.resource != "gpu" or request.address:
        return
    import torch

    if not torch.cuda.is_available():
        cpu = Budget(seconds=budget.seconds, resource="cpu")
        raise InputError(
            f"a budget of {budget} needs a GPU, and this machine has none that torch can use. "
            f"On the CPU this works: python study/run.py --budget 20cpu-minutes --data digits "
            f"(or --budget {cpu} with --data {request.data}); a cluster's GPUs: --address HOST:PORT"
        )


def checked_here(request: Request) -> bool:
    """Whether ``quick_check`` has run on this machine before Ray starts, where the trials will run too."""
    return request.budget is not None and request.budget.resource == "cpu" and not request.address


def quick_check(request: Request, arms: Mapping[str, Arm], prepared: "Prepared") -> Callable[[], None]:
    """A check that takes about a second and raises InputError when the budget is hopeless."""
    from study.execution import feasibility

    assert request.budget is not None
    card, budget = prepared.card, request.budget
    return functools.partial(
        feasibility.check, arms, card, budget, epochs=request.epochs, train_fraction=request.train_fraction
    )


def check_arms(
    arms: Mapping[str, Arm], starts: Mapping[str, "Start"], recipe: str, prepared: "Prepared"
) -> dict[str, "Start"]:
    """The ``starts`` of these arms, each with what it leaves to chance, once every arm is known to take the images and to fit its weights.

    Raises ArmError if one does not, InputError if its weights have seen test images.
    """
    from study.data.weights import check_unseen
    from study.training import beginning
    from study.training.trial import image_spec

    starts = {name: starts[name] for name in arms if name in starts}
    check_unseen(starts, prepared)
    images = image_spec(prepared.card)
    for name, arm in arms.items():
        beginning.check(name, arm, images)
    return {
        name: beginning.fitted(name, recipe, start, images, prepared.card.classes)
        for name, start in starts.items()
    }


def make_plan(
    request: Request, arms: Mapping[str, Arm], prepared: "Prepared", place: Path, weights: dict[str, Weights]
) -> Plan:
    """Measure the arms and freeze the question of the study that will lie at ``place``.

    Raises InputError when the budget is too small for it.
    """
    from study.data.split import split_for
    from study.execution import profile

    assert request.budget is not None
    _check_train_fraction(request.train_fraction, prepared.card)
    survey = profile.survey(
        arms,
        prepared.card,
        request.budget,
        recipe=request.recipe,
        fraction=request.fraction,
        pool=prepared.train,
        train_images=round(request.train_fraction * (1 - allocation.VAL_SHARE[1]) * prepared.card.train),
        check=None if checked_here(request) else quick_check(request, arms, prepared),
    )
    plan = Plan(
        arms=tuple(arms),
        data=prepared.card,
        budget=request.budget,
        epochs=request.epochs or allocation.EPOCHS[0],
        rope=request.rope,
        seed=request.seed,
        train_fraction=request.train_fraction,
        widen=request.widen,
        metric=request.metric,
        spaces=_spaces(request, arms, survey.batch_sizes, prepared.card),
        batch_sizes=survey.batch_sizes,
        audits=survey.audits,
        machine=survey.machine,
        probe_cost=survey.cost,
        command=request.command,
        versions=provenance.versions(),
        code=provenance.code_hash(arms, request.recipe),
        packing=survey.packing,
        packing_notes=survey.notes,
        looks=request.looks,
        recipe=request.recipe,
        recipe_about=load_recipe(request.recipe).about,
        test=request.test,
        pictures=not request.no_pictures,
        earlier=looks.earlier_studies(place, prepared.test_source),
        test_source=prepared.test_source,
        weights=weights,
    )
    plan = allocation.with_length(plan, request.epochs)
    split_for(
        plan, prepared.train.labels, fold=0, groups=prepared.train.groups
    )  # raises now what would end every trial
    return plan


def _spaces(
    request: Request, arms: Mapping[str, Arm], batch_sizes: tuple[int, ...], card: DataCard
) -> dict[str, dict[str, dict[str, Any]]]:
    """What is searched for every arm, as a plan has it."""
    from study.scheduling.spaces import PHOTOGRAPHS, describe, searched

    photographs, metric = card.size >= PHOTOGRAPHS, METRICS[request.metric]
    return {
        name: describe(searched(arm.space, batch_sizes, request.widen, metric, photographs=photographs))
        for name, arm in arms.items()
    }


def _check_train_fraction(fraction: float, card: DataCard) -> None:
    """Refuse, before anything is measured, a part that cannot be drawn from each class in even the smallest folds."""
    left = card.train - max(len(card.classes), card.train // max(allocation.PAIRS))
    if fraction < 1 and not len(card.classes) <= round(fraction * left) <= left - len(card.classes):
        raise InputError(
            f"--train-fraction {fraction:g} of about {left} training images cannot be split off with at least one image of each "
            f"of the {len(card.classes)} classes in it and one outside; choose a part nearer to 0.5, or leave it out for all images"
        )


def added_arm(
    plan: Plan,
    asked: tuple[str, ...],
    added: Mapping[str, Arm],
    prepared: "Prepared",
    weights: dict[str, Weights],
) -> Extension:
    """Measure one arm more under the study's own protocol. Raises InputError when that does not fit the arm."""
    from study.execution import profile
    from study.scheduling.spaces import describe, of_photographs, searched

    (name,) = added
    photographs = of_photographs(plan.spaces)
    share = Budget(seconds=plan.share, resource=plan.budget.resource)
    survey = profile.survey(
        added, prepared.card, share, recipe=plan.recipe, fraction=plan.machine.fraction, pool=prepared.train
    )
    instead = looks.instead(plan, name, survey.audits[name], survey.cost[name])
    _check_comparable(plan, name, survey, instead)
    extension = Extension(
        look=2,
        budget_seconds=plan.share * (len(plan.arms) + 1),
        arms=(name,),
        pairs=0,
        level=levels.ADDED,
        declared=False,
        reason=f"--arms {','.join(asked)} after {','.join(plan.arms)}",
        plan=plain(
            {
                "audits": {arm: dataclasses.asdict(audit) for arm, audit in survey.audits.items()},
                "spaces": {
                    arm: describe(
                        searched(it.space, plan.batch_sizes, plan.widen, plan.judged, photographs=photographs)
                    )
                    for arm, it in added.items()
                },
                "probe_cost": survey.cost,
                "weights": {arm: dataclasses.asdict(own) for arm, own in weights.items() if arm in added},
            }
        ),
    )
    try:
        extended = plan.extended(extension)
    except InputError as error:
        raise InputError(
            f"{name} cannot be added: its full run costs so much more that the others' share of {duration(plan.share)} would be "
            f"divided differently ({error}). {instead}"
        ) from error
    if allocation.tuning_runs(extended) + extended.pairs < allocation.TUNING_RUNS_FLOOR:
        raise InputError(
            f"{name} cannot be added: the share of {duration(plan.share)} that the others had leaves it "
            f"{max(0.0, allocation.tuning_runs(extended)):.1f} full runs of search, and fewer than {allocation.TUNING_RUNS_FLOOR} say little. "
            f"{instead}"
        )
    return extension


def _check_comparable(plan: Plan, name: str, survey: "Survey", instead: str) -> None:
    ours, theirs = ((m.resource, m.fraction, m.threads, m.kind) for m in (plan.machine, survey.machine))
    if ours != theirs:
        raise InputError(
            f"{name} would run on {survey.machine.name}, and the others ran on {plan.machine.name}: their costs would not "
            f"compare. {instead}"
        )
    if missing := sorted(set(plan.batch_sizes) - set(survey.batch_sizes)):
        raise InputError(
            f"{name} cannot train with batches of {missing[-1]}, which the others' searches had. {instead}"
        )


def extension_sentence(plan: Plan, history: History, extension: Extension) -> str:
    """What the second look, or the added arm, will give; ``plan`` has it already."""
    have = searches(plan, history)
    if extension.pairs:
        return looks.describe_second_look(plan, history, extension)
    held = levels.of_pair(plan, plan.arms[0], plan.arms[-1], first=have, look=2, extension=extension)
    others = [arm for arm in plan.arms if arm not in extension.arms]
    return (
        f"{extension.arms[0]} is added: {counted(have, 'search', 'searches')} on the folds and with the share of {duration(plan.share)} that "
        f"{', '.join(others)} had. Each of its pairs of arms has an interval at {level(held.confidence)}, {held.label}"
    )
