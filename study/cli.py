"""The command line: every flag is declared once, in ``Request``, and checked as far as words alone allow.

Touches no disk and no bucket, apart from the names of the arm files. Imports neither torch nor Ray, so that ``--help`` and a bad
flag answer at once.
"""

import argparse
import dataclasses
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import search_spaces
from study import flags
from study.data.parts import chosen_test
from study.data.reading import Fit
from study.data.sources import sources
from study.loggers import base as loggers
from study.protocol.budget import Budget
from study.protocol.errors import InputError
from study.protocol.metrics import METRICS, NAMES, Name
from study.protocol.plan import EPOCHS_CEILING
from study.protocol.text import Parser
from study.storage.lease import SYNC_SECONDS
from study.storage.objects import is_uri

DEFAULT_ARMS = {"gpu": ("resnet50", "resnext50"), "cpu": ("small_resnet", "small_resnext")}
SIDES = (8, 1024)
"""Pixels that ``--size`` may ask for."""
QUESTION, RUNNING = "the question", "running it"
DESCRIPTION = (
    "Which architecture is better on my images, when each is tuned equally well, and how sure are we?"
)
EXAMPLES = """\
examples:
  python study/run.py --budget 20cpu-minutes --data digits
      a first study on a laptop: small arms, images that come with scikit-learn
  python study/run.py --budget 8gpu-hours
      resnet50 against resnext50 on CIFAR-10 (downloaded once into data/)
  python study/run.py --budget 8gpu-hours --data my-images --plan
      what a study of your own images (train/<class>/*, test/<class>/*) would do; runs nothing
  python study/run.py --budget 60cpu-minutes --arms tiny_resnet,tiny_resnext,small_resnet
      any arms of search_spaces/, two or more; a new file there is a new arm
  python study/run.py --resume runs/ID --budget 16gpu-hours
      a finished study whose answer is open looks again, with further searches, for this much in all

exit codes: 0 done, 2 bad input, 3 could not finish; stopped by a signal and to be resumed: 130 Ctrl-C,
143 SIGTERM, 129 SIGHUP
"""


def _flag(
    group: str, read: Callable[[str], Any] | None, metavar: str, text: str, *, default: Any = None
) -> Any:
    """A field of ``Request`` and its flag; without ``read`` the flag is a switch."""
    return dataclasses.field(
        default=default if read else False,
        metadata={"group": group, "read": read, "metavar": metavar, "help": text},
    )


