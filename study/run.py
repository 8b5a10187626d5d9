"""The command: parse -> measure -> plan -> trials -> open the test -> report. Composition only."""

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until there is anything to end in order
    # else study/ itself would be on the path, and `import study` would fail
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from shlex import join, quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import search_spaces
from search_spaces import Arm, ArmError, Choice
from study import provenance
from study.cli import Options
from study.loggers import base
from study.protocol import allocation, consistency, looks
from study.protocol import ledger as ledgers
from study.protocol import plan as plans
from study.protocol.accounting import search_runs, shrunk, unspent
from study.protocol.budget import Budget, PlanError
from study.protocol.codec import plain
from study.protocol.history import History, LedgerError, NotOpenedError
from study.protocol.ledger import CLAIM, Ledger
from study.protocol.plan import Plan
from study.protocol.question import Audit, Packed, unmatched
from study.protocol.records import Cost, Extension, Record, Session, Tuning
from study.protocol.selection import GivenUpError, StudyError
from study.protocol.text import duration
from study.signals import Leaving, sturdy_output
from study.storage.sync import Mirror

if TYPE_CHECKING:
    from study.data.prepare import Prepared

DONE, BAD_INPUT, UNFINISHED = 0, 2, 3
LOG = "ray.log"
SEALED = "sealed_test.npz"
LEAVE_SECONDS = 2.0
"""So long slow tools may take when the study was asked to stop."""


def main(argv: list[str] | None = None) -> int:
    options = Options.parse(sys.argv[1:] if argv is None else argv)
    leaving = Leaving()
    leaving.listen()
    sturdy_output()
    console = Console(
        width=None if sys.stdout.isatty() else 120, soft_wrap=not sys.stdout.isatty(), highlight=False
    )
    for note in options.notes:
        console.print(f"note: {escape(note)}")
    with ExitStack() as cleanup:
        home = options.out
        if options.plan_only:
            home = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        try:
            with _mirrored(options, console) as mirror:
                _study(options, home, console, leaving, mirror)
        except (KeyboardInterrupt, SystemExit):  # SystemExit: Ray's answer to SIGTERM while it starts
            leaving.signal = leaving.signal or signal.SIGTERM
            console.print("stopped" if (home / plans.FILE).exists() else "stopped; nothing had begun")
        except Exception as error:
            code = _exit_code(error)
            if code is None:
                raise
            said = (
                f"{error.filename or home}: {error.strerror or error}"
                if isinstance(error, OSError)
                else error
            )
            Console(stderr=True, soft_wrap=True).print(f"error: {said}", markup=False, highlight=False)
            if code == UNFINISHED and not isinstance(error, GivenUpError | NotOpenedError):
                _say_how_to_go_on(options, home, console)
            return code
        finally:
            # no study is there: leave no trace
            if not (home / plans.FILE).exists() and not _has_records(home):
                for ours in (CLAIM, LOG, ledgers.FILE):
                    (home / ours).unlink(missing_ok=True)
                with suppress(OSError):
                    home.rmdir()
        if leaving.asked():
            _say_how_to_go_on(options, home, console)
            return leaving.exit_code
        return DONE


def _has_records(home: Path) -> bool:
    """Whether a ledger with anything in it is there: then it stays, though the plan beside it may be gone."""
    ledger = home / ledgers.FILE
    return ledger.exists() and ledger.stat().st_size > 0


def _mirrored(options: Options, console: Console) -> Mirror | nullcontext[None]:
    """Where the study is kept, beside its folder."""
    if options.uri is None or options.plan_only:
        return nullcontext()
    return Mirror(options.uri, lambda text: console.print(text, markup=False), goes_on=options.resume)


