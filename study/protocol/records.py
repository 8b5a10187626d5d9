"""What is ever written down: frozen records of decisions, measures and costs.

Standard library only, so that the report can be rebuilt on a machine that has neither torch nor Ray.
Units: accuracy is a fraction in [0, 1]; ``cost`` is resource-seconds (fraction of a GPU or CPU core
held x wall seconds held, start-up included); plain ``seconds`` are wall seconds.
"""

import dataclasses
import functools
import hashlib
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

Scalar = bool | int | float | str
Config = dict[str, Scalar]

Phase = Literal["probe", "baseline", "slice", "search", "select", "confirm", "test", "lost"]
"""``lost`` is no phase of any trial: what was held for training that an interruption undid is booked there."""
PHASES: tuple[Phase, ...] = get_args(Phase)
State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run as it was decided: with the Plan, enough to run it again to the last digit."""

    id: str
    arm: str
    phase: Phase
    index: int
    """Position among the arm's trials of this phase, from 0."""
    pair: int
    """Which of the paired searches it belongs to: that finds its setting (search), or found it (select, confirm);
    0 elsewhere."""
    config: Config
    seed: int
    """Fixes initialisation, order and augmentation."""
    fold: int
    """Which of the training pool's disjoint folds is held out for validation."""
    epochs: int
    """Length of the full run that the schedule is made for, also when it is stopped before."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images and its measures."""

    trial: str
    epoch: int
    """Passes done so far, from 1."""
    train_loss: float
    train_accuracy: float
    """Running accuracy on the augmented images as they were trained on."""
    val_loss: float
    val_accuracy: float
    train_seconds: float
    eval_seconds: float
    data_seconds: float = 0.0
    """Of ``train_seconds``: until the images of the batches were there."""
    startup_seconds: float = 0.0
    """In this process before the first step: building the net, the images to the device, reading a checkpoint."""
    checkpoint_seconds: float = 0.0
    """Writing checkpoints, since the last report."""
    cost: float = 0.0
    """Resource-seconds that the trial had held when this report came in."""
    stop: str = ""
    """Why the study stops the trial here, ``asha: ...`` or ``budget: ...``; empty when it goes on."""


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
    """A process began to write: the study's first, or one that goes on after an interruption."""

    plan: str
    """SHA-256 of ``plan.json``: it never changes within a study."""
    code: dict[str, str]
    """Source file of ``study`` or ``search_spaces`` -> SHA-256 of its content."""
    versions: dict[str, str]
    accepted: str
    """What differs from the session before and was accepted by the user; empty when nothing does."""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A sign of life: resource-seconds that each running trial had held by now."""

    held: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A trial was taken up again after its worker, or the whole study, was gone.

    It is back at the end of ``epoch``, or some steps into the next one; later epochs are undone and come again.
    """

    trial: str
    epoch: int
    reason: str
    """What had happened: ``study interrupted``, ``worker died: ...``, ``out of memory: ...``, ``hang: ...``."""
    cost: float
    """Resource-seconds of the trial that still count, those of its checkpoint."""
    lost: float
    """Resource-seconds that were held for what the checkpoint does not have."""
    fraction: float
    """Of a GPU, or CPU cores, that it holds from now on."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Resource-seconds held for an arm outside any trial: measuring it, or scoring its nets."""

    arm: str
    phase: Phase
    what: str
    cost: float


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The tuning share, fixed once full runs have really been timed: equal for every arm."""

    per_arm: float
    """Resource-seconds of search per arm, the random settings included."""
    slice_runs: int
    """Full-length runs of random configs per arm."""
    full_run: dict[str, float]
    """Measured resource-seconds of one full-length run, per arm."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What one search of one arm found and selection confirmed, and why: it goes to confirmation."""

    pair: int
    config: Config
    default: bool
    """Nothing that the search found leads the default by half a standard error: the default is confirmed."""
    trials: tuple[str, ...]
    """Its selection runs; where the default is chosen, its baseline runs on the same folds."""
    val_accuracy: float
    """Mean validation accuracy of these runs."""
    lead: float | None
    """Of what the search found over the default, mean over the rounds of selection; None where either has a run that
    did not finish, or the search found nothing."""
    lead_se: float | None
    """Its standard error (METHOD.md 3)."""
    run_variance: float
    """Of one run's accuracy beyond the sampling of its validation images, from the default's runs."""
    runs: int
    """Fresh-seed confirmation runs that the arm's share still pays for."""
    ties: str
    """A sentence on which of the settings that scored alike was taken, and why; empty when none did."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is confirmed, written before the test set may be opened. One per look at the test."""

    look: int
    """From 1. That of a second look has the further pairs' choices only, that of an added arm its own only."""
    choices: dict[str, tuple[Choice, ...]]
    in_hand: dict[str, int]
    """Arm -> the pair whose find has the best validation mean over its selection runs, among all pairs so far."""
    sha256: str
    """Hash of all this, quoted by every later record that opens the test set."""

    @staticmethod
    def of(choices: dict[str, tuple[Choice, ...]], in_hand: dict[str, int], *, look: int = 1) -> "Manifest":
        body = {arm: [asdict(c) for c in found] for arm, found in choices.items()}
        return Manifest(look=look, choices=choices, in_hand=in_hand, sha256=_sha256([look, body, in_hand]))


