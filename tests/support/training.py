"""Small real training: digits, a plan of it, one trial."""

import dataclasses
from pathlib import Path

import pytest
import torch

from search_spaces import load
from study.data.prepare import prepare
from study.data.sealed import Prepared
from study.protocol.plan import Plan
from study.protocol.question import Machine
from study.protocol.records import Epoch, Trial
from support.plans import AUDIT, PLAN

CPU = torch.device("cpu")


ONE_CORE = Machine(resource="cpu", slots=1, fraction=1.0, threads=1, name="one core")


@pytest.fixture(scope="module")
def digits() -> Prepared:
    torch.set_num_threads(1)
    return prepare("digits", seed=0, root=Path("unused"))


@pytest.fixture(scope="module")
def plan(digits: Prepared) -> Plan:
    return dataclasses.replace(
        PLAN,
        arms=("tiny_resnet",),
        data=digits.card,
        machine=ONE_CORE,
        audits={"tiny_resnet": AUDIT},
        probe_cost={"tiny_resnet": 1.0},
    )


def a_trial(*, seed: int = 1, epochs: int = 2, **changes: float | str) -> Trial:
    config = {**load("tiny_resnet").default(), "batch_size": 64, "lr": 0.1, "augment": "none", **changes}
    return Trial(
        id="t", arm="tiny_resnet", phase="search", index=0, pair=0, config=config, seed=seed, fold=0,
        epochs=epochs,
    )  # fmt: skip


def measures(epochs: list[Epoch]) -> list[tuple[float, ...]]:
    return [(e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy) for e in epochs]
