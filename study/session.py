"""Opens the run of a request: claims and creates a new one, or fetches and checks one to be resumed.

The only place that looks for a run's folder, fetches a URI, reads a plan to go on with, and tidies up after a false start. It
refuses before anything takes time: no image is read and neither torch nor Ray is imported here.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import search_spaces
from search_spaces import Arm, Choice
from search_spaces._names import in_files, parse
from study import provenance
from study.cli import Request
from study.loggers import base
from study.protocol import consistency, looks
from study.protocol.budget import Budget
from study.protocol.errors import FinalError, InputError, LedgerError
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.protocol.question import Weights
from study.protocol.records import Cost, Extension, Session
from study.protocol.rundir import PLAN, RunDir, discard_partial, file_name, unnamed
from study.protocol.text import duration
from study.storage.fetch import check_new, has_study, home_of
from study.storage.objects import is_uri
from study.storage.sync import Mirror

if TYPE_CHECKING:
    from study.data.sealed import Prepared
    from study.data.weights import Chosen, Content, Start

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Opened:
    """A run in this process's hands, from its claim to its end."""

    request: Request
    place: RunDir
    """Where the run lies, or would lie if it were not only planned."""
    run: RunDir
    """Where this process writes."""
    ledger: Ledger
    mirror: Mirror | None
    arms: dict[str, Arm] = field(default_factory=dict)
    """Those of the plan, or of the request where there is none yet."""
    plan: Plan | None = None
    """None until ``begin``, for a new study."""
    extension: Extension | None = None
    """The requested second look."""
    added: Mapping[str, Arm] = field(default_factory=dict)
    """The arm to add to those of the plan."""
    starts: dict[str, "Start"] = field(default_factory=dict)
    """Of the arms that begin from weights."""
    session: Session | None = None
    """What the ledger will say of this process, once the images are known to be the same."""

    @property
    def weights(self) -> dict[str, Weights]:
        """What the plan says of them."""
        return {arm: start.record for arm, start in self.starts.items()}

    @property
    def contents(self) -> "dict[str, Content]":
        """What the trials get of them."""
        return {arm: start.content for arm, start in self.starts.items()}

    @property
    def answered(self) -> bool:
        """Whether the study is over and nothing was added: only its report is left to write."""
        return looks.finished(self.ledger) and not (self.extension or self.added)

    def begin(self, plan: Plan, prepared: "Prepared") -> None:
        """Freeze the plan of a new study."""
        self.plan = plan
        plan.save(self.run.plan)
        self._write_head(plan, prepared)

    def take_up(self, prepared: "Prepared", say: Say) -> None:
        """Go on where the ledger ends. Raises InputError when the images are not what they were."""
        plan, ledger = self.plan, self.ledger
        assert plan is not None and self.session is not None
        provenance.check_data(plan, prepared.card)
        if ledger.sessions and not self.added:
            ledger.add(self.session)
        self._write_head(plan, prepared)
        done = sum(o.state != "failed" for o in ledger.outcomes.values())
        say(
            f"going on: {done} trials are done, {len(ledger.open)} are taken up again, "
            f"{duration(sum(ledger.spent(arm) for arm in plan.arms))} of {plan.budget} are spent"
        )

    def extend(self, extension: Extension, prepared: "Prepared") -> None:
        """Enter the second look, or the added arm with the session that knows its files, in the ledger."""
        assert self.plan is not None and self.session is not None
        self.ledger.add(extension)
        if self.added:
            self.ledger.add(self.session)
        self.plan = self.plan.extended(extension)
        self.arms |= self.added
        self._list_seen(self.plan, prepared)
        self._book_probe(self.plan)

    def _write_head(self, plan: Plan, prepared: "Prepared") -> None:
        """Write the records that every study begins with, unless they are there."""
        prepared.seal(self.run.sealed)  # also once more: the images are known to be the same
        self._list_seen(plan, prepared)
        if not self.ledger.sessions:
            self.ledger.add(provenance.session(self.run, plan.arms, plan.recipe))
        self._book_probe(plan)

    def _list_seen(self, plan: Plan, prepared: "Prepared") -> None:
        from study.data.weights import write_seen

        write_seen(self.run.images, prepared, [self.starts[arm] for arm in plan.arms if arm in self.starts])

    def _book_probe(self, plan: Plan) -> None:
        for arm, cost in plan.probe_cost.items():
            if not self.ledger.spent(arm, "probe"):
                self.ledger.add(Cost(arm=arm, phase="probe", what="speed and memory", cost=cost))


