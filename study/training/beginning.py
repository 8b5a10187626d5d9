"""Whether an arm can be built for the study's images, and what of its weights fits, before anything is measured."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

import search_spaces
from search_spaces import Arm, ArmError, Choice, Config, ImageSpec
from search_spaces._weights import fit
from study.data.weights import Start, tensors
from study.protocol.text import first_line

SIZES = (16, 24, 28, 32, 48, 56, 64, 96, 112, 120, 128, 160, 192, 224, 240, 256)
"""Pixels of a side that a refusal tries instead, the nearest first."""


def check(name: str, arm: Arm, images: ImageSpec) -> None:
    """Raises ArmError, naming what would do, if the arm cannot be built for such images. Allocates no weights."""
    fault = _fault(arm, images)
    if not fault:
        return
    near = sorted(SIZES, key=lambda size: abs(size - images.size))
    fitting = (size for size in near if not _fault(arm, replace(images, size=size)))
    sizes = list(itertools.islice(fitting, 2))
    colour = images.channels != 3 and not _fault(arm, replace(images, channels=3))
    would = f"It takes images of {' or '.join(map(str, sizes))} pixels: --size {sizes[0]}. " if sizes else ""
    would += "It takes images in colour only. " if colour else ""
    raise ArmError(
        f"arm {name} cannot be built at its default setting for images of {images.size} x {images.size} pixels with "
        f"{images.channels} channels: {fault.rstrip('.')}. {would}".rstrip()
    )


def _fault(arm: Arm, images: ImageSpec) -> str:
    try:
        with torch.device("meta"):
            net = arm.build(arm.default(), images).eval()
            patches = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride]
            for patch in patches:
                patch.register_forward_pre_hook(functools.partial(_see_all, images))
            logits = net(torch.empty(2, images.channels, images.size, images.size))
    except Exception as error:  # noqa: BLE001  # any fault of an arm becomes a sentence with its name
        return f"{type(error).__name__}: {first_line(error)}"
    expected = (2, images.classes)
    found = tuple(getattr(logits, "shape", ()))
    return "" if found == expected else f"for two images it gives {found} numbers, and not {expected}"


def _see_all(images: ImageSpec, patch: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raises ArmError if patches of an image, which a branch may see scaled, leave some of its pixels out."""
    assert isinstance(patch, nn.Conv2d)
    width, side = patch.kernel_size[0], inputs[0].shape[-1]
    whole = side == images.size or patch.in_channels == images.channels
    if whole and patch.padding == (0, 0) and (rest := side % width):
        raise ArmError(
            f"its patches of {width} pixels would leave out {rest} of {side} rows and columns of every image"
        )


def fitted(
    name: str, recipe: str, start: Start, images: ImageSpec, classes: tuple[str, ...] | None = None
) -> Start:
    """``start`` with what becomes of its weights on images of these ``classes``. Raises ArmError if they are not the arm's."""
    arm = search_spaces.load(name, recipe)
    other = None not in (start.classes, classes) and start.classes != classes
    try:
        given = tensors(start.content)
        found = fit(arm, given, images, arm.default(), new_head=other)
    except Exception as error:  # noqa: BLE001  # whatever loading them raises
        raise ArmError(
            f"the weights of {name}, {start.record.source}, do not fit: {first_line(error).rstrip('.')}. They must be of "
            "this arm, at this size of images"
        ) from None
    for axis, setting in _settings(arm, recipe):
        try:
            fit(arm, given, images, setting)
        except Exception:  # noqa: BLE001
            raise ArmError(
                f"the weights of {name} do not fit every {axis} that is searched: pin it to theirs, as in "
                f"ARM@FILE.safetensors:{axis}={arm.default()[axis]}"
            ) from None
    head: Literal["", "kept", "new"] = (
        "new" if other else "kept" if found.head and start.classes is None else ""
    )
    return replace(start, record=replace(start.record, new=found.new, adapted=found.adapted, head=head))


def _settings(arm: Arm, recipe: str) -> Iterator[tuple[str, Config]]:
    """The default with one axis of the architecture's own at another option or end."""
    trained = search_spaces.load_recipe(recipe)
    usual = arm.default()
    for name, axis in arm.space.items():
        if name in trained.space or name in trained.offers or name not in usual:
            continue
        ends = axis.options if isinstance(axis, Choice) else (axis.low, axis.high)
        yield from ((name, {**usual, name: end}) for end in ends if end != usual[name])
