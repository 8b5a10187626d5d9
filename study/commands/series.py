"""``--data A,B,C``: one study per data set within one budget, in one folder, and one page over all of them.

A series is a folder with ``series.json`` and a run per data set. Every study is a process of its own, so it lives, stops and goes
on as it does alone; the series adds the order, the division of the budget, and ``across`` once all have an answer.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote

from rich.console import Group
from rich.text import Text

from study import cli
from study.commands.list import listing
from study.commands.status import look
from study.data import ahead
from study.protocol import rundir
from study.protocol.budget import Budget
from study.protocol.codec import from_plain, parse
from study.protocol.errors import BAD_INPUT, DONE, UNFINISHED, InputError, StudyError
from study.protocol.rundir import SERIES, RunDir
from study.protocol.text import escaped, first_line
from study.signals import SIGNALS
from study.storage.objects import is_uri

FORMAT, PAGE = 1, "across.html"
NOHUP = (signal.SIGHUP, signal.SIGTSTP)
"""Signals that stay ignored where they were."""
ROOT = Path(__file__).resolve().parent.parent.parent
STUDY = (sys.executable, str(ROOT / "study" / "run.py"))
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One study of a series."""

    data: str
    budget: str
    folder: str
    """Its run, within the folder of the series."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The studies of several data sets, in their order."""

    members: tuple[Member, ...]
    flags: tuple[str, ...]
    """What every study is given beside its data and its budget."""


def main(argv: Sequence[str]) -> int | None:
    """The exit code of the series that the command line starts or resumes; None where it is about a single study."""
    try:
        own, others = _parser().parse_known_args(argv)
    except argparse.ArgumentError:
        return None  # the single study's parser says what is wrong
    try:
        if own.resume:
            return _resume(own, others)
        asked = of(own, others)
        return None if asked is None else run(asked, place_of(own.out), print)
    except StudyError as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {escaped(str(error.filename))}: {error.strerror}", file=sys.stderr)
        return UNFINISHED