def place_of(request: Request) -> RunDir:
    """The folder on this machine where the run is, or will be."""
    if request.uri:
        return RunDir(home_of(request.uri))
    if place := request.resume or request.out:
        return RunDir(Path(place))
    return RunDir(unnamed(file_name(request.data, otherwise="images")))


@contextmanager
def open_run(request: Request, place: RunDir, say: Say) -> Iterator[Opened]:
    """The run of ``request`` in the folder ``place``, closed and brought to its URI at the end.

    With ``--plan`` a folder of the moment takes its place. Raises InputError for what cannot be met, FinalError for a run that
    cannot be written or is damaged.
    """
    with ExitStack() as closing:
        run = place
        if request.plan:
            run = RunDir(Path(closing.enter_context(tempfile.TemporaryDirectory())))
        elif request.resume is None:
            _claim(request, place)
        else:
            _check_is_study(request.resume, place)
        closing.callback(run.discard_false_start)
        mirror = None
        if request.uri and not request.plan:
            mirror = closing.enter_context(Mirror(request.uri, say, goes_on=request.resume is not None))
        base.check(request.log)
        run.check_files()
        plan = Plan.load(run.plan) if request.resume is not None else None
        ledger = closing.enter_context(_ledger(run))
        if mirror:
            mirror.follow(ledger)
        opened = Opened(request=request, place=place, run=run, ledger=ledger, mirror=mirror)
        if plan:
            _check_resumed(opened, plan, say)
        else:
            _check_new(opened)
        yield opened


def _claim(request: Request, place: RunDir) -> None:
    if request.uri:
        try:
            check_new(request.uri)
        except InputError as error:
            raise InputError(f"--out: {error}") from error
    place.take()


def _check_is_study(resume: str, place: RunDir) -> None:
    """Raises InputError before anything is claimed or fetched for a run that is none."""
    try:
        known = has_study(resume) if is_uri(resume) else place.plan.is_file()
    except OSError as error:
        raise InputError(f"--resume {resume[:200]} cannot be read: {error.strerror}") from error
    if not known:
        raise InputError(
            f"--resume {resume}: there is no study in it (no {PLAN}); one that was killed while measuring has nothing to "
            "resume: start it again"
        )


@contextmanager
def _ledger(run: RunDir) -> Iterator[Ledger]:
    """Raises FinalError when another process writes it, or it is damaged."""
    try:
        ledger = Ledger(run.ledger)
    except LedgerError as error:
        raise FinalError(str(error)) from error
    with ledger:
        discard_partial(run.path)
        yield ledger


def _check_new(opened: Opened) -> None:
    """Load the arms, and settle the recipe. Raises InputError when ``--widen`` names what none of them has."""
    asked = opened.request
    recipe = asked.recipe or _usual_recipe(asked.arms)
    chosen = _chosen(asked.arms, recipe)
    opened.request = dataclasses.replace(asked, recipe=recipe)
    opened.arms = {it.name: it.arm for it in chosen}
    opened.starts = {it.name: it.start for it in chosen if it.start}
    spaces = [arm.space for arm in opened.arms.values()]
    numeric = {n for space in spaces for n, axis in space.items() if not isinstance(axis, Choice)}
    if unknown := [name for name in opened.request.widen if name not in numeric]:
        raise InputError(
            f"--widen {unknown[0]}: the arms' numeric parameters are {', '.join(sorted(numeric))}"
        )