def _say_how_to_go_on(options: Options, home: Path, console: Console) -> None:
    if not (home / plans.FILE).exists():
        return
    words = ["--resume", options.uri or str(home)]
    for flag, value in (
        ("--address", options.address),
        ("--wait-for", options.wait_for),
        ("--log", ",".join(options.log)),
    ):
        words += [flag, str(value)] if value else []
    console.print(
        f"what was done is kept: python -m analysis {quote(str(home))} shows it\n"
        f"go on with: python study/run.py {join(words)}",
        markup=False,
    )


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that is the user's or the surroundings', None for a fault of ours."""
    if isinstance(error, ArmError | PlanError):
        return BAD_INPUT
    if isinstance(error, StudyError | LedgerError | OSError):
        return UNFINISHED
    from analysis.results import EvidenceError
    from study.data.images import DataError

    if isinstance(error, DataError):
        return BAD_INPUT
    return UNFINISHED if isinstance(error, EvidenceError) else None


def _study(options: Options, home: Path, console: Console, leaving: Leaving, mirror: Mirror | None) -> None:
    if options.resume:
        consistency.check_links(home)
    old = Plan.load(home / plans.FILE) if options.resume else None
    base.check(options.log)
    _need_gpu(old.budget if old else options.budget, options)

    with ExitStack() as closing:
        ledger = closing.enter_context(_open_ledger(home / ledgers.FILE, old))
        if mirror:
            mirror.follow(ledger)
        old = old and old.extended(ledger.extension)
        # whether it may go on at all is known before anything that takes time
        extension, new = _wanted(old, ledger, home, options) if old else (None, ())
        session = _session([*old.arms, *new], ledger, home, options, console) if old else None
        arms = {name: search_spaces.load(name) for name in (old.arms if old else options.arms)}
        more = {name: search_spaces.load(name) for name in new}
        _check_widen(options, arms)

        from study.execution import cluster, feasibility

        if options.address:
            cluster.knock(options.address)
        spec, seed = (old.data.spec, old.seed) if old else (options.data, options.seed)
        prepared = _prepare(spec, seed, console)
        if not old and options.budget.resource == "cpu" and not options.address:
            feasibility.check(
                arms,
                prepared.card,
                options.budget,
                epochs=options.epochs,
                train_fraction=options.train_fraction,
            )
        if old and session:
            _take_up(old, ledger, session, prepared, home, console)

        dashboard = cluster.connect(options.address, home / LOG)
        closing.callback(cluster.disconnect)
        leaving.listen()
        console.print(
            f"Ray dashboard: {dashboard} (it asks for the token that `ray get-auth-token` prints)"
            if dashboard
            else "no Ray dashboard: this Ray has none (pip install 'ray[default]')",
            markup=False,
        )
        if options.wait_for:
            console.print(
                f"waiting until the cluster has {options.wait_for} {options.budget.resource.upper()}s ..."
            )
            cluster.wait_for(options.wait_for, options.budget.resource)
        if old:
            cluster.check(old.machine)
            plan = _go_on(old, options, extension, more, prepared, ledger, console)
            arms |= more
        else:
            plan = _plan(options, arms, prepared, console)
            _show(plan, console)
            if options.plan_only:
                return
            plan.save(home / plans.FILE)
            _begin(plan, ledger, prepared, home)
        opened = _open_windows(options, plan, ledger, home, console)
        closing.callback(lambda: opened.close(LEAVE_SECONDS if leaving.asked() else base.CLOSE_SECONDS))
        _run(plan, arms, prepared, ledger, home, console, leaving, mirror)
        if leaving.asked():
            return
    from analysis.report import build

    written = build.write(home)
    told = [*_told_searches(plan, ledger), *written.told, f"report: {written.path}"]
    console.print("\n".join(["", *told]), markup=False)


def _go_on(
    plan: Plan,
    options: Options,
    extension: Extension | None,
    added: Mapping[str, Arm],
    prepared: "Prepared",
    ledger: Ledger,
    console: Console,
) -> Plan:
    """The plan of what goes on: as it was, or with the second look or the arm that is asked for, now in the ledger."""
    if added:
        extension = _add_arm(plan, options, added, prepared, console)
    if extension is None:
        return plan
    ledger.add(extension)
    plan = plan.extended(extension)
    _book_probe(plan, ledger)
    console.print(_told_extension(plan, extension), markup=False)
    return plan


@contextmanager
def _open_ledger(path: Path, plan: Plan | None) -> Iterator[Ledger]:
    """Raises NotOpenedError when another process writes it, or it is damaged or of another plan."""
    with ExitStack() as closing:
        try:
            ledger = closing.enter_context(Ledger(path))
            if plan:
                consistency.check(ledger, plan.extended(ledger.extension))
        except LedgerError as error:
            raise NotOpenedError(str(error)) from error
        yield ledger


def _prepare(spec: str, seed: int, console: Console) -> "Prepared":
    from study.data import prepare

    console.print("reading the images ...")
    prepared = prepare.prepare(spec, seed=seed, root=Path("data"))
    card = prepared.card
    console.print(
        f"data: {card.spec}, {card.train} images to train and validate on, {card.test} sealed for the test, "
        f"{len(card.classes)} classes, {card.size} x {card.size} pixels. {card.note}",
        markup=False,
    )
    if prepared.kept:
        console.print(prepared.kept, markup=False)
    return prepared


def _need_gpu(budget: Budget, options: Options) -> None:
    if budget.resource != "gpu" or options.address:
        return
    import torch

    if not torch.cuda.is_available():
        cpu = Budget(seconds=budget.seconds, resource="cpu")
        raise PlanError(
            f"a budget of {budget} needs a GPU, and this machine has none that torch can use. "
            f"On the CPU this works: python study/run.py --budget 20cpu-minutes --data digits "
            f"(or --budget {cpu} with --data {options.data}); a cluster's GPUs: --address HOST:PORT"
        )


def _plan(options: Options, arms: Mapping[str, Arm], prepared: "Prepared", console: Console) -> Plan:
    """Measure the arms and freeze the question. Raises PlanError when the budget is too small for it."""
    from study.data.prepare import split_for
    from study.execution import feasibility, profile
    from study.scheduling.spaces import describe, searched

    console.print("measuring the arms ...")
    survey = profile.survey(
        arms,
        prepared.card,
        options.budget,
        fraction=options.fraction,
        pool=prepared.train,
        train_images=round(options.train_fraction * (1 - allocation.VAL_SHARE[1]) * prepared.card.train),
        check=functools.partial(
            feasibility.check,
            arms,
            prepared.card,
            options.budget,
            epochs=options.epochs,
            train_fraction=options.train_fraction,
        ),
    )
    _show_audit(survey.audits, console)
    _show_packing(survey.packing, survey.notes, console)
    plan = Plan(
        arms=options.arms,
        data=prepared.card,
        budget=options.budget,
        epochs=options.epochs or allocation.EPOCHS[0],
        rope=options.rope,
        seed=options.seed,
        train_fraction=options.train_fraction,
        widen=options.widen,
        spaces={
            name: describe(searched(arm.space, survey.batch_sizes, options.widen))
            for name, arm in arms.items()
        },
        batch_sizes=survey.batch_sizes,
        audits=survey.audits,
        machine=survey.machine,
        probe_cost=survey.cost,
        command=options.command,
        versions=provenance.versions(),
        code=provenance.code_hash(options.arms),
        packing=survey.packing,
        packing_notes=survey.notes,
        looks=options.looks,
        earlier=looks.earlier_studies(options.out.parent, options.out.name, prepared.test_source),
        test_source=prepared.test_source,
    )
    plan = allocation.with_length(plan, options.epochs)
    split_for(plan, prepared.train.labels, fold=0)  # raises now what would be every trial's end
    return plan


def _check_widen(options: Options, arms: Mapping[str, Arm]) -> None:
    numeric = {n for arm in arms.values() for n, axis in arm.space.items() if not isinstance(axis, Choice)}
    unknown = [name for name in options.widen if name not in numeric]
    if unknown:
        raise PlanError(
            f"--widen {unknown[0]}: the arms' numeric parameters are {', '.join(sorted(numeric))}"
        )


def _begin(plan: Plan, ledger: Ledger, prepared: "Prepared", home: Path) -> None:
    """Write what a study begins with, as far as it is not there."""
    prepared.seal(home / SEALED)  # also once more: the images are known to be the same
    if not ledger.sessions:
        ledger.add(provenance.session(home, plan.arms))
    _book_probe(plan, ledger)


def _book_probe(plan: Plan, ledger: Ledger) -> None:
    """What measuring the arms has cost, where it is not booked."""
    for arm, cost in plan.probe_cost.items():
        if not ledger.spent(arm, "probe"):
            ledger.add(Cost(arm=arm, phase="probe", what="speed and memory", cost=cost))


def _open_windows(options: Options, plan: Plan, ledger: Ledger, home: Path, console: Console) -> base.Windows:
    """Ray's metrics always, the tools that were asked for; from now on each record reaches them."""
    shown: list[base.Window] = [base.RayMetrics(plan, home.resolve().name)]
    for name in options.log:
        try:
            shown.append(base.window(name, plan, home))
        except Exception as error:  # noqa: BLE001  # a tool that is down takes nothing from the study
            console.print(f"note: --log {name} is left out: {base.failed(name, error)}", markup=False)
    opened = base.Windows(home / ledgers.FILE, shown)
    ledger.watchers.append(opened.add)
    return opened


