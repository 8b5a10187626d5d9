"""Which weights train, at which part of the learning rate, and which of them decay.

The order of layers is timm's: its models say it, and for others its helper cuts the parameters into layers of twelve.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import nn

from search_spaces._weights import head_of
from study.protocol.records import Config

UNDECAYED = ("class_token", "pos_embedding", "relative_position_bias_table", "layer_scale")
"""What torchvision calls the parameters that timm's models name themselves."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters that train alike."""

    parameters: list[nn.Parameter]
    scale: float
    """Part of the learning rate, above 1 for a head that is faster than the body."""
    decays: bool


def groups(net: nn.Module, config: Config, *, all_decay: bool) -> list[Group]:
    """The parameters that train, in the net's order within each group.

    Unless ``all_decay``, norms and biases do not, nor what a timm model names. ``layer_decay`` slows each layer by this factor
    against the one behind it, ``head_factor`` multiplies the head's rate.
    """
    slower, faster = float(config.get("layer_decay", 1.0)), float(config.get("head_factor", 1.0))
    layer_of = layers(net) if slower != 1 else {}
    heads = tuple(f"{head}." for head in head_of(net)) if faster != 1 else ()
    named = () if all_decay else _undecayed(net)
    last = max(layer_of.values(), default=0)
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            own = name.rpartition(".")[2]
            flat = parameter.ndim <= 1 or own == "bias" or own in UNDECAYED
            decays = all_decay or not (flat or name in named)
            scale = slower ** (last - layer_of.get(name, last))
            scale *= faster if heads and name.startswith(heads) else 1.0
            found.setdefault((scale, decays), []).append(parameter)
    return [Group(parameters=some, scale=scale, decays=decays) for (scale, decays), some in found.items()]


def freeze(net: nn.Module, share: float) -> list[nn.Module]:
    """Have the first ``share`` of the layers keep their weights; of 1, all but the last. Returns the modules that rest.

    These stay in evaluation mode, so that their running averages rest too.
    """
    if not share:
        return []
    layer_of = layers(net)
    first = round(share * max(layer_of.values()))
    for name, parameter in net.named_parameters():
        if layer_of.get(name, first) < first:
            parameter.requires_grad_(False)
    own = ((module, list(module.parameters(recurse=False))) for module in net.modules())
    return [module for module, weights in own if weights and not any(p.requires_grad for p in weights)]


def layers(net: nn.Module) -> dict[str, int]:
    """Parameter -> the number of its layer, from 0; the head, and what no layer has, is in the last."""
    from timm.models import group_parameters
    from timm.optim._param_groups import auto_group_layers  # of the helpers that decay by layer

    prefix, model = _timm(net)
    if model is None:
        parts = SimpleNamespace(
            named_parameters=net.named_parameters, pretrained_cfg={"classifier": head_of(net)}
        )
        found: dict[str, int] = auto_group_layers(parts)  # type: ignore[no-untyped-call]
        return found
    known = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    last = max(known.values())
    return {
        name: known.get(name.removeprefix(prefix), last) if name.startswith(prefix) else last
        for name, _ in net.named_parameters()
    }


def _timm(net: nn.Module) -> tuple[str, Any]:
    """The timm model within the net and the prefix of its names; None if there is none."""
    for name, module in net.named_modules():
        if hasattr(module, "group_matcher"):
            return f"{name}." if name else "", module
    return "", None


def _undecayed(net: nn.Module) -> set[str]:
    prefix, model = _timm(net)
    names = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    return {prefix + name for name in names}
