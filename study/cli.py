"""The command line: few flags, each checked once, with a message that says what would work.

Imports no torch and no Ray, so that ``--help`` and a wrong flag answer at once.
"""

import argparse
import datetime
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, Self

import search_spaces
from study.protocol.budget import Budget, PlanError
from study.protocol.ledger import CLAIM
from study.protocol.plan import EPOCHS_CEILING, FILE, ROPE_CEILING, Plan
from study.storage import objects, sync

DEFAULT_ARMS = {"gpu": ("resnet50", "resnext50"), "cpu": ("small_resnet", "small_resnext")}

DESCRIPTION = (
    "Which architecture is better on my images, when each is tuned equally well, and how sure are we?"
)
EXAMPLES = """\
examples:
  python study/run.py --budget 20cpu-minutes --data digits
      a first study on a laptop: small arms, images that come with scikit-learn
  python study/run.py --budget 8gpu-hours
      resnet50 against resnext50 on CIFAR-10 (downloaded once into data/)
  python study/run.py --budget 8gpu-hours --data folder:my-images --plan
      what a study of your own images (train/<class>/*, test/<class>/*) would do; runs nothing
  python study/run.py --budget 60cpu-minutes --arms tiny_resnet,tiny_resnext,small_resnet
      any arms of search_spaces/, two or more; a new file there is a new arm
  python study/run.py --resume runs/ID --budget 16gpu-hours
      a finished study whose answer is open looks again, with further searches, for this much in all

exit codes: 0 done, 2 bad input, 3 could not finish; stopped by a signal and to be resumed: 130 Ctrl-C,
143 SIGTERM, 129 SIGHUP
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for, valid as far as that can be known without torch, data and Ray."""

    budget: Budget
    arms: tuple[str, ...]
    data: str
    epochs: int | None
    rope: float
    """As a fraction of accuracy."""
    seed: int
    train_fraction: float
    widen: tuple[str, ...]
    out: Path
    uri: str | None
    """Where the study is kept, when that is no folder of this machine; ``out`` then stands for it here."""
    fraction: float | None
    """Of a GPU, or CPU cores, that a trial holds; None lets the probe choose."""
    plan_only: bool
    address: str | None
    log: tuple[str, ...]
    """Tools that see the study as it runs: ``optuna``, ``tensorboard``, ``mlflow``, ``wandb``."""
    wait_for: int | None
    """Begin when the cluster has so many GPUs, or CPU cores."""
    resume: bool
    """Go on with the study in ``out``; the question is then what its plan says."""
    accept_changed_code: bool
    looks: Literal[1, 2]
    """How often the test may be looked at, declared before the study begins."""
    more: Budget | None
    """With ``resume``: the new total, for a second look."""
    with_arms: tuple[str, ...]
    """With ``resume``: the study's arms and one more."""
    notes: tuple[str, ...]
    """What was chosen for the user, to be said."""
    command: str

    @classmethod
    def parse(cls, argv: list[str]) -> Self:
        """Exits with code 2 and one sentence for anything that cannot work."""
        parser = _parser()
        given = parser.parse_args(argv)
        if given.wait_for is not None and (given.address is None or given.wait_for < 1):
            parser.error(
                "--wait-for N waits for a cluster to grow: it goes with --address, and N is 1 or more"
            )
        if given.resume is not None:
            return cls._going_on(parser, given, argv)
        if given.accept_changed_code:
            parser.error("--accept-changed-code goes with --resume RUN")
        if given.budget is None:
            parser.error("--budget is missing: what may the study cost? As in --budget 10cpu-minutes")
        try:
            budget = Budget.parse(given.budget)
            arms = _arms(given.arms, budget)
        except PlanError as error:
            parser.error(str(error))
        _check_ranges(parser, given)
        _check_fraction(parser, given.fraction, budget)
        if given.out == "":
            parser.error("--out is empty: give a folder or a URI, or leave it out")
        uri = given.out if objects.is_uri(given.out) else None
        out = Path(given.out) if given.out else Path("runs") / _run_name(given.data)
        if uri:
            out = _check_uri(parser, uri, look=not given.plan)
        if not given.plan:
            _check_out(parser, out)
        notes = (
            []
            if given.arms
            else [f"no --arms given: a {budget.resource} budget compares {' with '.join(arms)}"]
        )
        return cls(
            budget=budget,
            arms=arms,
            data=given.data,
            epochs=given.epochs,
            rope=given.rope / 100,
            seed=given.seed,
            train_fraction=given.train_fraction,
            widen=_names(given.widen),
            out=out,
            uri=uri,
            fraction=given.fraction,
            plan_only=given.plan,
            address=given.address,
            log=_names(given.log),
            wait_for=given.wait_for,
            resume=False,
            accept_changed_code=False,
            looks=given.looks,
            more=None,
            with_arms=(),
            notes=tuple(notes),
            command=_command(budget, arms, given),
        )

    @classmethod
    def _going_on(cls, parser: argparse.ArgumentParser, given: argparse.Namespace, argv: list[str]) -> Self:
        """What is asked for, on what, for how much: all that lies in the run's plan."""
        asked = {word.partition("=")[0] for word in argv if word.startswith("--")}
        allowed = {
            "--resume",
            "--accept-changed-code",
            "--address",
            "--wait-for",
            "--log",
            "--budget",
            "--arms",
        }
        if others := sorted(asked - allowed):
            parser.error(
                f"--resume takes the whole question from {given.resume}/{FILE}: leave out {', '.join(others)}"
            )
        if {"--budget", "--arms"} <= asked:
            parser.error(
                "--resume with a larger --budget is a second look, and with --arms one arm more: a study is extended once, "
                "by one of them"
            )
        try:
            run = sync.local(given.resume)
            if not (run / FILE).is_file():
                parser.error(
                    f"--resume {run}: there is no study in it (no {FILE}); one that was killed while the arms were "
                    "measured has nothing to go on from: begin it anew"
                )
            plan = Plan.load(run / FILE)
            more = Budget.parse(given.budget) if given.budget is not None else None
            with_arms = _arms(given.arms, plan.budget) if given.arms is not None else ()
        except PlanError as error:
            parser.error(str(error))
        except OSError as error:
            parser.error(f"--resume {given.resume[:200]} cannot be read: {error.strerror}")
        return cls(
            budget=plan.budget,
            arms=plan.arms,
            data=plan.data.spec,
            epochs=plan.epochs,
            rope=plan.rope,
            seed=plan.seed,
            train_fraction=plan.train_fraction,
            widen=plan.widen,
            out=run,
            uri=given.resume if objects.is_uri(given.resume) else None,
            plan_only=False,
            address=given.address,
            fraction=None,
            log=_names(given.log),
            wait_for=given.wait_for,
            resume=True,
            accept_changed_code=given.accept_changed_code,
            looks=plan.looks,
            more=more,
            with_arms=with_arms,
            notes=(),
            command=plan.command,
        )