@dataclass(frozen=True, kw_only=True)
class Extension:
    """More money for a finished study: further pairs of searches, or an arm more. A study has one at most.

    The first plan's share, searches, folds, epochs and batch sizes stay as they were.
    """

    look: int
    """The look at the test that it leads to."""
    budget_seconds: float
    """Resource-seconds of the whole study from now on."""
    arms: tuple[str, ...]
    """That take part in it: all for further pairs, the new one alone where an arm is added."""
    pairs: int
    """Further pairs of searches per arm; 0 where an arm is added."""
    level: float
    """Error that the second look may make by itself, for one pair of arms that nobody asked for before (METHOD.md 6);
    where an arm is added, what its pairs of arms share."""
    declared: bool
    """Whether the study had announced a second look when it began."""
    reason: str
    """A sentence: who asked for what, and what the answer was before."""
    plan: dict[str, Any]
    """Of an added arm, what the plan has of the others: ``audits``, ``spaces`` and ``probe_cost``. Else empty."""


@dataclass(frozen=True, kw_only=True)
class TestOpened:
    """The sealed test set was opened, once in a look, for these trials' nets together."""

    __test__ = False
    manifest: str
    """Hash of its look's manifest."""
    trials: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A net's score on the test set; its predictions lie in ``predictions/<trial>.npz``."""

    trial: str
    test_accuracy: float


Record = (
    Session
    | Trial
    | Epoch
    | Beat
    | Resumed
    | Outcome
    | Cost
    | Tuning
    | Extension
    | Manifest
    | TestOpened
    | Scored
)


def setting(config: Config) -> str:
    """``lr=0.0316 batch_size=64``: what a run was set to, on one line."""
    return " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in config.items())


def asdict(record: Any) -> dict[str, Any]:
    """The record as plain JSON values."""
    body = dataclasses.asdict(record)
    return {key: list(v) if isinstance(v, tuple) else v for key, v in body.items()}


def plain(value: Any) -> Any:
    """The value as it comes back from JSON: lists for tuples."""
    return json.loads(json.dumps(value))


def encode(record: Record, after: str = "") -> str:
    """One JSON line, without the newline, that ends with its checksum; ``after``: that of the line before it.

    Each checksum goes on from the one before, so that no line but the last can be taken out, moved or doubled unseen:
    without its last line a ledger is one that stopped earlier. It is against accident, no seal against forgery. Raises
    ValueError for a non-finite number.
    """
    body = {"record": type(record).__name__, **asdict(record)}
    text = json.dumps(body, allow_nan=False, separators=(",", ":"))[:-1]
    return f'{text},"crc":"{_crc(text, after)}"}}'


