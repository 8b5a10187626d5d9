"""A trial's run, from its record, the plan and the images: all that a rerun needs."""

import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import search_spaces
from search_spaces import ImageSpec
from study.data.images import Images, Streamed
from study.data.split import split_for
from study.data.weights import Content, tensors
from study.protocol.plan import Plan
from study.protocol.question import DataCard
from study.protocol.records import Epoch, Trial
from study.training.evaluation import Split
from study.training.loop import Training, build

RESIDENT_SHARE = 0.1
"""Part of a trial's GPU memory that its images may take: less than ``packing.HEADROOM`` leaves above the peak."""


def image_spec(card: DataCard) -> ImageSpec:
    return ImageSpec(channels=card.channels, size=card.size, classes=len(card.classes))


def placed(images: Images, device: torch.device) -> Tensor | Images:
    """The images on the device; as they are if it has no room for them, and batches are fetched."""
    if isinstance(images, Streamed):
        return images
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        own = whole * torch.cuda.get_per_process_memory_fraction(device)
        if images.pixels.nbytes > RESIDENT_SHARE * own:
            return images
    return _tensor(images.pixels).to(device)


def _tensor(array: NDArray[Any]) -> Tensor:
    """The same memory, shared read-only by all trials of a node."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)


def training(
    plan: Plan,
    trial: Trial,
    pool: Images,
    device: torch.device,
    weights: Mapping[str, Content] = MappingProxyType({}),
) -> Training:
    """The trial's run, at its beginning; ``weights`` are the files that the study's arms begin from."""
    record, audit = plan.weights.get(trial.arm), plan.audits[trial.arm]
    begun = tensors(weights[trial.arm]) if record else None
    new_head = bool(record and record.head == "new")
    arm = search_spaces.load(trial.arm, plan.recipe, begun, new_head=new_head)
    layout = audit.layout(trial.config)
    net = build(
        arm, trial.config, image_spec(plan.data), seed=trial.seed, device=device, channels_last=layout
    )
    train, val = split_for(plan, pool.labels, fold=trial.fold, groups=pool.groups)
    data = Split(
        images=placed(pool, device),
        labels=_tensor(pool.labels).to(device),
        train=torch.from_numpy(train).to(device),
        val=torch.from_numpy(val).to(device),
    )
    return Training(
        net,
        trial,
        data,
        classes=len(plan.data.classes),
        warmup=arm.warmup,
        metric=plan.judged,
        graphed=audit.graphed,
    )


def start(
    plan: Plan,
    trial: Trial,
    pool: Images,
    device: torch.device,
    weights: Mapping[str, Content] = MappingProxyType({}),
) -> tuple[nn.Module, Iterator[Epoch]]:
    """The trial's net and its epochs, trained as they are drawn."""
    run = training(plan, trial, pool, device, weights)
    return run.net, run.epochs()
