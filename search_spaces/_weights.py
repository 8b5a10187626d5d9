"""Nets that begin from trained weights: what of them fits, and the input that they were trained on.

The study gives images in [-1, 1]. A net with weights maps them, channel by channel, to what its weights know: first thing in
its own forward pass, with factors that are buffers of the net, so that they travel with its weights wherever these go.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Arm, ArmError, Config, ImageSpec, Published

Tensors = Mapping[str, Tensor]
SCALE, SHIFT = "input_scale", "input_shift"
FEWEST = 0.5
"""Part of a net's numbers that must come from its weights, its head aside."""


def begun(arm: Arm, weights: Tensors | None) -> Arm:
    """The arm of nets that begin from ``weights``; without them, nets of the same shape that wait for a checkpoint's."""

    def build(config: Config, images: ImageSpec) -> nn.Module:
        if weights is None:
            net = arm.build(config, images)
        else:
            own = {name: tensor for name, tensor in weights.items() if name not in (SCALE, SHIFT)}
            net = arm.begin(config, images, own) if arm.begin else _fitted(arm.build(config, images), own)
        _standardise(net, images.channels, arm.published)
        if weights is not None and SCALE in weights:
            _take_over(net, weights)
        return net

    return dataclasses.replace(arm, build=build, weights=True)


def drawn_anew(arm: Arm, weights: Tensors, images: ImageSpec, config: Config) -> tuple[str, ...]:
    """The parameters of the arm's net that are not from ``weights``, of which only names and shapes count here.

    They are those that stay what a net without weights has, whatever numbers the weights hold. Raises ArmError when most do.
    """
    nets = []
    with torch.random.fork_rng(devices=[]):
        noise = {name: torch.randn(tensor.shape) for name, tensor in weights.items()}
        for it in (arm, begun(arm, noise)):
            torch.manual_seed(0)
            nets.append(it.build(config, images))
    plain = dict(nets[0].named_parameters())
    new = [
        name for name, now in nets[1].named_parameters() if name in plain and torch.equal(now, plain[name])
    ]
    heads = tuple(f"{head}." for head in head_of(nets[1]))
    body = {name: p.numel() for name, p in nets[1].named_parameters() if not name.startswith(heads)}
    known = sum(count for name, count in body.items() if name not in new)
    if known < FEWEST * sum(body.values()):
        raise ArmError(
            f"its weights have {100 * known / sum(body.values()):.0f} % of the net as it is built here; {len(new)} of "
            f"{len(plain)} parameters are not among them, as {', '.join(new[:3])}"
        )
    return tuple(new)


def head_of(net: nn.Module) -> tuple[str, ...]:
    """The names of the modules that give the logits: those that a timm model names, else the last one that has weights."""
    model: Any = next((module for module in net.modules() if hasattr(module, "get_classifier")), None)
    said = model.get_classifier() if model else ()
    heads = said if isinstance(said, tuple | list) else (said,)
    named = {name: module for name, module in net.named_modules() if any(True for _ in module.parameters())}
    found = tuple(name for name, module in named.items() if any(module is head for head in heads))
    return found or tuple(name for name, module in named.items() if module._parameters)[-1:]


def _fitted(net: nn.Module, weights: Tensors) -> nn.Module:
    """The net with every tensor of ``weights`` that has the name and the shape of one of its own."""
    own = net.state_dict()
    fit = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    net.load_state_dict(fit, strict=False)
    return net


def _standardise(net: nn.Module, channels: int, published: Published | None) -> None:
    """Have ``net`` map its input from [-1, 1] to what the weights know."""
    mean = _per_channel(published.mean if published else (0.5,), channels)
    std = _per_channel(published.std if published else (0.5,), channels)
    net.register_buffer(SCALE, 0.5 / std)
    net.register_buffer(SHIFT, (0.5 - mean) / std)
    net.register_forward_pre_hook(_mapped)


def _mapped(net: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0] * net.input_scale + net.input_shift, *inputs[1:])


def _per_channel(values: tuple[float, ...], channels: int) -> Tensor:
    """``(channels, 1, 1)``; of another number of channels than the values are, their mean."""
    found = torch.tensor(values)
    return (found if len(values) == channels else found.mean().expand(channels).clone())[:, None, None]


def _take_over(net: Any, weights: Tensors) -> None:
    """The input that these weights, an export of this project, were trained on."""
    for name in (SCALE, SHIFT):
        buffer = getattr(net, name)
        given = weights[name]
        buffer.copy_(given if given.shape == buffer.shape else given.mean())