class _Parser(argparse.ArgumentParser):
    """argparse with an error that is one readable line, whatever it quotes."""

    def error(self, message: str) -> NoReturn:
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)  # it quotes what was typed
        self.exit(2, f"error: {line}\n(python study/run.py --help shows examples)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python study/run.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # that of Python 3.14: -5cpu-minutes is a value, and no flag
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    question = parser.add_argument_group("the question")
    question.add_argument(
        "--budget", metavar="AMOUNT",
        help="what the whole study may cost, as in 8gpu-hours, 90gpu-minutes, 2cpu-hours, 10cpu-minutes "
        "(fraction of a GPU or core held x time held)",
    )  # fmt: skip
    question.add_argument(
        "--arms", metavar="A,B",
        help="architectures, two or more (default: resnet50,resnext50 on GPUs, small_resnet,small_resnext on CPUs). "
        f"There are: {', '.join(search_spaces.names())}",
    )  # fmt: skip
    question.add_argument(
        "--data", default="cifar10", metavar="NAME",
        help="cifar10 (default), cifar100, digits, or folder:PATH with train/<class>/* and test/<class>/*",
    )  # fmt: skip
    question.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="length of a full run (default: what the budget allows, 3 to 50)",
    )
    question.add_argument(
        "--rope", type=float, default=0.5, metavar="POINTS",
        help="accuracy difference that would not matter to you, in points (default 0.5)",
    )  # fmt: skip
    question.add_argument(
        "--train-fraction", type=float, default=1.0, metavar="F",
        help="part of the training images to use: does the answer hinge on the data's size? (default 1)",
    )  # fmt: skip
    question.add_argument(
        "--widen", default="", metavar="X,Y",
        help="numeric parameters to search three times as far, for all arms, when a winner lies on an edge",
    )  # fmt: skip
    question.add_argument(
        "--looks", type=int, choices=(1, 2), default=1,
        help="2 announces that more money may follow if the answer is open: the intervals are 12 to 14 %% wider for it (default 1)",
    )  # fmt: skip
    question.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default 0)")
    running = parser.add_argument_group("running it")
    running.add_argument(
        "--out", metavar="DIR",
        help="where the study is written (default: runs/<time>-<data>): a folder, or s3://BUCKET/FOLDER, gs://..., "
        f"file://..., brought up to date every {sync.SYNC_SECONDS:g} s",
    )  # fmt: skip
    running.add_argument(
        "--fraction", type=float, metavar="F",
        help="of a GPU that each trial holds, as in 0.25, or CPU cores, as in 2 (default: the fastest, measured)",
    )  # fmt: skip
    running.add_argument(
        "--plan", action="store_true", help="measure the arms, print what would be run, run nothing"
    )
    running.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a study that was stopped or killed, in its folder or at its URI; its plan is the question. With a "
        "larger --budget: a second look at a finished study whose answer is open. With --arms of one arm more: that arm is added",
    )
    running.add_argument(
        "--accept-changed-code", action="store_true",
        help="with --resume: go on though code or versions changed; the report says so",
    )  # fmt: skip
    running.add_argument(
        "--address", metavar="HOST:PORT", help="an existing Ray cluster (default: this machine)"
    )
    running.add_argument(
        "--log", default="", metavar="X,Y",
        help="tools to show the study in as it runs: optuna (for optuna-dashboard), tensorboard, mlflow, wandb",
    )  # fmt: skip
    running.add_argument(
        "--wait-for", type=int, metavar="N",
        help="with --address of a cluster that grows: begin when it has N GPUs (or CPU cores)",
    )  # fmt: skip
    return parser


