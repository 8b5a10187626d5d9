"""What the driver and a worker say to each other.

Ray Tune carries both as one entry of the dictionaries that it knows: an ``Assignment`` in a trial's config, a ``Message`` in its
results. Tune writes all that it is handed to its debug log, hence the short forms.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from study.protocol.records import Epoch, Trial
from study.protocol.validation import Kept

KEY = "study"
"""The entry of Tune's dictionaries."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The trial that a worker is to train."""

    trial: Trial
    epochs: int
    """Epochs of it that the ledger has."""
    again: bool
    """Whether it ran before, and may have a checkpoint."""
    fraction: float
    """Part of a GPU, or CPU cores, that it holds."""
    attempt: int = 0
    """Workers that the trial had before in this session."""

    @property
    def name(self) -> str:
        return f"{self.trial.id}.{self.attempt}" if self.attempt else self.trial.id

    def config(self) -> dict[str, Any]:
        """As Tune carries it."""
        return {KEY: self}

    @classmethod
    def of(cls, config: dict[str, Any]) -> Self:
        """The assignment in Tune's config."""
        found: Self = config[KEY]
        return found


@dataclass(frozen=True, kw_only=True)
class Began:
    """The worker's first word, before any code of the arm runs: if it dies before, the arm is not to blame."""

    node: str
    process: int


@dataclass(frozen=True, kw_only=True)
class Alive:
    """The trial trains, and its epoch is not over."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The trial resumes ``seconds`` of training beyond the end of ``epoch``."""

    epoch: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """An epoch is over."""

    epoch: Epoch
    last: bool
    """Whether it ends the trial."""


@dataclass(frozen=True, kw_only=True)
class Complete:
    """All epochs of the trial were reported before."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The trial cannot go on by its own fault; the worker lives on."""

    reason: str
    out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """The trial cannot go on by no fault of its own: an image, the run's folder or the GPU is not what it was."""

    reason: str


Event = Began | Alive | Restored | Trained | Complete | Failed | Blocked


@dataclass(frozen=True, kw_only=True)
class Message:
    """One result of a worker: what happened, and what it hands over."""

    trial: str
    event: Event
    net: bytes | None = field(default=None, repr=False)
    """The trained net's checkpoint, if the nodes share no folder."""
    kept: Kept | None = field(default=None, repr=False)
    """How the trained net did on each validation image."""
    unsaved: str = ""
    """Why the storage did not take a checkpoint."""

    @property
    def ends(self) -> bool:
        """Whether the trial is over for its worker."""
        return isinstance(self.event, Complete | Failed) or (
            isinstance(self.event, Trained) and self.event.last
        )

    def without_payload(self) -> Self:
        """What remains to be kept in memory once the payload is on disk."""
        return replace(self, net=None, kept=None)

    def result(self) -> dict[str, Any]:
        """As Tune carries it."""
        return {KEY: self, "done": self.ends}

    @classmethod
    def of(cls, result: dict[str, Any] | None) -> Self | None:
        """The message in Tune's result; None if there is none."""
        return (result or {}).get(KEY)