def _check_resumed(opened: Opened, plan: Plan, say: Say) -> None:
    """Load the arms, and check what the request adds to the plan. Raises InputError or FinalError when it cannot be."""
    request, ledger, run = opened.request, opened.ledger, opened.run
    plan = plan.extended(ledger.extension)
    try:
        consistency.check(ledger, plan)
    except LedgerError as error:
        raise FinalError(str(error)) from error
    if request.budget:
        opened.extension = _second_look(plan, ledger, request.budget)
    asked = _chosen(request.arms, plan.recipe, plan.arms)
    new = _added_arm(plan, ledger, tuple(it.name for it in asked)) if asked else ()
    if ledger.torn:
        say(f"note: {ledger.torn}")
    opened.plan = plan
    if opened.answered and not new:
        return
    opened.session = _session(plan, (*plan.arms, *new), ledger, run, accept=request.accept_changed_code)
    opened.arms = {name: search_spaces.load(name, plan.recipe) for name in plan.arms}
    opened.added = {it.name: it.arm for it in asked if it.name in new}
    opened.starts = {it.name: it.start for it in asked if it.start and it.name in new}
    if plan.weights and (opened.extension or not looks.finished(ledger)):
        from study.data import weights

        opened.starts |= {arm: weights.again(arm, record) for arm, record in plan.weights.items()}


def _usual_recipe(typed: Sequence[str]) -> str:
    """That of these arms without their pins, which may be of its axes."""
    plain = [str(dataclasses.replace(parse(arm), pins=())) for arm in typed]
    return search_spaces.usual_recipe([search_spaces.load(arm) for arm in plain])


def _chosen(typed: Sequence[str], recipe: str, known: Sequence[str] = ()) -> "list[Chosen]":
    """The arms that were typed. Raises InputError if two are one, or one that is not ``known`` gives no file of its weights."""
    from study.data import weights

    found = [weights.chosen(arm, recipe) for arm in typed]
    if bare := [it.name for it in found if it.arm.weights and not it.start and it.name not in known]:
        arm = parse(bare[0])
        raise InputError(
            f"--arms {bare[0]}: {arm.weights} is what a report calls a file of weights; give the file itself: "
            f"{dataclasses.replace(arm, weights='FILE.safetensors')}"
        )
    names = [in_files(it.name) for it in found]
    if twice := [arm for arm, name in zip(typed, names, strict=True) if names.count(name) > 1]:
        raise InputError(f"--arms: {' and '.join(twice)} are the same arm")
    return found


def _second_look(plan: Plan, ledger: Ledger, budget: Budget) -> Extension | None:
    """None if this look was requested before and interrupted. Raises InputError."""
    known = ledger.extension
    if known and known.pairs and known.budget_seconds == budget.seconds and not looks.finished(ledger):
        return None
    return looks.second_look(plan, ledger, budget)


def _added_arm(plan: Plan, ledger: Ledger, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Empty if this arm was requested before and interrupted. Raises InputError."""
    known = ledger.extension
    if known and not known.pairs and set(asked) == set(plan.arms) and not looks.finished(ledger):
        return ()
    return (looks.added_arm(plan, ledger, asked),)


def _session(plan: Plan, arms: tuple[str, ...], ledger: Ledger, run: RunDir, *, accept: bool) -> Session:
    """Raises InputError when plan, code or versions are not what they were."""
    now = provenance.session(run, arms, plan.recipe)
    differs = provenance.differences(ledger, now) if ledger.sessions else ""
    if differs and not accept:
        raise InputError(
            f"the study began with other code or versions ({differs}), and its runs would not be comparable. Put "
            "them back, or go on with --accept-changed-code: the report will say so"
        )
    return dataclasses.replace(now, accepted=differs)