def _arms(given: str | None, budget: Budget) -> tuple[str, ...]:
    if given is None:
        return DEFAULT_ARMS[budget.resource]
    arms = _names(given)
    known = search_spaces.names()
    for name in arms:
        if name not in known:
            raise PlanError(
                f"no arm {name!r}. There are: {', '.join(known)}. A new file search_spaces/{name}.py would define it"
            )
    if len(arms) < 2 or len(set(arms)) != len(arms):
        raise PlanError(
            f"--arms {given!r}: a comparison needs two or more different arms, as in --arms {known[0]},{known[1]}"
        )
    return arms


def _check_fraction(parser: argparse.ArgumentParser, fraction: float | None, budget: Budget) -> None:
    if fraction is None:
        return
    if budget.resource == "gpu" and not 0.01 <= fraction <= 1:
        parser.error(f"--fraction {fraction:g} is out of range: a trial holds from 0.01 to 1 of a GPU")
    if budget.resource == "cpu" and not (fraction >= 1 and fraction.is_integer()):
        parser.error(f"--fraction {fraction:g}: on a CPU a trial holds 1, 2, 3 ... whole cores")


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())


def _check_ranges(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if given.epochs is not None and not 1 <= given.epochs <= EPOCHS_CEILING:
        parser.error(
            f"--epochs {given.epochs} is out of range: from 1 to {EPOCHS_CEILING} passes over the training images"
        )
    if not 0 < given.rope <= 100 * ROPE_CEILING:
        parser.error(
            f"--rope {given.rope:g} is out of range: above 0 and at most {100 * ROPE_CEILING:g} accuracy points"
        )
    if not 0 <= given.seed < 2**31:
        parser.error(f"--seed {given.seed} is out of range: from 0 to {2**31 - 1}")
    if not 0 < given.train_fraction <= 1:
        parser.error(f"--train-fraction {given.train_fraction:g} is out of range: above 0 and at most 1")


def _check_out(parser: argparse.ArgumentParser, out: Path) -> None:
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            what, hint = "something else", ""
            if (out / FILE).exists():
                what, hint = "a study", f"; python -m analysis {out} shows that study"
            elif (out / CLAIM).exists():
                what = "a study that is being measured, or was killed before it began,"
                hint = f", or delete this one if python -m study status {out} says that it is stopped"
            parser.error(
                f"--out {out} holds {what} already and is left as it is: give another directory{hint}"
            )
        out.mkdir(parents=True, exist_ok=True)
        (out / CLAIM).touch(exist_ok=False)
    except FileExistsError:
        parser.error(f"--out {out} has just been taken by another study: give another directory")
    except OSError as error:
        parser.error(f"--out {out} cannot be written: {error.strerror}")


def _check_uri(parser: argparse.ArgumentParser, uri: str, *, look: bool) -> Path:
    """The folder that stands for it here."""
    try:
        if look:
            sync.check_new(uri)
        objects.Storage(uri)
    except PlanError as error:
        parser.error(f"--out: {error}")
    return sync.home_of(uri)


def _run_name(data: str) -> str:
    stem = Path(data.removeprefix("folder:")).name or "images"
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)
    return f"{datetime.datetime.now().strftime('%Y%m%d-%H%M%S')}-{safe}"


def _command(budget: Budget, arms: tuple[str, ...], given: argparse.Namespace) -> str:
    """The command that asks the same question again, with every default spelled out but the length."""
    parts = ["--budget", str(budget), "--arms", ",".join(arms), "--data", given.data]
    if given.epochs is not None:
        parts += ["--epochs", str(given.epochs)]
    if given.train_fraction != 1:
        parts += ["--train-fraction", f"{given.train_fraction:g}"]
    if given.fraction is not None:
        parts += ["--fraction", f"{given.fraction:g}"]
    if given.widen:
        parts += ["--widen", given.widen]
    if given.looks != 1:
        parts += ["--looks", str(given.looks)]
    return "python study/run.py " + shlex.join(
        [*parts, "--rope", f"{given.rope:g}", "--seed", str(given.seed)]
    )
