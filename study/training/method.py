"""How one net is trained, as its trial's setting says: what rests, groups and optimizer, mixing, averaging, bfloat16 copies."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from study.protocol.records import Trial
from study.training.averaging import Average
from study.training.half import HalfWeights
from study.training.mixing import Mixing
from study.training.optimizers import adaptive, learning_rates, optimizer
from study.training.parameters import freeze, groups


class Method:
    """What a step works with, and what of it a checkpoint keeps."""

    def __init__(
        self,
        net: nn.Module,
        trial: Trial,
        *,
        steps: int,
        side: int,
        device: torch.device,
        warmup: float,
        halved: bool,
    ) -> None:
        """``steps`` in an epoch, on images of ``side`` pixels."""
        self.net, self.config = net, trial.config
        self._trial, self._steps, self._warmup = trial, steps, warmup
        self._resting = freeze(net, float(self.config.get("frozen", 0.0)))
        self.half = HalfWeights(net) if halved else None
        self._whole = self.half or net
        self._groups = groups(net, self.config, all_decay=not adaptive(self.config))
        self.optimizer = optimizer(self._groups, self.config, device=device, half=self.half)
        self.mixing = (
            Mixing(self.config, steps=steps, side=side, device=device) if Mixing.asked(self.config) else None
        )
        decay = float(self.config.get("averaging", 0.0))
        self.average = Average(net, decay, self.half) if decay else None

    def train(self) -> None:
        """The net's training mode, but for what rests."""
        self.net.train()
        for module in self._resting:
            module.eval()

    def begin(self, epoch: int) -> list[list[float]]:
        """Set up epoch number ``epoch``, from 0; the learning rates of its steps, for each group."""
        if self.mixing is not None:
            self.mixing.begin(self._trial.seed, epoch + 1)
        return learning_rates(self._trial, epoch, self._steps, self._groups, self._warmup)

    def shown(self) -> contextlib.AbstractContextManager[None]:
        """The net holds what counts meanwhile: the averaged weights, where weights are averaged."""
        return contextlib.nullcontext() if self.average is None else self.average.shown()

    def finish(self) -> None:
        """The net holds what counts from now on, in float32."""
        if self.average is not None:
            self.average.settle()
        if self.half is not None:
            self.half.restore()

    def weights(self) -> dict[str, Any]:
        """The net's state, in float32."""
        return self._whole.state_dict()

    def state(self) -> dict[str, Any]:
        """What ``load`` needs beyond the weights."""
        average = {} if self.average is None else {"average": self.average.state()}
        return {"optimizer": self.optimizer.state_dict(), **average}

    def load(self, weights: Mapping[str, Any], state: Mapping[str, Any] | None) -> None:
        """``state`` is None for a run that is over."""
        self._whole.load_state_dict(weights)
        if state is not None:
            if self.average is not None:
                self.average.load(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