def _wanted(
    plan: Plan, ledger: Ledger, home: Path, options: Options
) -> tuple[Extension | None, tuple[str, ...]]:
    """The second look that ``--budget`` asks for, or the arm that ``--arms`` adds. Raises PlanError."""
    known = ledger.extension
    if options.more is not None:
        if (
            known
            and known.pairs
            and known.budget_seconds == options.more.seconds
            and not looks.finished(ledger)
        ):
            return None, ()  # it was asked for and interrupted
        return looks.second_look(plan, ledger, home, options.more), ()
    if options.with_arms:
        if (
            known
            and not known.pairs
            and set(options.with_arms) == set(plan.arms)
            and not looks.finished(ledger)
        ):
            return None, ()
        return None, (looks.added_arm(plan, ledger, options.with_arms),)
    return None, ()


def _add_arm(
    plan: Plan, options: Options, added: Mapping[str, Arm], prepared: "Prepared", console: Console
) -> Extension:
    """Measure the arm as it will train: as the others do. Raises PlanError when the study's protocol does not fit it."""
    from study.execution import profile
    from study.scheduling.spaces import describe, searched

    (name,) = added
    instead = f"Instead: a new study of all of them, --arms {','.join((*plan.arms, name))} --budget " + str(
        Budget(seconds=plan.share * (len(plan.arms) + 1), resource=plan.budget.resource)
    )
    console.print(f"measuring {name} ...", markup=False)
    share = Budget(seconds=plan.share, resource=plan.budget.resource)
    survey = profile.survey(added, prepared.card, share, fraction=plan.machine.fraction, pool=prepared.train)
    _show_audit({**plan.audits, **survey.audits}, console)
    one, other = (
        (m.resource, m.fraction, m.threads, m.kind) for m in (plan.machine, survey.machine)
    )  # fmt: skip
    if one != other:
        raise PlanError(
            f"{name} would run on {survey.machine.name}, and the others ran on {plan.machine.name}: what they cost would not "
            f"compare. {instead}"
        )
    if missing := sorted(set(plan.batch_sizes) - set(survey.batch_sizes)):
        raise PlanError(
            f"{name} cannot train with batches of {missing[-1]}, which the others' searches had. {instead}"
        )
    extension = Extension(
        look=2,
        budget_seconds=plan.share * (len(plan.arms) + 1),
        arms=(name,),
        pairs=0,
        level=looks.ADDED,
        declared=False,
        reason=f"--arms {','.join(options.with_arms)} after {','.join(plan.arms)}",
        plan=plain(
            {
                "audits": {arm: dataclasses.asdict(audit) for arm, audit in survey.audits.items()},
                "spaces": {
                    arm: describe(searched(it.space, plan.batch_sizes, plan.widen))
                    for arm, it in added.items()
                },
                "probe_cost": survey.cost,
            }
        ),
    )
    try:
        extended = plan.extended(extension)
    except PlanError as error:
        raise PlanError(
            f"{name} cannot be added: a full run of it costs so much more that the share of {duration(plan.share)} which the "
            f"others had is divided otherwise ({error}). {instead}"
        ) from error
    if allocation.tuning_runs(extended) + extended.pairs < allocation.TUNING_RUNS_FLOOR:
        raise PlanError(
            f"{name} cannot be added: the share of {duration(plan.share)} that the others had leaves it "
            f"{max(0.0, allocation.tuning_runs(extended)):.1f} full runs of search, and fewer than {allocation.TUNING_RUNS_FLOOR} say little. "
            f"{instead}"
        )
    return extension


