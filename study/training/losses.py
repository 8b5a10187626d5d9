"""How much each class weighs in the loss."""

import torch
from torch import Tensor

from study.protocol.records import Config
from study.training.evaluation import Split


def class_weights(config: Config, data: Split, classes: int) -> Tensor | None:
    """Each class's weight in the loss, float32 (classes,): n / (C n_c) of the training images; None if all weigh alike.

    Only a study under balanced accuracy searches it (``spaces.searched``).
    """
    if config.get("class_weights", "none") == "none":
        return None
    counts = torch.bincount(data.labels[data.train].cpu(), minlength=classes).clamp_min(1).float()
    return (counts.sum() / (classes * counts)).to(data.labels.device)
