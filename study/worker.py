"""What Ray ships to a node: it trains one trial after the other and reports each epoch.

Only numbers come back; whether to go on is decided by the driver. A worker process lives on between
trials, so torch is imported once.
"""

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.result import SHOULD_CHECKPOINT
from torch import nn

import search_spaces
from search_spaces import ImageSpec
from study.confirm import SCORED_PHASES
from study.data import Images, split
from study.plan import DataCard, Machine, Plan
from study.records import Epoch, Trial
from study.train import DivergedError, Split, build, fit

WEIGHTS = "weights.pt"


def device_of(machine: Machine) -> torch.device:
    """The device of this process, set up as the plan says: CPU threads, and a wall around GPU memory."""
    torch.set_num_threads(machine.threads)
    if machine.resource == "cpu":
        return torch.device("cpu")
    if machine.fraction < 1:  # Ray's fractions are bookkeeping; this is the wall between trials
        torch.cuda.set_per_process_memory_fraction(machine.fraction)
    return torch.device("cuda", torch.cuda.current_device())


def image_spec(card: DataCard) -> ImageSpec:
    return ImageSpec(channels=card.channels, size=card.size, classes=len(card.classes))


def start(plan: Plan, trial: Trial, pool: Images, device: torch.device) -> tuple[nn.Module, Iterator[Epoch]]:
    """The trial's net and its epochs, trained as they are drawn: all that a rerun needs."""
    arm = search_spaces.load(trial.arm)
    layout = plan.audits[trial.arm].channels_last
    net = build(
        arm, trial.config, image_spec(plan.data), seed=trial.seed, device=device, channels_last=layout
    )
    train, val = split(pool.labels, val=plan.val_images, seed=trial.split_seed)
    if plan.train_fraction < 1:
        _, kept = split(pool.labels[train], val=plan.train_images, seed=trial.split_seed + 1)
        train = train[kept]
    with warnings.catch_warnings():
        # the pool is read-only memory shared by all trials of a node, and is never written
        warnings.filterwarnings("ignore", message=".*not writable.*")
        images, labels = torch.from_numpy(pool.pixels), torch.from_numpy(pool.labels)
    data = Split(
        images=images.to(device),
        labels=labels.to(device),
        train=torch.from_numpy(train).to(device),
        val=torch.from_numpy(val).to(device),
    )
    return net, fit(net, trial, data, classes=len(plan.data.classes))


class StudyTrial(tune.Trainable):
    """Ray Tune's face of a trial: one ``step`` is one epoch.

    The result has ``epoch`` (the record as a dict) or, when the trial cannot go on, ``failure``. An
    error of the arm is a result too, so that the process survives it.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters passes what every trial shares
        self, config: dict[str, Any], plan: dict[str, Any], pool: Images
    ) -> None:
        self._plan = Plan.from_dict(plan)
        self._pool = pool
        self._device = device_of(self._plan.machine)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial = Trial(**new_config["trial"])
        self._net: nn.Module | None = None
        self._epochs: Iterator[Epoch] = iter(())
        return True

    def step(self) -> dict[str, Any]:
        try:
            if self._net is None:
                self._net, self._epochs = start(self._plan, self._trial, self._pool, self._device)
            epoch = next(self._epochs)
        except DivergedError as error:
            return self._failure(f"diverged: {error}")
        except torch.cuda.OutOfMemoryError as error:
            return self._failure(f"out of memory: {first_line(error)}")
        except Exception as error:  # noqa: BLE001  # an arm's fault is that trial's end, not the study's
            return self._failure(f"error: {type(error).__name__}: {first_line(error)}")
        last = epoch.epoch == self._trial.epochs
        return {
            "trial": self._trial.id,
            "epoch": dataclasses.asdict(epoch),
            "done": last,
            SHOULD_CHECKPOINT: last and self._trial.phase in SCORED_PHASES,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        assert self._net is not None
        torch.save(self._net.state_dict(), Path(checkpoint_dir) / WEIGHTS)

    def cleanup(self) -> None:
        self._net, self._epochs = None, iter(())

    def _failure(self, reason: str) -> dict[str, Any]:
        self.cleanup()
        return {"trial": self._trial.id, "failure": reason, "done": True}


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line that a ledger and a terminal can hold."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else ""
