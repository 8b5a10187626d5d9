"""What becomes of a trial whose worker is lost: another try, on more of the machine if need be, or its end."""

from dataclasses import dataclass
from typing import Literal

from study.protocol import allocation
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.settings import SETTINGS

LossKind = Literal["worker died", "hang", "out of memory"]
LOSSES = 3
"""Workers that a trial may lose without one more epoch in between; losing this many is its own doing."""
HANGS = 2
"""As ``LOSSES``, where the trial fell silent."""
SILENCE_EPOCHS = 5
"""Epochs' worth of silence after which a trial counts as hanging; it reports every few seconds."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A trial that has to resume."""

    trial: str
    fraction: float
    """Part of a GPU, or CPU cores, that it will hold."""
    reason: str


class Retries:
    """The trials that wait to resume, and how often each lost its worker."""

    def __init__(self, plan: Plan, history: History) -> None:
        self._plan = plan
        self._history = history
        self._losses: dict[str, list[tuple[int, LossKind]]] = {}
        """Per trial, its losses since its last epoch: the epoch count and the kind."""
        self._waiting: dict[str, Retry] = {}

    @property
    def first(self) -> Retry | None:
        """The trial that resumes before anything else starts."""
        return next(iter(self._waiting.values()), None)

    def wait(self, trial: str, fraction: float, reason: str) -> None:
        """The trial resumes once the machine has room for it."""
        self._waiting[trial] = Retry(trial=trial, fraction=fraction, reason=reason)

    def resume(self, retry: Retry) -> None:
        """The trial no longer waits."""
        del self._waiting[retry.trial]

    def after_loss(
        self, trial: str, kind: LossKind, reason: str, fraction: float
    ) -> tuple[float | None, str]:
        """The part of the machine to resume on, or None if the cause must be the trial itself; and what to book.

        A trial that ran out of memory gets twice as much of the machine, up to all that a trial can hold; if it held that
        already, it gets one more try, since something else may have filled the memory.
        """
        epochs = len(self._history.epochs[trial])
        losses = [loss for loss in self._losses.get(trial, []) if loss[0] == epochs]
        self._losses[trial] = [*losses, (epochs, kind)]
        times = sum(loss[1] == kind for loss in self._losses[trial])
        own = times >= (HANGS if kind == "hang" else LOSSES)
        if kind == "out of memory":
            most = self._largest_fraction
            own, fraction = fraction >= most and times >= 2, min(2 * fraction, most)
        said = f"{kind}: {reason}"
        if own:
            return None, said if times == 1 else f"{said} ({times} times)"
        return fraction, said

    def patience(self, trial: str) -> float:
        """Wall seconds of silence after which the trial counts as hanging."""
        plan = self._plan
        epoch = allocation.epoch_cost(plan, self._history.trials[trial].arm) / plan.machine.fraction
        return max(SETTINGS.silence_floor, SILENCE_EPOCHS * epoch)

    @property
    def _largest_fraction(self) -> float:
        """What one trial can hold at most: a whole GPU, or all cores of the plan (one machine's are not known)."""
        machine = self._plan.machine
        return 1.0 if machine.resource == "gpu" else min(2.0, machine.slots) * machine.fraction
