"""Whether the files of a run belong together: its plan and its ledger."""

import hashlib

from study.protocol.accounting import searches
from study.protocol.errors import InputError, LedgerError
from study.protocol.history import History
from study.protocol.ledger import read
from study.protocol.plan import Plan
from study.protocol.rundir import PLAN, RunDir


def load(run: RunDir) -> tuple[Plan, History]:
    """Plan and ledger of the study in the folder ``run``, which may come from anywhere: they must belong together.

    The plan covers all arms, including one added later. Raises InputError or LedgerError.
    """
    run.check_files()
    plan, history = Plan.load(run.plan), read(run.ledger)
    plan = plan.extended(history.extension)
    try:
        check(history, plan)
    except LedgerError as error:
        raise LedgerError(f"{run.ledger}: {error}") from error
    check_question(history, plan_hash(run))
    return plan, history


def plan_hash(run: RunDir) -> str:
    """SHA-256 of the plan in the folder ``run``, as a Session records it."""
    return hashlib.sha256(run.plan.read_bytes()).hexdigest()


def check_question(history: History, plan: str) -> None:
    """Raises InputError if the study did not begin with the plan of this hash: it was edited since."""
    if history.sessions and history.sessions[0].plan != plan:
        raise InputError(
            f"{PLAN} is not the one that the study began with: restore it, or ask the new question in a new study"
        )


def check(history: History, plan: Plan) -> None:
    """Raises LedgerError if a record cannot belong to a study of ``plan``: it was written by hand."""
    arms = set(plan.arms)
    pairs = plan.pairs + (history.extension.pairs if history.extension else 0)
    for trial in history.trials.values():
        searched = trial.phase in ("search", "select", "confirm")
        if trial.arm not in arms or not 0 <= trial.pair < (pairs if searched else 1):
            raise LedgerError(f"trial {trial.id} is of no arm or pair of the plan")
        if not 0 <= trial.fold < plan.folds:
            raise LedgerError(f"trial {trial.id} is of no fold of the plan")
        if trial.epochs != plan.epochs or (
            history.finished(trial.id) and len(history.epochs[trial.id]) != trial.epochs
        ):
            raise LedgerError(f"trial {trial.id} is of another length than the plan's {plan.epochs} epochs")
    if strangers := {cost.arm for cost in history.costs} - arms:
        raise LedgerError(f"a cost of {min(strangers)!r}, which is not an arm of the plan")
    tuning, extension = history.tuning, history.extension
    added = set(extension.arms) if extension and not extension.pairs else set()
    if tuning is not None and (
        not arms - added <= tuning.full_run.keys() <= arms or min(tuning.full_run.values()) <= 0
    ):
        raise LedgerError("the tuning share is not one for each arm of the plan")
    _check_manifests(history, plan)


def _check_manifests(history: History, plan: Plan) -> None:
    pairs = {1: range(searches(plan, history))}
    arms = {1: set(plan.arms)}
    if (extension := history.extension) is not None:
        arms[1] -= set(extension.arms) if not extension.pairs else set()
        arms[extension.look] = set(extension.arms)
        further = range(plan.pairs, plan.pairs + extension.pairs)
        pairs[extension.look] = further if extension.pairs else pairs[1]
    named: list[str] = []
    for manifest in history.manifests:
        if manifest.choices.keys() != arms[manifest.look] or manifest.in_hand.keys() != arms[manifest.look]:
            raise LedgerError("a manifest has not one setting for each of its arms and pairs")
        for found in manifest.choices.values():
            if [choice.pair for choice in found] != list(pairs[manifest.look]):
                raise LedgerError("a manifest has not one setting for each of its arms and pairs")
            named += [t for choice in found for t in choice.trials]
    named += [t for opened in history.opened for t in opened.trials]
    if unknown := {*named, *history.scores} - history.trials.keys():
        raise LedgerError(f"manifest, test or scores of unknown trials {', '.join(sorted(unknown))}")
