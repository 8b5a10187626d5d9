"""The command: request -> open the run -> measure -> plan -> trials -> open the test -> report. Composition only."""

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until there is anything to end in order
    # else study/ itself would be on the path, and `import study` would fail
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from contextlib import ExitStack
from shlex import join, quote
from typing import TYPE_CHECKING

from rich.console import Console

from search_spaces import ArmError
from study import cli, planning, session
from study.cli import Request
from study.commands import series
from study.execution import host
from study.loggers import feed
from study.protocol import allocation, classes, looks, metrics
from study.protocol.accounting import search_runs, shrunk, unspent
from study.protocol.errors import BAD_INPUT, DONE, UNFINISHED, InputError, StudyError
from study.protocol.metrics import METRICS
from study.protocol.plan import Plan
from study.protocol.question import pinned, starts, unmatched
from study.protocol.records import Extension, Outcome, Record, Tuning
from study.protocol.rundir import RunDir
from study.protocol.standing import overspent
from study.protocol.text import duration, escaped
from study.session import Opened, Say
from study.signals import StopSignal, outlive_terminal

if TYPE_CHECKING:
    from study.data.sealed import Prepared

LEAVE_SECONDS = 2.0
"""Timeout for slow loggers once the study was asked to stop."""


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if (code := series.main(argv)) is not None:
        return code
    request = cli.parse(argv)
    stop = StopSignal()
    stop.listen()
    outlive_terminal()
    terminal = sys.stdout.isatty()
    console = Console(
        width=None if terminal else 120, soft_wrap=not terminal, highlight=False, markup=False, emoji=False
    )
    place = session.place_of(request)
    try:
        with (
            host.prepared(console.print, starts_ray=not request.address),
            session.open_run(request, place, console.print) as opened,
        ):
            if opened.extension:
                opened.extension = _still_open(opened.run, opened.extension)
            if opened.plan and opened.answered:
                _report(opened, opened.plan, console.print)
            else:
                _study(opened, console, stop)
    except (KeyboardInterrupt, SystemExit):  # SystemExit: Ray's answer to SIGTERM while it starts
        stop.signal = stop.signal or signal.SIGTERM
        console.print("stopped" if place.plan.exists() else "stopped; nothing had begun")
    except (StudyError, ArmError, OSError) as error:
        return _failed(error, request, place, console)
    if stop.requested():
        _say_how_to_resume(request, place, console.print)
        return stop.exit_code
    return DONE


def _failed(error: StudyError | ArmError | OSError, request: Request, place: RunDir, console: Console) -> int:
    """Print the error as one sentence; its exit code."""
    message = (
        f"{error.filename or place}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
    )
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False).print(
        f"error: {escaped(message)}"
    )
    if isinstance(error, ArmError):
        return BAD_INPUT
    if isinstance(error, OSError) or error.resumable:
        _say_how_to_resume(request, place, console.print)
    return UNFINISHED if isinstance(error, OSError) else error.exit_code


def _say_how_to_resume(request: Request, place: RunDir, say: Say) -> None:
    if request.plan or not place.plan.exists():
        return
    words = ["--resume", request.uri or str(place), *request.running]
    say(
        f"the work so far is kept: python -m analysis {quote(str(place))} shows it\n"
        f"go on with: python study/run.py {join(words)}"
    )


def _study(opened: Opened, console: Console, stop: StopSignal) -> None:
    """From an opened run to its report."""
    request, say = opened.request, console.print
    budget = opened.plan.budget if opened.plan else request.budget
    assert budget is not None
    if not opened.plan:
        say(f"{' against '.join(opened.arms)} on {request.data} for {budget}")
    planning.need_gpu(budget, request)
    if not request.address:
        host.place_for_ray(say)

    with ExitStack() as closing:
        if request.address:  # what is wrong with the cluster is said before images are read
            _connect(opened, closing, stop, say)
        prepared = _read_data(opened, console)
        _check_arms(opened, prepared, say)
        if not request.address:
            _connect(opened, closing, stop, say)
        if request.wait_for:
            from study.execution import cluster

            say(f"waiting until the cluster has {request.wait_for} {budget.resource.upper()}s ...")
            cluster.wait_for(request.wait_for, budget.resource)
        plan = _resume(opened, prepared, say) if opened.plan else _begin(opened, prepared, console)
        if request.plan:
            return
        fed = feed.start(request.log, plan, opened.run, say)
        opened.ledger.watchers.append(fed.add)
        closing.callback(lambda: fed.close(LEAVE_SECONDS if stop.requested() else feed.CLOSE_SECONDS))
        _run_trials(opened, plan, prepared, console, stop)
        if stop.requested():
            return
        _open_test(opened, plan, prepared, say)

    _report(opened, plan, say)


def _check_arms(opened: Opened, prepared: "Prepared", say: Say) -> None:
    """Take the images up with the arms, or refuse them, and a hopeless budget."""
    request, plan = opened.request, opened.plan
    if opened.added or not plan:
        new, recipe = opened.added or opened.arms, plan.recipe if plan else request.recipe
        opened.starts |= planning.check_arms(new, opened.starts, recipe, prepared)
    if plan:
        opened.take_up(prepared, say)
    elif planning.checked_here(request):
        planning.quick_check(request, opened.arms, prepared)()


def _connect(opened: Opened, closing: ExitStack, stop: StopSignal, say: Say) -> None:
    """Start Ray, or join the cluster; ``closing`` leaves it."""
    from study.execution import cluster

    dashboard = cluster.connect(opened.request.address, opened.run.log)
    closing.callback(cluster.disconnect)
    stop.listen()  # Ray has taken the handlers
    say(
        f"Ray dashboard: {dashboard} (it asks for the token that `ray get-auth-token` prints)"
        if dashboard
        else "no Ray dashboard: this Ray has none (pip install 'ray[default]')"
    )


