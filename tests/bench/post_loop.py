"""The seed post's own loop, written from its text, to measure against: PIL per image, two workers, plain fp32.

Where the text is silent both loops use the same: the arm's net, the optimizer (SGD,
Nesterov momentum 0.9, weight decay), the source of the images (arrays in memory, as torchvision's CIFAR10
has them), and a device.
"""

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from study.data.images import Images
from study.training.optimizers import MOMENTUM

transform = transforms.Compose(
    [
        transforms.RandomHorizontalFlip(),
        transforms.RandomRotation(10),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ]
)


class Pictures(Dataset[tuple[Tensor, int]]):
    """An item as torchvision's CIFAR10 makes it: array -> PIL -> transform."""

    def __init__(self, images: Images) -> None:
        self.data: NDArray[np.uint8] = np.ascontiguousarray(images.pixels.transpose(0, 2, 3, 1))
        self.targets = images.labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return transform(Image.fromarray(self.data[index])), int(self.targets[index])


def train_loader(images: Images, *, seed: int, batch_size: int = 32) -> "DataLoader[tuple[Tensor, Tensor]]":
    return DataLoader(
        Pictures(images),  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=True,
        num_workers=2,
        generator=torch.Generator().manual_seed(seed),
    )


def sgd(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(), lr=lr, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay
    )


def train_model(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    trainloader: "DataLoader[tuple[Tensor, Tensor]]",
    device: torch.device,
    *,
    epochs: int = 50,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> Generator[int]:
    """The post's loop, yielding the images of every step; ``scheduler`` is our addition."""
    for _epoch in range(epochs):
        running_loss = 0.0
        for _i, data in enumerate(trainloader, 0):
            inputs, labels = (part.to(device) for part in data)
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if scheduler is not None:
                scheduler.step()
            yield len(labels)
