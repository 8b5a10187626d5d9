"""Weights in bfloat16 for the forward and backward pass, float32 masters for the optimizer.

Autocast casts every weight anew in each step and casts its gradient back, one small kernel each: 108 for a ResNet-50. Here the
network holds the bfloat16 copies and a few kernels over all of them do the same work, with the same digits: the gradient of a
cast is the cast gradient. Only weights that autocast would cast directly are copied, those of plain convolutions and linear
layers; all other parameters stay in float32.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class HalfWeights:
    """Replaces ``net``'s weights until ``restore``; the optimizer trains what ``trained`` gives for them."""

    def __init__(self, net: nn.Module) -> None:
        cast = {id(p) for m in net.modules() if type(m) in CAST for p in m.parameters(recurse=False)}
        self._net = net
        self._pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
        """Id of each bfloat16 parameter -> the parameter and its master."""
        for parameter in net.parameters():
            if id(parameter) not in cast or parameter.dtype != torch.float32:
                continue
            master = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
            parameter.data = parameter.data.to(torch.bfloat16)
            parameter.grad = None
            self._pairs[id(parameter)] = (parameter, master)
        self._gradients = {key: torch.zeros_like(master) for key, (_, master) in self._pairs.items()}

    def trained(self, parameter: nn.Parameter) -> nn.Parameter:
        """The master of a parameter that has one, else the parameter."""
        return self._pairs.get(id(parameter), (parameter, parameter))[1]

    def gather(self) -> None:
        """Pass the gradients to the masters, after the backward pass."""
        there = []
        for key, (parameter, master) in self._pairs.items():
            master.grad = None if parameter.grad is None else self._gradients[key]
            if parameter.grad is not None:
                there.append((self._gradients[key], parameter.grad))
        if there:
            torch._foreach_copy_([into for into, _ in there], [gradient for _, gradient in there])

    @torch.no_grad()
    def spread(self) -> None:
        """Copy the masters into the net, after the optimizer's step."""
        if self._pairs:
            halves, masters = zip(*self._pairs.values(), strict=True)
            torch._foreach_copy_(list(halves), list(masters))

    def state_dict(self) -> dict[str, Any]:
        """The net's, in float32."""
        return dict(self._masters())

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the masters and, rounded, the net. Raises as ``nn.Module.load_state_dict`` does if names or shapes do not fit."""
        self._net.load_state_dict(state)
        for name, value in self._masters():
            value.copy_(state[name])

    def restore(self) -> None:
        """Give the net its float32 weights back; after that this object must not be used for training."""
        for parameter, master in self._pairs.values():
            parameter.data = master.data
            parameter.grad = None

    def _masters(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self._net.state_dict(keep_vars=True).items():
            pair = self._pairs.get(id(value))
            yield name, (value if pair is None else pair[1]).detach()