def _parser() -> argparse.ArgumentParser:
    """The flags that differ from study to study, and ``--resume``; others are every study's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--data", "--budget", "--out", "--resume"):
        parser.add_argument(flag, default="")
    return parser


def _resume(own: argparse.Namespace, words: Sequence[str]) -> int | None:
    folder = Path(own.resume)
    if is_uri(own.resume) or not (folder / SERIES).is_file():
        return None
    given = {"--resume": own.resume, "--data": own.data, "--out": own.out}  # the last two to be refused
    others = [word for flag, value in given.items() if value for word in (flag, value)]
    asked, series = cli.parse([*words, *others]), read(folder)
    if asked.arms:
        raise InputError(f"{folder} has several studies: give --arms with the study of one data set")
    if own.budget:
        series = _paid_anew(series, folder, own.budget)
    return run(series, folder, print, again=asked)


def _paid_anew(series: Series, folder: Path, word: str) -> Series:
    """Divide other budgets among the studies that have not begun. Raises InputError where all have."""
    begun = {member for member in series.members if RunDir(folder / member.folder).plan.exists()}
    if len(begun) == len(series.members):
        first = folder / series.members[0].folder
        raise InputError(
            f"every study of {folder} has begun, and keeps its budget; one whose answer is open looks again for more: "
            f"python study/run.py --resume {quote(str(first))} --budget AMOUNT"
        )
    amounts = iter(_budgets(word, len(series.members) - len(begun)))
    members = tuple(m if m in begun else replace(m, budget=next(amounts)) for m in series.members)
    if len({Budget.parse(member.budget).resource for member in members}) > 1:
        raise InputError(f"--budget {word}: the studies of {folder} that have begun have another resource")
    return replace(series, members=members)


def of(own: argparse.Namespace, others: Sequence[str]) -> Series | None:
    """The series that these words ask for; None for a single study.

    Raises InputError where the budgets do not fit the data sets.
    """
    names = [name.strip() for name in own.data.split(",") if name.strip()]
    if len(names) < 2 or _is_one_path(own.data):
        return None
    budgets = _budgets(own.budget, len(names))
    members = tuple(
        Member(data=name, budget=budget, folder=f"{number}-{rundir.file_name(name, otherwise='data')}")
        for number, (name, budget) in enumerate(zip(names, budgets, strict=True), start=1)
    )
    return Series(members=members, flags=tuple(others))


def place_of(out: str) -> Path:
    """Where a new series is written. Raises InputError for a URI, of which every study needs its own, and for what exists."""
    if is_uri(out):
        raise InputError(
            f"--out {out}: several data sets are kept in a folder; start one study per data set for URIs"
        )
    place = Path(out) if out else rundir.unnamed("series")
    if place.exists():
        raise InputError(f"--out {out} exists: give a new folder, or go on with --resume {out}")
    return place


def read(folder: Path) -> Series:
    """Raises InputError for a file that is no series."""
    try:
        body = parse((folder / SERIES).read_text())
        if (known := body.pop("format")) != FORMAT:
            raise InputError(f"{folder / SERIES} has format {known!r:.60}; this version reads {FORMAT}")
        series: Series = from_plain(Series, body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / SERIES} is no series: {first_line(error)}") from error
    if not series.members:
        raise InputError(f"{folder / SERIES} is no series: it has no studies")
    if outside := [
        member.folder for member in series.members if not re.fullmatch(r"\w[\w-]*", member.folder)
    ]:
        raise InputError(f"{folder / SERIES} is no series: its study {outside[0]!r:.60} is no folder in it")
    if odd := [word for word in series.flags if word.startswith(("-h", "--help", "--plan", "--out"))]:
        raise InputError(f"{folder / SERIES} is no series: {odd[0]!r:.60} is no flag of its studies")
    return series


def _write(series: Series, folder: Path) -> None:
    body = {"format": FORMAT} | asdict(series)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rundir.write(folder / SERIES, json.dumps(body, indent=1).encode() + b"\n")
    except OSError as error:
        raise rundir.unwritable(folder, error) from error


def run(
    series: Series, folder: Path, say: Say, *, again: cli.Request | None = None, study: Sequence[str] = STUDY
) -> int:
    """Run the unfinished studies in order, then join the answers. Returns the exit code.

    ``again`` is the command that resumes the series: what it says of running it goes to every study. A study that stops or is refused ends the series there. Raises InputError, StudyError and OSError.
    """
    planning = "--plan" in series.flags
    flags = [*series.flags, *(again.running if again else ())]
    # whatever is bad is refused before the first study costs anything
    asked = [cli.parse(["--data", m.data, "--budget", m.budget, *flags]) for m in series.members][-1]
    say("looking through the data sets ...")
    ahead.check([m.data for m in series.members if not RunDir(folder / m.folder).plan.exists()], asked.test)
    resumed = asked.running
    resumed += ["--accept-changed-code"] if again and again.accept_changed_code else []
    if not planning:
        _write(series, folder)
    worst = DONE
    for number, member in enumerate(series.members, start=1):
        home = RunDir(folder / member.folder)
        if not planning and _is_done(home):
            continue
        say(f"data set {number} of {len(series.members)}: {member.data}, {member.budget}")
        words = ["--data", member.data, "--budget", member.budget, "--out", str(home), *flags]
        code = _process([*study, *(["--resume", str(home), *resumed] if home.plan.exists() else words)])
        if code != DONE:
            worst = worst or code
            if planning and code < 128:
                continue
            if not planning:
                say(
                    f"the series stopped at data set {number} of {len(series.members)}. Go on with: {_again(folder)}"
                )
            if not planning and code == BAD_INPUT and not home.plan.exists():
                say(
                    f"with another budget for the data sets that have not begun: {_again(folder)} --budget AMOUNT"
                )
            return code
    if not planning:
        _across(series, folder, say)
    return worst


def overview(folder: Path) -> Group:
    """A line for each study of a series, and how it goes on. Raises InputError."""
    members = read(folder).members
    waiting = [m.data for m in members if not RunDir(folder / m.folder).ledger.exists()]
    lines = [f"not begun: {', '.join(waiting)}"] if waiting else []
    page = folder / PAGE
    lines.append(f"report: {page}" if page.exists() else f"when it is stopped, go on with: {_again(folder)}")
    return Group(listing(folder), *(Text(escaped(line)) for line in lines))


def _again(folder: Path) -> str:
    return f"python study/run.py --resume {quote(str(folder))}"


def _is_done(home: RunDir) -> bool:
    """Whether a study has its report. What one left that was killed before its plan is removed. Raises InputError while it measures."""
    state = look(home).state if home.ledger.exists() else "stopped"
    if state == "finished":
        return home.html.exists() and home.verdict.exists()
    if state == "measuring":
        raise InputError(f"{home} is being measured by {home.holder()}: go on when that has ended")
    home.discard_false_start()
    return False


def _across(series: Series, folder: Path, say: Say) -> None:
    from analysis.across import join
    from analysis.report import across_page

    joined = join([folder / member.folder for member in series.members], partial=True)
    page = across_page.write(joined, folder)
    say("\n".join(["", *joined.lines, f"report: {page}"]))


def _process(command: Sequence[str]) -> int:
    """Run it to its end. It has a process group of its own: a signal, the terminal's or another's, comes here and is passed on once.

    Ctrl-Z stops it with the series, and ``fg`` lets both go on.
    """
    child: subprocess.Popen[bytes] | None = None
    met: list[int] = []

    def pass_on(number: int, _: object) -> None:
        met.append(number)
        if child:
            child.send_signal(number)

    def pause(*_: object) -> None:
        if child:
            child.send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # until the shell lets it go on
        if child:
            child.send_signal(signal.SIGCONT)

    with _handled(dict.fromkeys(SIGNALS, pass_on) | {signal.SIGTSTP: pause}):
        child = subprocess.Popen(command, process_group=0)
        code = child.wait()
    if code == DONE and met:
        return 128 + met[0]
    return 128 - code if code < 0 else code


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Callable[[int, object], None]]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if number not in NOHUP or before[number] != signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _budgets(word: str, sets: int) -> list[str]:
    parts = [part.strip() for part in word.split(",") if part.strip()]
    if len(parts) not in (1, sets):
        raise InputError(
            f"--budget {word!r} for {sets} data sets: give one amount, which is divided equally, or one for each"
        )
    amounts = [Budget.parse(part) for part in parts]
    if len({amount.resource for amount in amounts}) > 1:
        raise InputError(
            f"--budget {word}: all data sets run on the same kind of machine: give GPU or CPU time"
        )
    if len(parts) == 1 and sets > 1:
        minutes = math.floor(amounts[0].seconds / 60 / sets * 100 + 1e-6) / 100
        share = Budget(seconds=60 * minutes, resource=amounts[0].resource)
        amounts = [Budget.parse(str(share))] * sets  # parsed, so that too small a share is refused
    return [str(amount) for amount in amounts]


def _is_one_path(data: str) -> bool:
    prefix, _, path = data.partition(":")
    return _there(data) or ("," not in prefix and _there(path))


def _there(word: str) -> bool:
    with suppress(OSError, RuntimeError):  # a name too long, no such user's home
        return bool(word) and Path(word).expanduser().exists()
    return False