def _told_extension(plan: Plan, extension: Extension) -> str:
    if extension.pairs:
        return looks.describe_second_look(plan, extension)
    others = [arm for arm in plan.arms if arm not in extension.arms]
    return (
        f"{extension.arms[0]} is added: {plan.pairs} searches on the folds and with the share of {duration(plan.share)} that "
        f"{', '.join(others)} had. Its pairs of arms share an error of {100 * extension.level:g} %; all pairs together have "
        f"{100 * (looks.LEVEL + extension.level):g} %"
    )


def _session(arms: Sequence[str], ledger: Ledger, home: Path, options: Options, console: Console) -> Session:
    """What goes on with the study. Raises PlanError when plan or code are not what they were."""
    if ledger.torn:
        console.print(f"note: {ledger.torn}", markup=False)
    now = provenance.session(home, arms)
    differs = provenance.differences(ledger, now) if ledger.sessions else ""
    if differs and not options.accept_changed_code:
        raise PlanError(
            f"the study began with other code or versions ({differs}), and its runs would not be comparable. Put "
            "them back, or go on with --accept-changed-code: the report will say so"
        )
    return dataclasses.replace(now, accepted=differs)


def _take_up(
    plan: Plan, ledger: Ledger, session: Session, prepared: "Prepared", home: Path, console: Console
) -> None:
    """Go on where the ledger ends. Raises PlanError when the data is not what it was."""
    provenance.check_data(plan, prepared.card)
    if ledger.sessions:
        ledger.add(session)
    _begin(plan, ledger, prepared, home)
    done = sum(o.state != "failed" for o in ledger.outcomes.values())
    console.print(
        f"going on: {done} trials are done, {len(ledger.open)} are taken up again, "
        f"{duration(sum(ledger.spent(arm) for arm in plan.arms))} of {plan.budget} are spent",
        markup=False,
    )


