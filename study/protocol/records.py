"""Everything a ledger holds: frozen records of decisions, measurements and costs.

Standard library only, so that the report can be rebuilt on a machine that has neither torch nor Ray.
Units: accuracy is a fraction in [0, 1]; ``cost`` is resource-seconds (fraction of a GPU or CPU core
held x wall seconds held, start-up included); plain ``seconds`` are wall seconds.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

Scalar = bool | int | float | str
Config = dict[str, Scalar]

Phase = Literal["probe", "baseline", "slice", "search", "select", "confirm", "test", "lost"]
"""No trial has the phase ``lost``: it books what was held for training that an interruption undid."""
PHASES: tuple[Phase, ...] = get_args(Phase)
SCORED_PHASES: tuple[Phase, ...] = ("baseline", "slice", "confirm")
"""Phases whose nets meet the test set, so that their weights are kept."""
State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run, as decided: with the Plan, enough to repeat it to the last digit."""

    id: str
    arm: str
    phase: Phase
    index: int
    """Position among the arm's trials of this phase, from 0."""
    pair: int
    """The paired search that it belongs to (search), or whose find it trains (select, confirm); 0 elsewhere."""
    config: Config
    seed: int
    """Fixes initialisation, order and augmentation."""
    fold: int
    """The fold of the training pool that is held out for validation."""
    epochs: int
    """Length of the full run that its learning-rate schedule is made for, even if it is stopped earlier."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images, and its measurements."""

    trial: str
    epoch: int
    """Passes done so far, from 1."""
    train_loss: float
    train_accuracy: float
    """Running accuracy on the augmented training images."""
    val_loss: float
    val_accuracy: float
    train_seconds: float
    eval_seconds: float
    data_seconds: float = 0.0
    """Part of ``train_seconds`` spent waiting for images."""
    startup_seconds: float = 0.0
    """In this process before the first step: building the net, moving images to the device, reading a checkpoint."""
    checkpoint_seconds: float = 0.0
    """Spent writing checkpoints since the last report."""
    cost: float = 0.0
    """Resource-seconds that the trial had held when this report came in."""
    stop: str = ""
    """Why the study stops the trial here, ``asha: ...`` or ``budget: ...``; empty if it goes on."""
    score: float | None = None
    """On the study's metric, more is better: a loss is negative. None where the metric is accuracy."""

    @property
    def val_score(self) -> float:
        """What the study goes by."""
        return self.val_accuracy if self.score is None else self.score


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended. ``stopped`` is the study's decision, ``failed`` the trial's own end."""

    trial: str
    state: State
    reason: str
    """``full length``, ``asha: ...``, ``budget: ...``, ``diverged: ...``, ``error: ...``, ``out of memory: ...``,
    ``worker died: ...``, ``hang: ...``."""
    epochs: int
    cost: float


@dataclass(frozen=True, kw_only=True)
class Session:
    """A process began to write: the study's first, or one that resumed it after an interruption."""

    plan: str
    """SHA-256 of ``plan.json``: it never changes within a study."""
    code: dict[str, str]
    """Source file of ``study`` or ``search_spaces`` -> SHA-256 of its content."""
    versions: dict[str, str]
    accepted: str
    """Differences from the session before that the user accepted; empty if there are none."""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A sign of life: resource-seconds that each running trial has held so far."""

    held: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A trial resumed after its worker, or the whole study, was lost.

    It is back at the end of ``epoch``, or some steps into the next one; later epochs are undone and will be repeated.
    """

    trial: str
    epoch: int
    reason: str
    """What happened: ``study interrupted``, ``worker died: ...``, ``out of memory: ...``, ``hang: ...``."""
    cost: float
    """Resource-seconds of the trial that still count: those its checkpoint preserves."""
    lost: float
    """Resource-seconds held for what the checkpoint lacks."""
    fraction: float
    """Part of a GPU, or CPU cores, that it holds from now on."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Resource-seconds held for an arm outside its trials: measuring it, or scoring its nets."""

    arm: str
    phase: Phase
    what: str
    cost: float


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The tuning share, equal for every arm: fixed once real full runs have been timed."""

    per_arm: float
    """Resource-seconds of search per arm, the random settings included."""
    slice_runs: int
    """Full-length runs of random settings per arm."""
    full_run: dict[str, float]
    """Measured resource-seconds of one full-length run, per arm."""
    pairs: int = 0
    """Paired searches per arm, where each of the planned ones would not have had a full run; 0 for as many as planned."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The setting that one search of one arm sends to confirmation, and why."""

    pair: int
    config: Config
    default: bool
    """The search found nothing that leads the default by half a standard error, so the default is confirmed."""
    trials: tuple[str, ...]
    """Its selection runs; if the default is chosen, its baseline runs on the same folds."""
    val_accuracy: float
    """Mean validation accuracy of these runs."""
    lead: float | None
    """Lead of the find over the default, mean over the rounds of selection; None if either has a run that did not finish,
    or the search found nothing."""
    lead_se: float | None
    """Its standard error (METHOD.md 3)."""
    run_variance: float
    """Variance of one run's score beyond the sampling of its validation images, from the default's runs."""
    runs: int
    """Confirmation runs with fresh seeds that the arm's share still pays for."""
    ties: str
    """Which of the settings that tied was taken, and why: a sentence, empty without a tie."""
    score: float | None = None
    """Mean score of these runs, as in ``Epoch``. ``lead``, ``lead_se`` and ``run_variance`` are in its unit."""

    @property
    def val_score(self) -> float:
        """What the net in hand is chosen by."""
        return self.val_accuracy if self.score is None else self.score


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is confirmed, written before the test set may be opened. One per look at the test set."""

    look: int
    """From 1. A second look's manifest has the further pairs' choices only, an added arm's has its own only."""
    choices: dict[str, tuple[Choice, ...]]
    in_hand: dict[str, int]
    """Arm -> the pair, among all so far, whose find has the best mean validation score over its selection runs."""
    sha256: str
    """Hash of all this, quoted by the record that opens the test set."""

    @staticmethod
    def of(choices: dict[str, tuple[Choice, ...]], in_hand: dict[str, int], *, look: int = 1) -> "Manifest":
        plain = {arm: [asdict(c) for c in found] for arm, found in choices.items()}
        # manifests from before there were metrics keep their hash
        body = {
            arm: [{k: v for k, v in c.items() if (k, v) != ("score", None)} for c in found]
            for arm, found in plain.items()
        }
        content = json.dumps([look, body, in_hand], sort_keys=True).encode()
        sha256 = hashlib.sha256(content).hexdigest()
        return Manifest(look=look, choices=choices, in_hand=in_hand, sha256=sha256)


