"""A moving average of the weights, which is what is evaluated and kept."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from study.training.half import HalfWeights


class Average:
    """Follows the weights and the running statistics of ``net``, in float32; each step keeps ``decay`` of the average.

    It begins with min(decay, (1 + t) / (10 + t)) at step t, so that it is no older than the run: the first rung ranks settings
    by what they learnt, whatever their decay.
    """

    def __init__(self, net: nn.Module, decay: float, half: HalfWeights | None) -> None:
        self._net, self._decay, self._whole = net, decay, half or net
        self._live = {n: t for n, t in self._whole.state_dict().items() if t.is_floating_point()}
        self._kept = {name: tensor.clone() for name, tensor in self._live.items()}
        device = next(iter(self._live.values())).device
        self._steps = torch.zeros((), device=device)

    @torch.no_grad()
    def update(self) -> None:
        """After the optimizer's step; only device work."""
        self._steps += 1
        share = 1 - ((1 + self._steps) / (10 + self._steps)).clamp(max=self._decay)
        kept = list(self._kept.values())
        change = torch._foreach_sub(list(self._live.values()), kept)
        torch._foreach_mul_(change, share)
        torch._foreach_add_(kept, change)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The net holds the averages meanwhile, in its own precision."""
        held = self._net.state_dict(keep_vars=True)
        before = {name: held[name].data for name in self._kept}
        for name, kept in self._kept.items():
            held[name].data = kept.to(held[name].dtype)
        try:
            yield
        finally:
            for name, data in before.items():
                held[name].data = data

    @torch.no_grad()
    def settle(self) -> None:
        """The averages become the net's weights: training is over."""
        self._whole.load_state_dict({**self._whole.state_dict(), **self._kept})

    def state(self) -> dict[str, Any]:
        return {"steps": self._steps, "kept": dict(self._kept)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Raises KeyError or RuntimeError if it is another net's."""
        self._steps.copy_(state["steps"])
        for name, kept in self._kept.items():
            kept.copy_(state["kept"][name])