@dataclass(frozen=True, kw_only=True)
class Request:
    """One command line. A new study has a budget and arms; with ``resume`` these are what is asked for beyond its plan."""

    budget: Budget | None = _flag(  # noqa: RUF009  # a field, as dataclasses.field makes it
        QUESTION, Budget.parse, "AMOUNT",
        "what the whole study may cost, as in 8gpu-hours, 90gpu-minutes, 2cpu-hours, 10cpu-minutes "
        "(fraction of a GPU or core held x time held)",
    )  # fmt: skip
    arms: tuple[str, ...] = _flag(
        QUESTION, flags.arms, "A,B",
        "architectures, two or more (default: resnet50,resnext50 on GPUs, small_resnet,small_resnext on CPUs). "
        f"There are: {', '.join(search_spaces.spellings())}", default=(),
    )  # fmt: skip
    data: str = _flag(
        QUESTION, str, "NAME",
        "; ".join(f"{source.spelling}: {source.help}" for source in sources()) + "; A,B,C: a study each, within one budget, or --budget X,Y,Z; --resume takes their folder (default cifar10)",
        default="cifar10",
    )  # fmt: skip
    recipe: str = _flag(
        QUESTION, flags.recipe, "NAME",
        "how all arms are trained, and which ranges are searched for it: " + ", ".join(search_spaces.recipe_names())
        + " (default sgd; finetune if all arms begin from trained weights)", default="",
    )  # fmt: skip
    """Empty until the arms are known: the default hangs on them."""
    test: str = _flag(
        QUESTION, chosen_test, "PART",
        "sealed as the test: a part's name, as in val, or a share, as in 20%% (default: test, else val, else 10 to 30 %%)", default="",
    )  # fmt: skip
    size: int | None = _flag(
        QUESTION, flags.whole("size", *SIDES, f"from {SIDES[0]} to {SIDES[1]} pixels"), "N",
        "pixels per side at which all arms train and are scored (default: what suits the training images, at most 224)",
    )  # fmt: skip
    fit: Fit = _flag(  # noqa: RUF009  # a field, as above
        QUESTION, flags.fit, "HOW",
        "images that are not square: squash stretches them, pad fills up with grey, crop cuts their ends away (default squash)",
        default="squash",
    )  # fmt: skip
    allow_losses: bool = _flag(QUESTION, None, "", "go on though more than 1 %% of a class cannot be read")
    epochs: int | None = _flag(
        QUESTION, flags.whole("epochs", 1, EPOCHS_CEILING, f"from 1 to {EPOCHS_CEILING} passes over the training images"), "N",
        "length of a full run (default: what the budget allows, 3 to 50)",
    )  # fmt: skip
    metric: Name = _flag(  # noqa: RUF009  # a field, as above
        QUESTION, flags.metric, "NAME",
        f"what nets are judged by, in every step: {', '.join(NAMES)} (default accuracy)", default="accuracy",
    )  # fmt: skip
    rope: float = _flag(
        QUESTION, flags.margin, "MARGIN",
        "difference that would not matter to you, in the metric's unit: points (default 0.5), nats for log-loss; "
        "log-loss and brier have no default", default=math.nan,
    )  # fmt: skip
    """In the metric's unit; for shares as a fraction."""
    train_fraction: float = _flag(
        QUESTION, flags.above_zero("train-fraction", 1, "above 0 and at most 1"), "F",
        "part of the training images to use: does the answer hinge on the data's size? (default 1)", default=1.0,
    )  # fmt: skip
    widen: tuple[str, ...] = _flag(
        QUESTION, flags.names, "X,Y",
        "numeric parameters whose ranges are searched three times as far, for all arms: for a winner at the edge of its range", default=(),
    )  # fmt: skip
    looks: Literal[1, 2] = _flag(
        QUESTION, flags.looks, "{1,2}",
        "2 announces that more money may follow if the answer is open: the intervals are 12 to 14 %% wider for it (default 1)",
        default=1,
    )  # fmt: skip
    seed: int = _flag(
        QUESTION, flags.whole("seed", 0, 2**31 - 1, f"from 0 to {2**31 - 1}"), "N", "random seed (default 0)", default=0,
    )  # fmt: skip
    out: str | None = _flag(
        RUNNING, flags.place, "DIR",
        "where the study is written (default: runs/<time>-<process>-<data>): a folder, or s3://BUCKET/FOLDER, gs://..., "
        f"file://..., brought up to date every {SYNC_SECONDS:g} s",
    )  # fmt: skip
    fraction: float | None = _flag(
        RUNNING, flags.share, "F",
        "of a GPU that each trial holds, as in 0.25, or CPU cores, as in 2 (default: the fastest, measured)",
    )  # fmt: skip
    plan: bool = _flag(RUNNING, None, "", "measure the arms, print what would be run, run nothing")
    no_pictures: bool = _flag(RUNNING, None, "", "keep no small pictures of test images for the report")
    verbose: bool = _flag(RUNNING, None, "", "with the plan, print what was measured and the budget's parts")
    resume: str | None = _flag(
        RUNNING, flags.run, "RUN",
        "go on with a study that was stopped or killed, in its folder or at its URI; its plan is the question. With a "
        "larger --budget: a second look at a finished study whose answer is open. With --arms of one arm more: that arm is added",
    )  # fmt: skip
    accept_changed_code: bool = _flag(
        RUNNING, None, "", "with --resume: go on though code or versions changed; the report says so"
    )
    address: str | None = _flag(RUNNING, str, "HOST:PORT", "an existing Ray cluster (default: this machine)")
    log: tuple[str, ...] = _flag(
        RUNNING, flags.names, "X,Y",
        f"tools to show the study in as it runs: {', '.join(loggers.choices())}", default=(),
    )  # fmt: skip
    wait_for: int | None = _flag(
        RUNNING, flags.whole("wait-for", 1, 2**31, "N is 1 or more"), "N",
        "with --address of a cluster that grows: begin when it has N GPUs (or CPU cores)",
    )  # fmt: skip

    @property
    def uri(self) -> str | None:
        """Where the study is kept beside its folder here; None when that folder is all."""
        place = self.resume or self.out
        return place if is_uri(place) else None

    @property
    def running(self) -> list[str]:
        """The words on where and how it runs, which a resumed study takes again."""
        words = {"--address": self.address, "--wait-for": self.wait_for, "--log": ",".join(self.log)}
        return [str(word) for flag, value in words.items() if value for word in (flag, value)]

    @property
    def command(self) -> str:
        """The command that asks the same question again, with every default spelled out but the length."""
        chosen = {
            "recipe": self.recipe,
            "test": self.test,
            "size": self.size,
            "fit": self.fit if self.fit != "squash" else "",
            "epochs": self.epochs,
            "train-fraction": f"{self.train_fraction:g}" if self.train_fraction != 1 else "",
            "fraction": f"{self.fraction:g}" if self.fraction is not None else "",
            "widen": ",".join(self.widen),
            "looks": self.looks if self.looks != 1 else "",
            "metric": self.metric if self.metric != "accuracy" else "",
        }
        parts = ["--budget", str(self.budget), "--arms", ",".join(self.arms), "--data", self.data]
        for name, value in chosen.items():
            parts += [f"--{name}", str(value)] if value else []
        parts += ["--allow-losses"] if self.allow_losses else []
        parts += ["--no-pictures"] if self.no_pictures else []
        margin = METRICS[self.metric].typed(self.rope)
        return "python study/run.py " + shlex.join([*parts, "--rope", margin, "--seed", str(self.seed)])


