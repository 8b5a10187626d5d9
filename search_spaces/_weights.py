"""Nets that begin from trained weights: what of them fits, and the input that they were trained on.

The study gives images in [-1, 1]. A net with weights maps them, channel by channel, to what its weights know: first thing in
its own forward pass, with factors that are buffers of the net, so that they travel with its weights wherever these go.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Arm, ArmError, Config, ImageSpec, Published

Tensors = Mapping[str, Tensor]
SCALE, SHIFT = "input_scale", "input_shift"
FEWEST = 0.5
"""Part of a net's numbers that must come from its weights, its head aside."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What became of a net's parameters."""

    new: tuple[str, ...]
    """Drawn at random."""
    adapted: tuple[str, ...]
    """From the weights, in another shape: positions scaled, colour channels summed or repeated."""
    head: bool
    """Whether any of the head is from the weights."""


def begun(arm: Arm, weights: Tensors | None, *, new_head: bool = False) -> Arm:
    """The arm of nets that begin from ``weights``, their head aside if it is to be new; without them, nets of the same
    shape that wait for a checkpoint's.
    """

    def build(config: Config, images: ImageSpec) -> nn.Module:
        if weights is None:
            net = arm.build(config, images)
        else:
            own = {name: tensor for name, tensor in weights.items() if name not in (SCALE, SHIFT)}
            net = (
                arm.begin(config, images, own)
                if arm.begin
                else _fitted(arm.build(config, images), own, images)
            )
            if new_head:
                _renew_head(net, arm.build(config, images))
        _standardise(net, images.channels, arm.published)
        if weights is not None and SCALE in weights:
            _take_over(net, weights)
        return net

    return dataclasses.replace(arm, build=build, weights=True)


def fit(arm: Arm, weights: Tensors, images: ImageSpec, config: Config, *, new_head: bool = False) -> Fit:
    """What of the arm's net is from ``weights``, of which only names and shapes count here.

    New are those that stay what a net without weights has, whatever numbers the weights hold. Raises ArmError when most do.
    """
    nets = []
    with torch.random.fork_rng(devices=[]):
        noise = {name: torch.randn(tensor.shape) for name, tensor in weights.items()}
        for it in (arm, begun(arm, noise)):
            torch.manual_seed(0)
            nets.append(it.build(config, images))
    if new_head:
        _renew_head(nets[1], nets[0])
    plain = dict(nets[0].named_parameters())
    new = tuple(
        name for name, now in nets[1].named_parameters() if name in plain and torch.equal(now, plain[name])
    )
    adapted = tuple(
        name for name, now in plain.items() if name not in new and now.shape != weights.get(name, now).shape
    )
    heads = tuple(f"{head}." for head in head_of(nets[1]))
    body = {name: p.numel() for name, p in nets[1].named_parameters() if not name.startswith(heads)}
    known = sum(count for name, count in body.items() if name not in new)
    if known < FEWEST * sum(body.values()):
        raise ArmError(
            f"its weights have {100 * known / sum(body.values()):.0f} % of the net as it is built here; {len(new)} of "
            f"{len(plain)} parameters are not among them, as {', '.join(new[:3])}"
        )
    return Fit(new=new, adapted=adapted, head=any(n.startswith(heads) and n not in new for n in plain))


def head_of(net: nn.Module) -> tuple[str, ...]:
    """The names of the modules that give the logits: those that a timm model names, else the last one that has weights."""
    model: Any = next((module for module in net.modules() if hasattr(module, "get_classifier")), None)
    said = model.get_classifier() if model else ()
    heads = said if isinstance(said, tuple | list) else (said,)
    named = {name: module for name, module in net.named_modules() if any(True for _ in module.parameters())}
    found = tuple(name for name, module in named.items() if any(module is head for head in heads))
    return found or tuple(name for name, module in named.items() if module._parameters)[-1:]


def _renew_head(net: nn.Module, plain: nn.Module) -> None:
    """Have ``net`` take the head of ``plain``."""
    heads = tuple(f"{head}." for head in head_of(net))
    net.load_state_dict({n: t for n, t in plain.state_dict().items() if n.startswith(heads)}, strict=False)


def _fitted(net: nn.Module, weights: Tensors, images: ImageSpec) -> nn.Module:
    """The net with every tensor of ``weights`` that has the name and the shape of one of its own, the first convolution's
    once it is of the images' channels.
    """
    from search_spaces.families.timm import of_channels

    own = net.state_dict()
    first = next((name for name, tensor in own.items() if tensor.ndim == 4), "")
    if first in weights and weights[first].ndim == 4:
        weights = {**weights, first: of_channels(images.channels, weights[first])}
    fitting = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    net.load_state_dict(fitting, strict=False)
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