def _run(
    plan: Plan,
    arms: Mapping[str, Arm],
    prepared: "Prepared",
    ledger: Ledger,
    home: Path,
    console: Console,
    leaving: Leaving,
    mirror: Mirror | None,
) -> None:
    from study.execution.final_test import open_test
    from study.execution.tune import run_trials
    from study.progress import View
    from study.scheduling.schedule import Schedule

    def tell(record: Record) -> None:
        if isinstance(record, Tuning) and (warning := shrunk(plan, ledger)):
            console.print(f"note: {warning}", markup=False)

    ledger.watchers.append(tell)
    schedule = Schedule(plan, ledger, arms)
    with View(schedule, console) as view, leaving.gently():
        run_trials(
            schedule, prepared.train, home, view.tick,
            lambda: leaving.asked() or bool(mirror and mirror.lost),
            say=lambda text: console.print(f"note: {text}", markup=False), mirror=mirror,
        )  # fmt: skip
    if mirror:
        mirror.sync()  # what is to be tested lies there before the test is opened
        mirror.check()
    if leaving.asked():
        return
    for arm, seconds in unspent(plan, ledger).items():
        console.print(
            f"note: {duration(seconds)} of {arm}'s share is left over: it made {allocation.CONFIRM_CEILING} confirmation "
            "runs, the most of any study"
        )
    if ledger.extension is None:
        console.print("opening the test set, once, for all arms together ...")
    else:
        console.print("opening the test set for the new nets ...")
    open_test(plan, ledger, prepared.train, home / SEALED, home)