def parse(argv: list[str]) -> Request:
    """Exits with code 2 and one sentence for anything that cannot work."""
    parser = _parser()
    given = vars(parser.parse_args(argv))
    try:
        values = {f.name: _read(f, given[f.name]) for f in dataclasses.fields(Request) if f.name in given}
        request = Request(**values)
        if request.wait_for is not None and request.address is None:
            raise InputError("--wait-for N waits for a cluster to grow: it goes with --address")
        if request.resume is not None:
            _check_resume(request.resume, {name.replace("_", "-") for name in given})
            return request
        return _new(request)
    except InputError as error:
        parser.error(str(error))


def _read(field: "dataclasses.Field[Any]", given: Any) -> Any:
    read = field.metadata["read"]
    return read(given) if read else given


def _new(request: Request) -> Request:
    """The request of a new study, its arms filled in."""
    if request.accept_changed_code:
        raise InputError("--accept-changed-code goes with --resume RUN")
    if request.budget is None:
        raise InputError("--budget is missing: what may the study cost? As in --budget 10cpu-minutes")
    if len(request.arms) == 1:
        (alone,) = request.arms
        other = next(name for name in search_spaces.names() if name != alone)
        raise InputError(
            f"--arms {alone}: a comparison needs two or more different arms, as in --arms {alone},{other}"
        )
    resource, fraction = request.budget.resource, request.fraction
    if fraction is not None:
        if resource == "gpu" and not 0.01 <= fraction <= 1:
            raise InputError(
                f"--fraction {fraction:g} is out of range: a trial holds from 0.01 to 1 of a GPU"
            )
        if resource == "cpu" and not (fraction >= 1 and fraction.is_integer()):
            raise InputError(f"--fraction {fraction:g}: on a CPU a trial holds 1, 2, 3 ... whole cores")
    return dataclasses.replace(request, arms=request.arms or DEFAULT_ARMS[resource], rope=_margin(request))


def _margin(request: Request) -> float:
    metric = METRICS[request.metric]
    if not math.isnan(request.rope):
        return metric.margin(request.rope)
    if metric.rope is None:
        raise InputError(
            f"--metric {metric.name} has no usual margin: give the difference that would not matter to you, as in --rope "
            f"{metric.widest / 100:g}{' (nats)' if metric.unit == 'nats' else ''}"
        )
    return metric.rope


def _check_resume(run: str, given: set[str]) -> None:
    """What is asked, on what, for how much: the run's plan has all of it."""
    allowed = {"resume", "accept-changed-code", "address", "wait-for", "log", "verbose", "budget", "arms"}
    if others := sorted(f"--{name}" for name in given - allowed):
        raise InputError(f"--resume takes the whole question from {run}: leave out {', '.join(others)}")
    if {"budget", "arms"} <= given:
        raise InputError(
            "--resume with a larger --budget is a second look, and with --arms one arm more: a study is extended once, "
            "by one of them"
        )


def _parser() -> Parser:
    """Leaves out of its namespace what was not given."""
    parser = Parser(
        prog="python study/run.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    # that of Python 3.14: -5cpu-minutes is a value, and no flag
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    groups = {name: parser.add_argument_group(name) for name in (QUESTION, RUNNING)}
    for field in dataclasses.fields(Request):
        about = field.metadata
        name = f"--{field.name.replace('_', '-')}"
        if about["read"]:
            groups[about["group"]].add_argument(name, metavar=about["metavar"], help=about["help"])
        else:
            groups[about["group"]].add_argument(name, action="store_true", help=about["help"])
    return parser
