"""One trial trained again from its record: the same numbers, to the last digit on the same kind of device."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import search_spaces
from study import provenance
from study.data import weights as files
from study.data.images import Images
from study.data.prepare import prepare_again
from study.data.weights import Content
from study.protocol import consistency
from study.protocol.errors import DIFFERENT, DONE, InputError
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Trial
from study.protocol.rundir import RunDir
from study.storage.fetch import local
from study.training.device import device_of
from study.training.loop import DivergedError
from study.training.trial import start

MEASURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def command(given: argparse.Namespace, console: Console) -> int:
    table, same = rerun(RunDir(local(given.run)), given.trial)
    console.print(table)
    console.print("the same numbers" if same else "the numbers differ")
    return DONE if same else DIFFERENT


def rerun(run: RunDir, trial_id: str) -> tuple[Table, bool]:
    """A table of the recorded numbers beside the new ones, epoch by epoch, and whether all are equal.

    Raises ArmError when the arm is not here, InputError when there is no such trial, the data is not what it was, or
    the machine has no GPU where the study had one.
    """
    plan, history = consistency.load(run)
    trial = history.trials.get(trial_id)
    if trial is None:
        raise InputError(
            f"{run} has no trial {trial_id!r}: "
            + (
                f"they are called like {next(iter(history.trials))}"
                if history.trials
                else "none has begun yet"
            )
        )
    if plan.machine.resource == "gpu" and not torch.cuda.is_available():
        raise InputError("the study trained on GPUs, and this machine has none: its numbers would differ")
    prepared = prepare_again(plan, Path("data"))
    provenance.check_data(plan, prepared.card)
    recorded = history.epochs[trial_id]
    search_spaces.load(trial.arm, plan.recipe)  # an arm that is not here is no failure of the trial
    record = plan.weights.get(trial.arm)
    weights = {trial.arm: files.again(trial.arm, record).content} if record else {}
    epochs = _epochs(plan, trial, prepared.train, weights, history.fraction(trial_id, plan))
    again, end = _train(epochs, len(recorded))
    outcome = history.outcomes.get(trial_id)
    failed = outcome is not None and outcome.state == "failed"
    if failed and not end:  # it failed in the epoch after the last whole one
        more, end = _train(epochs, 1)
        again += more
    table = Table(title=f"{trial_id}: recorded, and again{f' ({end})' if end else ''}")
    measures = (*MEASURES, *(("score",) if plan.metric != "accuracy" else ()))
    for column in ("epoch", *measures):
        table.add_column(column, justify="right")
    same = len(again) == len(recorded)
    for before, after in zip(recorded, again, strict=False):
        pairs = [(getattr(before, m), getattr(after, m)) for m in measures]
        same &= all(a == b for a, b in pairs)
        table.add_row(str(before.epoch), *(f"{a!r}\n{b!r}" for a, b in pairs))
    return table, same


def _epochs(
    plan: Plan, trial: Trial, pool: Images, weights: Mapping[str, Content], fraction: float
) -> Iterator[Epoch]:
    """Lazily: building the net, which may be what failed, comes with the first."""
    _, epochs = start(plan, trial, pool, device_of(plan.machine, fraction), weights)
    yield from epochs


def _train(epochs: Iterable[Epoch], count: int) -> tuple[list[Epoch], str]:
    """At most ``count`` epochs, and what ended them early."""
    done: list[Epoch] = []
    if not count:
        return done, ""
    try:
        for epoch in epochs:
            done.append(epoch)
            if len(done) == count:
                break
    except DivergedError as error:
        return done, f"diverged: {error}"
    except Exception as error:  # noqa: BLE001  # the arm's own failure, as recorded
        return done, f"error: {type(error).__name__}: {error}"
    return done, ""
