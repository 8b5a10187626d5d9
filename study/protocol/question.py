"""What a plan is made of: the question as the user asked it, and what was measured to answer it.

Frozen records without behaviour. ``plan.Plan`` joins them and writes them to ``plan.json``; ``allocation`` computes what the
budget buys.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from study.protocol.budget import Budget
from study.protocol.metrics import Name
from study.protocol.records import Config
from study.protocol.text import counted, few, listed

LAYOUT_AXIS = "cardinality"
"""The axis that decides which layout is faster: grouped convolutions have kernels of their own."""
NAMED = 3
"""Parameters of a net that a sentence names."""
MATCHED = 0.05
"""Arms whose MACs differ by more are not matched: ResNeXt's own "matched" templates differ by up to 4.5 %."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Files of one class, folder and kind that should have been images."""

    label: int
    folder: str
    kind: str
    count: int


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """What the study knows about its images without opening the sealed test set."""

    spec: str
    """As given: ``cifar10``, ``digits``, ``folder:PATH``, a path."""
    classes: tuple[str, ...]
    train: int
    """Images in the training pool, validation included."""
    test: int
    size: int
    """Pixels per side."""
    channels: int
    fingerprint: str
    """SHA-256 over all images and labels, test included."""
    note: str = ""
    """How the study made the images square, or set the test set apart, where it had to choose."""
    copies: int = 0
    """Test images that are pixel for pixel training images too."""
    groups: int = 0
    """Groups that the test images form; 0 where every image stands alone."""
    fit: Literal["", "crop", "pad", "squash"] = ""
    """What became of files that are not square; empty where the images are no files."""
    white: float = 0.0
    """The value of white in pixels of more than 8 bits; 0: there were none."""
    cut: float = 0.0
    """Share of all pixels that ``fit`` cut away."""
    train_counts: tuple[int, ...] = ()
    """Training images of each class; empty in plans of earlier versions."""
    test_counts: tuple[int, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    allow_losses: bool = False
    """Whether the user allowed that more than 1 % of a class is left out."""
    near: int = 0
    """Test images that look like a training image, saved again in another size, format or quality."""

    @property
    def noted(self) -> str:
        """``note``, which has a line for each thing, on one line."""
        return self.note.replace("\n", "; ")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Complexity and measured speed of one arm at its default setting."""

    params: int
    macs: int
    """Multiply-accumulates of one forward pass of one image."""
    images_per_second: float
    """Training (forward, backward and step) on what one trial holds."""
    eval_images_per_second: float
    peak_bytes: int
    """Peak memory of training: device memory on a GPU, resident memory of the process on a CPU."""
    startup_seconds: float
    """From the grant of the resource to the first training step on a fresh worker."""
    channels_last: bool = True
    """Whether channels_last is the faster layout at the default setting."""
    layouts: dict[str, bool] = dataclasses.field(default_factory=dict)
    """Whether channels_last is faster at the other options of ``LAYOUT_AXIS``, where measured."""
    graphed: bool = False
    """Whether the training step is replayed as one CUDA graph: it was tried and gave the digits of eager steps."""

    def layout(self, config: Config) -> bool:
        """Whether a net with this setting trains in channels_last."""
        return self.layouts.get(str(config.get(LAYOUT_AXIS)), self.channels_last)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What every trial holds, and how many run side by side."""

    resource: Literal["gpu", "cpu"]
    slots: int
    fraction: float
    """Of one GPU, or CPU cores, that a trial holds: the factor between wall and resource-seconds."""
    threads: int
    """CPU threads per trial."""
    name: str
    kind: str = ""
    """Ray's name of the only kind of GPU that trials run on; empty where Ray reports none."""
    gpu: str = ""
    """The GPU as its driver describes it, ``device.describe``: Ray gives several models one name."""
    context_bytes: int = 2**30
    """GPU memory that every process takes for CUDA and its libraries, as measured, outside the limit on its tensors."""

    def slots_of(self, fraction: float) -> int:
        """How many of the study's slots a trial takes that holds ``fraction``.

        A whole GPU is all slots of one, though three trials that hold 0.3333 do not add up to it.
        """
        most = int(1 / self.fraction) if self.resource == "gpu" else self.slots
        return min(most, self.slots, math.ceil(fraction / self.fraction - 1e-9))


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One way to share a GPU, or a machine's cores, as measured with one arm."""

    arm: str
    trials: int
    """Side by side on one GPU, or on the cores of one node."""
    fraction: float
    threads: int
    batch_size: int
    channels_last: bool
    images_per_second: float
    """Training, all trials together."""
    peak_bytes: int
    """Of the largest trial, as in ``Audit``."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A study that opened the same test files before this one began."""

    run: str
    """The name of its folder."""
    arms: tuple[str, ...]
    level: float
    """The error, over all its looks, that its sentence on one pair of arms allows itself."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What an arm begins from instead of random numbers."""

    source: str
    """Path of the file, or ``hub:REPOSITORY/FILE``."""
    sha256: str
    trained_on: str
    size: int = 0
    """Pixels of a side that they were trained with; 0 if unknown."""
    images: int = 0
    """How many hashes are known of images that they have seen: of pixels, and of files."""
    new: tuple[str, ...] = ()
    """The parameters that they lack or that do not fit, drawn at random."""
    adapted: tuple[str, ...] = ()
    """The parameters that take them in another shape: positions scaled, colour channels summed or repeated."""
    head: Literal["", "kept", "new"] = ""
    """``new``: drawn at random, as their classes are others; ``kept``: taken, though their classes are unknown."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is compared, on which data, for which budget."""

    arms: tuple[str, ...]
    data: DataCard
    budget: Budget
    epochs: int
    rope: float
    """Half-width of the region of practical equivalence, in the metric's unit; for shares as a fraction."""
    seed: int
    train_fraction: float
    """Part of the images left for training that every run trains on: does the answer hinge on the amount of data?"""
    widen: tuple[str, ...]
    """Numeric axes searched beyond their usual ends, for every arm that has them."""
    spaces: dict[str, dict[str, dict[str, Any]]]
    """What was searched, per arm and axis: ``low``, ``high``, ``log`` or ``options``, with ``default``."""
    command: str
    versions: dict[str, str]
    code: str
    """SHA-256 over the source that trials and their schedule run: rooms of ``study``, the arms and the recipe."""
    metric: Name = "accuracy"
    """What nets are judged by, from the first trial to the verdict (METHOD.md 10)."""
    looks: Literal[1, 2] = 1
    """How often the test set may be looked at, as declared before the first trial (METHOD.md 6)."""
    earlier: tuple[Earlier, ...] = ()
    recipe: str = "sgd"
    """The file of ``search_spaces/recipes`` that every arm is trained by."""
    recipe_about: str = ""
    """What the recipe is and what it does not cover, without the last full stop."""
    test: str = ""
    """The part, or the share of all images, that was chosen as the test; empty for the usual one."""
    weights: dict[str, Weights] = dataclasses.field(default_factory=dict)
    """Of the arms that begin from any."""
    test_source: str = ""
    """SHA-256 over the source files of the test images, or over their pixels where a data set is one file."""
    pictures: bool = True
    """Whether the report may show test images."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the machine can do with these arms, measured before the first trial."""

    batch_sizes: tuple[int, ...]
    """Options of the shared batch-size axis that fit into memory for every arm."""
    audits: dict[str, Audit]
    machine: Machine
    probe_cost: dict[str, float]
    """Resource-seconds spent on measuring each arm."""
    packing: tuple[Packed, ...] = ()
    """The measurements behind ``machine.fraction`` and every arm's layout, in order."""
    packing_notes: tuple[str, ...] = ()
    """Sentences: what was chosen, what was not measured, and why."""


def unmatched(audits: Mapping[str, Audit]) -> str:
    """A warning where the arms' MACs differ by more than ``MATCHED``, else empty."""
    macs = {arm: audit.macs for arm, audit in audits.items()}
    small, large = min(macs, key=lambda a: macs[a]), max(macs, key=lambda a: macs[a])
    gap = macs[large] / macs[small] - 1
    if gap <= MATCHED:
        return ""
    more = f"{100 * gap:.0f} % more" if gap < 1 else f"{1 + gap:.1f} times the"
    return (
        f"The arms are not matched: {large} needs {more} multiply-accumulates per image {'than' if gap < 1 else 'of'} "
        f"{small}. Part of a difference may be size."
    )


def pinned(spaces: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Sentences on what one arm searches and another has pinned."""
    said = []
    for axis in dict.fromkeys(axis for space in spaces.values() for axis in space):
        have = {arm: space[axis] for arm, space in spaces.items() if axis in space}
        fixed = [arm for arm, own in have.items() if len(own.get("options", ())) == 1]
        if fixed and len(fixed) < len(have):
            values = listed([f"{have[arm]['options'][0]} for {arm}" for arm in fixed])
            others = listed([arm for arm in have if arm not in fixed])
            said.append(
                f"{axis} is {values} and searched for {others}: part of a difference may be this choice."
            )
    return said


def starts(weights: Mapping[str, Weights], arms: Sequence[str], size: int) -> list[str]:
    """Sentences on what the arms begin from, and where that is not the same; none if all begin at random."""
    if not weights:
        return []
    said = [
        f"{arm} begins from weights trained on {w.trained_on}"
        + (f" at {w.size} pixels" if w.size else "")
        + (
            f"; {counted(len(w.new), 'parameter')} start{'s' if len(w.new) == 1 else ''} anew{', the head as its classes are others' if w.head == 'new' else ''}: "
            f"{few(w.new, NAMED)}"
            if w.new
            else ""
        )
        + (f"; adapted to the size or channels of these images: {few(w.adapted, NAMED)}" if w.adapted else "")
        + ("; the head is kept, though nothing says what its classes were" if w.head == "kept" else "")
        for arm, w in weights.items()
    ]
    if scratch := [arm for arm in arms if arm not in weights]:
        said.append(
            f"{listed(scratch)} without weights, {listed(list(weights))} with them: some of any difference comes from what "
            "those weights had learnt before"
        )
    elif len({w.trained_on for w in weights.values()}) > 1:
        said.append(
            "The arms' weights were trained on different images, which may cause some of any difference"
        )
    if len({w.size for w in weights.values()} - {0}) > 1:
        said.append(f"Their weights were trained with different sizes of images; here all see {size} pixels")
    elif other := {w.size for w in weights.values()} - {0, size}:
        said.append(
            f"Their weights were trained at {max(other)} pixels, and see {size} here: --size changes that"
        )
    if unknown := [arm for arm, w in weights.items() if not w.images]:
        said.append(
            f"Whether the weights of {listed(unknown)} have seen test images of this study is not known"
        )
    return [f"{sentence}." for sentence in said]