@dataclass(frozen=True, kw_only=True)
class Extension:
    """More budget for a finished study: further pairs of searches, or one more arm. A study has at most one.

    The share, searches, folds, epochs and batch sizes of the first plan stay as they were.
    """

    look: int
    """The look at the test set that it leads to."""
    budget_seconds: float
    """Resource-seconds of the whole study from now on."""
    arms: tuple[str, ...]
    """The arms that take part: all of them for further pairs, the new one alone if an arm is added."""
    pairs: int
    """Further pairs of searches per arm; 0 if an arm is added."""
    level: float
    """Error that the second look may make by itself, for one pair of arms that no earlier study asked about (METHOD.md 6);
    if an arm is added, the error that its pairs of arms share."""
    declared: bool
    """Whether the study announced a second look when it began."""
    reason: str
    """A sentence: what was asked for, and what the answer was before."""
    plan: dict[str, Any]
    """For an added arm, what the plan has for the others: ``audits``, ``spaces`` and ``probe_cost``. Else empty."""


@dataclass(frozen=True, kw_only=True)
class TestOpened:
    """The sealed test set was opened, once per look, for the nets of all these trials together."""

    __test__ = False
    manifest: str
    """Hash of the look's manifest."""
    trials: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A net's score on the test set; its predictions lie in ``predictions/<trial>.npz``."""

    trial: str
    test_accuracy: float
    score: float | None = None
    """As in ``Epoch``."""

    @property
    def test_score(self) -> float:
        """What the study goes by."""
        return self.test_accuracy if self.score is None else self.score


Record = (
    Session | Trial | Epoch | Beat | Resumed | Outcome | Cost | Tuning | Extension | Manifest | TestOpened | Scored
)  # fmt: skip


def setting(config: Config) -> str:
    """``lr=0.0316 batch_size=64``: a setting on one line."""
    return " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in config.items())


def asdict(record: Any) -> dict[str, Any]:
    """The record as plain JSON values."""
    body = dataclasses.asdict(record)
    return {key: list(v) if isinstance(v, tuple) else v for key, v in body.items()}