def checksum(line: str) -> str:
    """That an encoded line ends with; empty for none."""
    return line[-10:-2]


def decode(line: str, after: str = "") -> Record:
    """The record a line was made from; ``after``: the checksum of the line before it.

    Raises ValueError when the line is not one of ours, does not follow that one, or holds text that is none.
    """
    match = _CHECKED.fullmatch(line)
    if match is None:
        raise ValueError("not a record of ours: it does not end with a checksum")
    text, crc = match.groups()
    if _crc(text, after) != crc:
        raise ValueError("its checksum does not fit: it was changed, or a line before it added or taken out")
    try:
        body = parse(text + "}")
        record: Record = from_plain(_KINDS[body.pop("record")], body)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not a record of ours: {error}") from error
    return record


def parse(text: str) -> Any:
    """The JSON value. Raises ValueError, also for half a character: no terminal and no report could show it."""
    value = json.loads(text)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def from_plain(hint: Any, value: Any) -> Any:
    """What ``asdict`` made plain, as the type that ``hint`` names. Raises TypeError, naming the field, when it is not that."""
    return _reader(hint)(value)


@functools.cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """Checks a JSON value, and makes it the type ``hint``; found once per type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if dataclasses.is_dataclass(hint):
        return _record_reader(hint)
    if origin is dict:
        value_of = _reader(args[1])
        return lambda value: {key: _named(key, value_of, v) for key, v in _a(dict, value).items()}
    if origin is tuple:
        item = _reader(args[0])
        return lambda value: tuple(_named(str(i), item, v) for i, v in enumerate(_a((list, tuple), value)))
    if origin is Literal:
        return lambda value: value if value in args else _wrong(value, " or ".join(map(str, args)))
    kinds = args or ((int, float) if hint is float else (hint,))
    said = " or ".join(_IN_WORDS[kind] for kind in args or (hint,))

    def read(value: Any) -> Any:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return _wrong(value, said)
        if isinstance(value, int | float) and not abs(value) < _HUGE:  # nor is a NaN
            return _wrong(value, "number of a size that makes sense")
        return value

    return read


def _record_reader(kind: Any) -> Callable[[Any], Any]:
    readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
    needed = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }

    def read(value: Any) -> Any:
        given = _a(dict, value)
        if missing := needed - given.keys():
            raise TypeError(f"{min(missing)} is missing")
        if unknown := given.keys() - readers.keys():
            raise TypeError(f"{_short(min(unknown))} is no field of a {kind.__name__}")
        return kind(**{name: _named(name, readers[name], v) for name, v in given.items()})

    return read


def _named(name: str, reader: Callable[[Any], Any], value: Any) -> Any:
    try:
        return reader(value)
    except TypeError as error:
        raise TypeError(f"{_short(name)[1:-1]}: {error}") from error


def _a(kinds: type | tuple[type, ...], value: Any) -> Any:
    return value if isinstance(value, kinds) else _wrong(value, "object" if kinds is dict else "list")


def _wrong(value: Any, expected: str) -> Any:
    raise TypeError(f"{_short(value)} is no {expected}")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of thousands of digits
        text = "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


_IN_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    type(None): "nothing",
}
_HUGE = 2**64
"""Above any count, seed or cost; what is larger would only overflow later."""
_CHECKED = re.compile(r'(.*),"crc":"([0-9a-f]{8})"}', re.DOTALL)
_KINDS: dict[str, Any] = {k.__name__: k for k in get_args(Record)}


def _crc(text: str, after: str) -> str:
    return f"{zlib.crc32(text.encode(), int(after or '0', 16)):08x}"


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line that a ledger and a terminal can hold."""
    text = str(error).strip()
    return told(text.splitlines()[0]) if text else ""


def told(line: str) -> str:
    """The line as a record or a terminal may have it: printable, not too long, without the name of the user's home."""
    home = str(Path.home())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return (line.replace(home, "~") if len(home) > 1 else line)[:300]
