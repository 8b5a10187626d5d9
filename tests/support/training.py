"""One small trial for real training, and its measures."""

import torch

from search_spaces import load
from study.protocol.records import Epoch, Trial

CPU = torch.device("cpu")


def a_trial(*, seed: int = 1, epochs: int = 2, **changes: float | str) -> Trial:
    config = {**load("tiny_resnet").default(), "batch_size": 64, "lr": 0.1, "augment": "none", **changes}
    return Trial(
        id="t", arm="tiny_resnet", phase="search", index=0, pair=0, config=config, seed=seed, fold=0,
        epochs=epochs,
    )  # fmt: skip


def measures(epochs: list[Epoch]) -> list[tuple[float, ...]]:
    return [(e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy) for e in epochs]