def _show_audit(audits: Mapping[str, Audit], console: Console) -> None:
    table = Table(title="complexity audit (default settings)")
    for column in ("arm", "parameters", "MACs per image", "images/s training", "peak memory"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, audit in audits.items():
        table.add_row(
            arm,
            f"{audit.params / 1e6:.2f} M",
            f"{audit.macs / 1e6:.1f} M",
            f"{audit.images_per_second:.0f}",
            f"{audit.peak_bytes / 2**30:.1f} GiB",
        )
    console.print(table)
    warning = unmatched(audits)
    if warning:
        console.print(f"warning: {warning}", markup=False)


def _show_packing(packing: Sequence[Packed], notes: Sequence[str], console: Console) -> None:
    table = Table(title="packing: how many trials side by side")
    for column in (
        "arm",
        "trials",
        "of each",
        "threads",
        "batch",
        "layout",
        "images/s of all",
        "peak memory",
    ):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for row in packing:
        table.add_row(
            row.arm,
            str(row.trials),
            f"{row.fraction:g}",
            str(row.threads),
            str(row.batch_size),
            "channels_last" if row.channels_last else "contiguous",
            f"{row.images_per_second:.0f}",
            f"{row.peak_bytes / 2**30:.1f} GiB",
        )
    console.print(table)
    console.print(" ".join(notes), markup=False)


def _show(plan: Plan, console: Console) -> None:
    from analysis import power

    wall = plan.budget.seconds / (plan.machine.slots * plan.machine.fraction)
    runs = ", ".join(f"{arm} {duration(allocation.full_run(plan, arm))}" for arm in plan.arms)
    rungs = ", ".join(map(str, plan.rungs)) or "none"
    console.print(
        f"plan: {' against '.join(plan.arms)} for {plan.budget}, about {duration(wall)} of wall time, "
        f"{plan.machine.slots} trials side by side ({plan.machine.name})\n"
        f"  each arm gets {duration(plan.share)} of {plan.machine.resource} time = {allocation.full_runs(plan):.1f} full runs "
        f"of {plan.epochs} epochs ({runs} each)\n"
        f"  {_told_pairs(plan)} (ASHA decides at epochs {rungs}), {plan.folds} for the default setting on "
        f"{plan.folds} folds of {plan.val_images} images to validate on, {allocation.select_runs(plan)} for selection, "
        f"{allocation.confirm_reserved(plan)} or more for confirmation, if costs hold\n  "
        + "\n  ".join([power.promise(plan), *power.price(plan)]),
        markup=False,
    )
    if told := looks.describe_earlier(plan):
        console.print(f"note: {told}", markup=False)


def _told_searches(plan: Plan, history: History) -> list[str]:
    """How many full runs each search really had."""
    had = search_runs(plan, history)
    runs = "; ".join(f"{arm} {', '.join(f'{r:.1f}' for r in own)}" for arm, own in had.items())
    warning = shrunk(plan, history)
    return [f"full runs that each search had: {runs}", *([f"warning: {warning}"] if warning else [])]


def _told_pairs(plan: Plan) -> str:
    """What the searches get, and what they can be the ground for."""
    each = allocation.tuning_runs(plan) / plan.pairs
    if plan.pairs == 1:
        return (
            f"of these about {each:.1f} for one search per arm, too few for a verdict on architectures: only on the nets "
            f"that it finds. From --budget {allocation.budget_for_pairs(plan, 3)} --epochs {plan.epochs} there are three pairs of searches"
        )
    return f"of these about {allocation.tuning_runs(plan):.1f} for {plan.pairs} pairs of searches, {each:.1f} for each search"


if __name__ == "__main__":
    sys.exit(main())