def _report(opened: Opened, plan: Plan, say: Say) -> None:
    from analysis.report import build

    written = build.write(opened.run.path)
    say("\n".join(["", *_search_lines(plan, opened), *written.lines, f"report: {written.path}"]))


def _still_open(run: RunDir, extension: Extension) -> Extension:
    """The second look, if the study's own records leave an answer open."""
    from analysis import results, summary

    found = summary.find(results.read(run.path))
    return looks.still_open(extension, [(answer.word, answer.sentence) for answer in found.answers])


def _read_data(opened: Opened, console: Console) -> "Prepared":
    """Read the images, and show what was read of each class before anything is measured."""
    from study.commands.plan import class_table
    from study.data import prepare
    from study.data.opened import Asked

    plan, request, say = opened.plan, opened.request, console.print
    say("reading the images ...")
    if plan:
        prepared = prepare.prepare_again(plan, Path("data"))
    else:
        asked = Asked(size=request.size, fit=request.fit, allow_losses=request.allow_losses)
        prepared = prepare.prepare(
            request.data, seed=request.seed, root=Path("data"), test=request.test, asked=asked
        )
    card = prepared.card
    say(
        f"data: {card.spec}, {card.train} images to train and validate on, {card.test} sealed for the test, "
        f"{len(card.classes)} classes, {card.size} x {card.size} pixels"
    )
    say("\n".join(f"  {note}" for note in card.note.splitlines()))
    if not plan:
        say(class_table(card))
        say("\n".join(classes.sentences(card)))
    if prepared.kept:
        say(prepared.kept)
    metric = plan.judged if plan else METRICS[request.metric]
    if not plan and (reason := metrics.unfit(metric, card.classes, card.test_counts)):
        raise InputError(reason)
    if note := metrics.at_start(metric, card.train_counts, card.test_counts):
        say(note)
    return prepared


def _begin(opened: Opened, prepared: "Prepared", console: Console) -> Plan:
    """Measure, plan and show the plan; a new study is then in its folder."""
    from study.commands.plan import overview

    request = opened.request
    console.print("measuring the arms ...")
    plan = planning.make_plan(request, opened.arms, prepared, opened.place.path, opened.weights)
    console.print(overview(plan, verbose=request.verbose))
    if not request.plan:
        opened.begin(plan, prepared)
    return plan


def _resume(opened: Opened, prepared: "Prepared", say: Say) -> Plan:
    """The resumed plan, with the requested second look or arm, which is then in the ledger."""
    from study.execution import cluster

    assert opened.plan is not None
    cluster.check(opened.plan.machine)
    extension = opened.extension
    if opened.added:
        say(f"measuring {', '.join(opened.added)} ...")
        extension = planning.added_arm(
            opened.plan, opened.request.arms, opened.added, prepared, opened.weights
        )
    if extension:
        opened.extend(extension, prepared)
        say(planning.extension_sentence(opened.plan, opened.ledger, extension))
        if opened.added and (warning := unmatched(opened.plan.audits)):
            say(f"warning: {warning}")
        if opened.added:
            now = opened.plan
            for said in (*starts(now.weights, now.arms, now.data.size), *pinned(now.spaces)):
                say(f"note: {said}")
    return opened.plan


def _run_trials(opened: Opened, plan: Plan, prepared: "Prepared", console: Console, stop: StopSignal) -> None:
    from study.execution.tune import run_trials
    from study.progress import View
    from study.scheduling.schedule import Schedule

    ledger, mirror = opened.ledger, opened.mirror
    warned = bool(overspent(plan, ledger))

    def watch(record: Record) -> None:
        nonlocal warned
        if isinstance(record, Tuning) and (warning := shrunk(plan, ledger)):
            console.print(f"note: {warning}")
        if isinstance(record, Outcome) and not warned and (warning := overspent(plan, ledger)):
            warned = True
            console.print(f"note: {warning}. Ctrl-C stops it, and --resume goes on when the machine is quiet")

    ledger.watchers.append(watch)
    schedule = Schedule(plan, ledger, opened.arms)
    with View(schedule, console) as view, stop.in_order():
        run_trials(
            schedule, prepared.train, opened.run, view.tick,
            lambda: stop.requested() or bool(mirror and mirror.lost),
            say=lambda text: console.print(f"note: {text}"), mirror=mirror, weights=opened.contents,
        )  # fmt: skip
    if mirror:
        mirror.sync()  # what is to be tested lies there before the test is opened
        mirror.check()


def _open_test(opened: Opened, plan: Plan, prepared: "Prepared", say: Say) -> None:
    from study.execution.final_test import open_test

    for arm, seconds in unspent(plan, opened.ledger).items():
        say(
            f"note: {duration(seconds)} of {arm}'s share is left over: it made {allocation.CONFIRM_CEILING} confirmation runs, the "
            "most of any study"
        )
    first = "once" if plan.looks == 1 else "for the first of two looks"
    say(
        "opening the test set for the new nets ..."
        if opened.ledger.extension
        else f"opening the test set, {first}, for all arms together ..."
    )
    open_test(plan, opened.ledger, prepared.train, opened.run, opened.contents, keep_pictures=plan.pictures)


def _search_lines(plan: Plan, opened: Opened) -> list[str]:
    """How many full runs each search really had."""
    had = search_runs(plan, opened.ledger)
    runs = "; ".join(f"{arm} {', '.join(f'{r:.1f}' for r in own)}" for arm, own in had.items())
    warnings = filter(None, (shrunk(plan, opened.ledger), overspent(plan, opened.ledger)))
    return [f"full runs that each search had: {runs}", *(f"warning: {warning}" for warning in warnings)]


if __name__ == "__main__":
    sys.exit(main())
