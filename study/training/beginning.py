"""Whether an arm can be built for the study's images, and what of its weights fits, before anything is measured."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

import search_spaces
from search_spaces import Arm, ArmError, Choice, Config, ImageSpec
from search_spaces._weights import drawn_anew
from study.data.weights import Start, tensors
from study.protocol.text import first_line

SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224)
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
        f"arm {name} cannot be built and trained at its default setting on images of {images.size} x {images.size} pixels with "
        f"{images.channels} channels: {fault.rstrip('.')}. {would}".rstrip()
    )


def _fault(arm: Arm, images: ImageSpec) -> str:
    try:
        with torch.device("meta"):
            net = arm.build(arm.default(), images).eval()
            patches = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride]
            for patch in patches:
                patch.register_forward_pre_hook(functools.partial(_see_all, images.size))
            logits = net(torch.empty(2, images.channels, images.size, images.size))
    except Exception as error:  # noqa: BLE001  # any fault of an arm becomes a sentence with its name
        return f"{type(error).__name__}: {first_line(error)}"
    expected = (2, images.classes)
    found = tuple(getattr(logits, "shape", ()))
    return "" if found == expected else f"for two images it gives {found} numbers, and not {expected}"


def _see_all(side: int, patch: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raises ArmError if patches of an image ``side`` pixels wide leave some of them out."""
    assert isinstance(patch, nn.Conv2d)
    width = patch.kernel_size[0]
    if inputs[0].shape[-1] == side and patch.padding == (0, 0) and (rest := side % width):
        raise ArmError(
            f"its patches of {width} pixels would leave out {rest} of {side} rows and columns of every image"
        )


def fitted(name: str, recipe: str, start: Start, images: ImageSpec) -> Start:
    """``start`` with the parameters that its weights leave to chance. Raises ArmError if they are not the arm's."""
    arm = search_spaces.load(name, recipe)
    try:
        given = tensors(start.content)
        new = drawn_anew(arm, given, images, arm.default())
    except Exception as error:  # noqa: BLE001  # whatever loading them raises
        raise ArmError(
            f"the weights of {name}, {start.record.source}, do not fit: {first_line(error).rstrip('.')}. They must be of "
            "this arm, at this size of images"
        ) from None
    for axis, setting in _settings(arm, recipe):
        try:
            drawn_anew(arm, given, images, setting)
        except Exception:  # noqa: BLE001
            raise ArmError(
                f"the weights of {name} do not fit every {axis} that is searched: pin it to theirs, as in "
                f"ARM@FILE.safetensors:{axis}={arm.default()[axis]}"
            ) from None
    return replace(start, record=replace(start.record, new=new))


def _settings(arm: Arm, recipe: str) -> Iterator[tuple[str, Config]]:
    """The default with one axis of the architecture's own at another option or end."""
    trained = search_spaces.load_recipe(recipe)
    usual = arm.default()
    for name, axis in arm.space.items():
        if name in trained.space or name in trained.offers or name not in usual:
            continue
        ends = axis.options if isinstance(axis, Choice) else (axis.low, axis.high)
        yield from ((name, {**usual, name: end}) for end in ends if end != usual[name])
