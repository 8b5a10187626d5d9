"""What runs next, and when a running trial stops: decided from the plan and the ledger alone.

Per arm the phases follow one another: baseline -> random settings and searches -> selection -> confirmation. Search i of
every arm is a pair: the same fold, rungs, share and first random proposals (METHOD.md 3). The next trial goes to the
arm that has spent least, after the search to the one that has most left to do. An extension of a finished study adds
further pairs, or an arm, which then go the same way. Knows no Ray: anything that starts trials and reports back can drive it.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from search_spaces import Arm, Config, default
from study.protocol import plan as plans
from study.protocol import selection
from study.protocol.errors import FinalError, StudyError
from study.protocol.ledger import Ledger
from study.protocol.plan import MARGIN, Plan
from study.protocol.records import Beat, Choice, Epoch, Manifest, Outcome, Phase, Resumed, Trial, Tuning
from study.protocol.settings import SETTINGS
from study.protocol.validation import Reader, reader
from study.scheduling.sampler import ArmSearch, known, random_config, searched


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all parts, distinct for distinct parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


LossKind = Literal["worker died", "hang", "out of memory"]
HOPELESS = 8
"""So many failed trials of an arm, and not one that lasted: it is given up before it burns its budget."""
LOSSES = 3
"""So many times a trial may lose its worker without one more epoch in between."""
HANGS = 2
"""So many times a trial may fall silent: the second time it is the trial's own doing."""
SILENCE_EPOCHS = 5
"""Epochs' worth of silence after which a trial counts as hanging; it reports every few seconds."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A trial to start now, from its beginning or from its checkpoint."""

    trial: Trial
    epochs: int
    """How many of its epochs the ledger has."""
    again: bool
    fraction: float
    """Of a GPU, or CPU cores, that it holds."""


@dataclass
class _Hold:
    """What a running trial holds: ``base`` resource-seconds before ``since``."""

    since: float
    """``math.inf`` while it waits for its machine."""
    base: float
    fraction: float
    reason: str = ""
    """Why it had to be taken up again, until its worker says from where."""


class Schedule:
    """The study's decisions. Whoever runs the trials asks ``next`` and tells ``report`` and ``end``."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        arms: Mapping[str, Arm],
        *,
        clock: Callable[[], float] = time.monotonic,
        correct: Reader | None = None,
    ) -> None:
        """Takes up the study where the ledger ends. ``correct`` has what the runs got right on their validation
        images; without it, the files beside the ledger."""
        self.plan = plan
        self.ledger = ledger
        self._clock = clock
        self._held: dict[str, _Hold] = {}
        self._losses: dict[str, list[tuple[int, str]]] = {}
        self._beat = clock()
        self.spaces = {name: searched(arm.space, plan.batch_sizes, plan.widen) for name, arm in arms.items()}
        self.defaults = {name: default(space) for name, space in self.spaces.items()}
        self._correct = correct or reader(ledger.run)
        extension = ledger.extension
        self._further = range(plan.pairs, plan.pairs + extension.pairs) if extension else range(0)
        self._searches = {
            (name, pair): ArmSearch(
                space, plan.rungs, seed=derive_seed(plan.seed, "sampler", pair), known=known(space)
            )
            for name, space in self.spaces.items()
            for pair in [*range(plan.pairs), *self._further]
        }
        for phase in ("baseline", "search"):
            for trial in ledger.trials.values():
                if trial.phase == phase and (phase == "search" or trial.id in ledger.outcomes):
                    self._restore(trial)
        self._found: dict[tuple[str, int], Config | None] = {}
        self._again: dict[str, tuple[float, str]] = {}
        """Trials to take up again: what they shall hold, and why."""
        for trial in ledger.open:
            epochs = ledger.epochs[trial.id]
            if epochs and (epochs[-1].stop or len(epochs) == trial.epochs):
                self._book_end(trial, "", ledger.booked[trial.id])  # only the word was missing
            else:
                self._again[trial.id] = (ledger.fraction(trial.id, plan), "study interrupted")

    def _restore(self, trial: Trial) -> None:
        """Let the trial's search know of it; the default's, every search that has its fold."""
        outcome = self.ledger.outcomes.get(trial.id)
        pairs = [p for a, p in self._searches if a == trial.arm and self.plan.search_fold(p) == trial.fold]
        for pair in pairs if trial.phase == "baseline" else [trial.pair]:
            try:
                self._searches[trial.arm, pair].restore(trial, self.ledger.epochs[trial.id], outcome)
            except (KeyError, ValueError) as error:
                raise StudyError(
                    f"trial {trial.id} has a setting that the search of {trial.arm} does not have: {error}"
                ) from error

    # -- what runs next

    def next(self) -> Start | None:
        """The next trial, now held and in the ledger; None while there is nothing to start.

        Raises FinalError when there is no way to finish.
        """
        if self._again:
            return self._take_up(next(iter(self._again)))
        if not self._fits(self.plan.machine.fraction):
            return None
        self._advance()
        for arm in sorted(self._arms, key=self._turn):
            trial = self._next_of(arm)
            if trial is not None:
                self.ledger.add(trial)
                fraction = self.plan.machine.fraction
                self._held[trial.id] = _Hold(since=self._clock(), base=0.0, fraction=fraction)
                return Start(trial=trial, epochs=0, again=False, fraction=fraction)
        return None

    def _take_up(self, trial_id: str) -> Start | None:
        fraction, reason = self._again[trial_id]
        if not self._fits(fraction):
            return None  # what runs makes room for it
        del self._again[trial_id]
        booked = self.ledger.booked[trial_id]
        self._held[trial_id] = _Hold(since=self._clock(), base=booked, fraction=fraction, reason=reason)
        epochs = len(self.ledger.epochs[trial_id])
        return Start(trial=self.ledger.trials[trial_id], epochs=epochs, again=True, fraction=fraction)

    def _fits(self, fraction: float) -> bool:
        machine = self.plan.machine
        used = sum(machine.slots_of(hold.fraction) for hold in self._held.values())
        return used + machine.slots_of(fraction) <= machine.slots

    @property
    def done(self) -> bool:
        """Whether every confirmation run of the last look has ended."""
        return not self._pending and not any(
            self.ledger.running(arm, "confirm") or self._next_confirmed(arm) for arm in self._arms
        )

    @property
    def _pending(self) -> bool:
        """Whether a manifest is still to come: of the first look, or of the one that an extension asks for."""
        return len(self.ledger.manifests) < (2 if self.ledger.extension else 1)

    @property
    def _in_extension(self) -> bool:
        return self.ledger.extension is not None and bool(self.ledger.manifests)

    @property
    def _arms(self) -> tuple[str, ...]:
        """The arms of the look that is being worked for."""
        extension = self.ledger.extension
        if extension is None:
            return self.plan.arms
        if self._in_extension:
            return extension.arms
        added = () if extension.pairs else extension.arms
        return tuple(arm for arm in self.plan.arms if arm not in added)

    @property
    def _pairs(self) -> range:
        """The pairs of searches of the look that is being worked for."""
        return self._further if self._in_extension and self._further else range(self.plan.pairs)

    def _next_of(self, arm: str) -> Trial | None:
        ledger, plan = self.ledger, self.plan
        failed = ledger.ends[arm, "failed"]
        if failed >= HOPELESS and not ledger.ends[arm, "finished"] + ledger.ends[arm, "stopped"]:
            last = next(o for o in reversed(ledger.outcomes.values()) if ledger.trials[o.trial].arm == arm)
            raise FinalError(
                f"arm {arm} is given up: all of its {failed} trials failed, the latest by {last.reason!r}. "
                "Mend or leave out this arm, and start a new study"
            )
        if (run := len(ledger.of(arm, "baseline"))) < plan.folds:
            return self._trial(arm, "baseline", self.defaults[arm], fold=run)
        if not self._pending:
            if (choice := self._next_confirmed(arm)) is None:
                return None
            fold = plan.confirm_fold(choice.pair, len(ledger.confirmed(arm, choice.pair)))
            return self._trial(arm, "confirm", choice.config, pair=choice.pair, fold=fold)
        if self._tuned(arm) and len(ledger.of(arm, "slice")) < self._slice_runs:
            return self._trial(arm, "slice", self._random(arm, len(ledger.of(arm, "slice"))), fold=0)
        pair = self._open_pair(arm)
        if pair is not None:
            trial = self._trial(arm, "search", {}, pair=pair, fold=plan.search_fold(pair))
            return dataclasses.replace(trial, config=self._searches[arm, pair].ask(trial.id))
        due = self._next_selection(arm) if self._searched(arm) else None
        if due is None:
            return None
        config = self._finds(arm)[due[0]]
        assert config is not None
        return self._trial(arm, "select", config, pair=due[0], fold=due[1])

    def _trial(self, arm: str, phase: Phase, config: Config, *, fold: int, pair: int = 0) -> Trial:
        index = len(self.ledger.of(arm, phase))
        return Trial(
            id=f"{arm}-{phase}-{index:04d}",
            arm=arm,
            phase=phase,
            index=index,
            pair=pair,
            config=config,
            seed=derive_seed(self.plan.seed, "run", arm, phase, index),
            fold=fold,
            epochs=self.plan.epochs,
        )

    def _random(self, arm: str, index: int) -> Config:
        """Random config number ``index``: the arms' shared axes have the same values in it."""
        return random_config(self.spaces[arm], seed=derive_seed(self.plan.seed, "slice", index))

    def _tuned(self, arm: str) -> bool:
        """Whether the arm's tuning share is fixed."""
        return self.ledger.tuning is not None and arm in self.ledger.tuning.full_run

    @property
    def _slice_runs(self) -> int:
        return self.ledger.tuning.slice_runs if self.ledger.tuning else 0

    def _open_pair(self, arm: str) -> int | None:
        """The search that has spent least, if its share still pays for the first rung of one more trial.

        A search begins when the default's run on its fold has ended, which is its first trial.
        """
        ledger = self.ledger
        ended = {t.fold for t in ledger.of(arm, "baseline") if t.id in ledger.outcomes}
        ready = [pair for pair in self._pairs if self.plan.search_fold(pair) in ended]
        if not ready:
            return None
        pair = min(
            ready,
            # to the millisecond: where two are even, a rounding error must not choose
            key=lambda p: round(self.spent_now(arm, "search", pair=p) + self._held_in(arm, p), 3),
        )
        if not self._tuned(arm):
            return pair
        assert ledger.tuning is not None
        first = (self.plan.rungs or (self.plan.epochs,))[0]
        rung_cost = ledger.tuning.full_run[arm] * first / self.plan.epochs
        open_trials = sum(t.pair == pair for t in ledger.running(arm, "search"))
        return pair if self._left_of(arm, pair) >= (1 + open_trials) * rung_cost else None

    def _left_of(self, arm: str, pair: int) -> float:
        """What the search may yet spend: of its own share, and of the look's, which others may have overdrawn."""
        own = self._pair_share(arm)
        spent = {p: self.spent_now(arm, "search", pair=p) for p in self._pairs}
        return min(own - spent[pair], own * len(self._pairs) - sum(spent.values()))

    def _pair_share(self, arm: str) -> float:
        """What one search of the arm may spend: an equal part of what the random settings leave."""
        tuning = self.ledger.tuning
        if tuning is None or not self._tuned(arm):
            return math.inf
        running = self.ledger.running(arm, "slice")
        done = self.ledger.spent(arm, "slice") - sum(self.ledger.booked[t.id] for t in running)
        to_come = tuning.slice_runs - len(self.ledger.of(arm, "slice")) + len(running)
        return max(0.0, tuning.per_arm - done - to_come * tuning.full_run[arm]) / self.plan.pairs

    def _searched(self, arm: str) -> bool:
        """Whether random settings and searches of the arm are over."""
        ledger = self.ledger
        return (
            self._tuned(arm)
            and self._ended(arm, "slice", self._slice_runs)
            and not ledger.running(arm, "search")
            and self._open_pair(arm) is None
        )

    def _next_confirmed(self, arm: str) -> Choice | None:
        """The find whose next confirmation run is due and paid for: the one with fewest; cost alone decides, no score.

        The net in hand is the first of those that have equally many, since it has the first of what is over.
        """
        ledger, plan = self.ledger, self.plan
        hand = ledger.in_hand(arm)
        due = []
        for choice in ledger.choices(arm):
            runs = len(ledger.confirmed(arm, choice.pair))
            if choice.pair in self._pairs and runs < choice.runs:
                floor = selection.runs_floor(plan, hand=choice.pair == hand)
                due.append((runs >= floor, runs, choice.pair != hand, choice.pair, choice))
        if not due:
            return None
        beyond_floor, *_, choice = min(due, key=lambda d: d[:-1])
        if not beyond_floor:
            return choice
        cost = selection.run_cost(plan, ledger, arm, choice)
        running = [t.id for t in ledger.running(arm, "confirm") if t.id in self._held]
        open_cost = sum(max(0.0, cost - self.held(t)) for t in running)
        left = selection.left(plan, ledger, arm, spent=self.spent_now(arm)) - open_cost
        return choice if left >= cost else None

    def _advance(self) -> None:
        """Write down what has become known: the tuning share, then the manifest."""
        ledger, plan, arms = self.ledger, self.plan, self._arms
        baseline = all(self._ended(arm, "baseline", plan.folds) for arm in arms)
        if baseline and not all(self._tuned(arm) for arm in arms):
            full_run = {arm: self._full_run(arm) for arm in arms}
            if ledger.tuning is not None:  # an added arm gets what the others got
                before = ledger.tuning
                ledger.add(dataclasses.replace(before, full_run={**before.full_run, **full_run}))
            else:
                per_arm = max(0.0, min(self._search_share(arm, full_run[arm]) for arm in arms))
                slice_runs = plans.slice_runs(per_arm / max(full_run.values()))
                ledger.add(Tuning(per_arm=per_arm, slice_runs=slice_runs, full_run=full_run))
        if self._pending and all(self._selected(arm) for arm in arms):
            ledger.add(self._manifest())

    def _search_share(self, arm: str, full_run: float) -> float:
        """What baseline, selection and confirmation leave of the arm's share."""
        plan, ledger = self.plan, self.ledger
        reserved = plan.select_runs + plan.confirm_reserved
        return (
            plan.share
            - ledger.spent(arm, "probe", "baseline")
            - selection.startup(plan, ledger, arm)
            - plan.folds * plan.test_cost(arm)
            - MARGIN * reserved * (full_run + plan.test_cost(arm))
        )

    def _manifest(self) -> Manifest:
        """What the look's searches found, and the net in hand among all pairs so far."""
        plan, ledger = self.plan, self.ledger
        choices, hands = {}, {}
        for arm in self._arms:
            new = [selection.choose(plan, ledger, arm, pair, self._correct) for pair in self._pairs]
            hands[arm] = selection.in_hand([*ledger.choices(arm), *new])
            choices[arm] = selection.settle(plan, ledger, arm, new, hands[arm])
        return Manifest.of(choices, hands, look=len(ledger.manifests) + 1)

    def _selected(self, arm: str) -> bool:
        """Whether the arm's selection is over: no run of it is open or due."""
        return (
            self._searched(arm)
            and not self.ledger.running(arm, "select")
            and self._next_selection(arm) is None
        )

    def _next_selection(self, arm: str) -> tuple[int, int] | None:
        return selection.next_selection(self.plan, self.ledger, arm, self._finds(arm))

    def _finds(self, arm: str) -> dict[int, Config | None]:
        """What each search found: known, and the same from then on, once the arm's searches are over."""
        for pair in self._pairs:
            if (arm, pair) not in self._found:
                self._found[arm, pair] = selection.find(self.plan, self.ledger, arm, pair)
        return {pair: self._found[arm, pair] for pair in self._pairs}

    def _ended(self, arm: str, phase: Phase, runs: int) -> bool:
        return len(self.ledger.of(arm, phase)) == runs and not self.ledger.running(arm, phase)

    def _full_run(self, arm: str) -> float:
        """Measured cost of one run on a worker that is up: mean of the baseline runs' epochs + least overhead."""
        runs = self.ledger.full_length(arm, "baseline")
        if not runs:  # every one failed: what the probe measured is all there is
            return self.plan.epochs * self.plan.epoch_cost(arm)
        epochs = [selection.trained(self.plan, self.ledger, t) for t in runs]
        return sum(epochs) / len(epochs) + min(selection.overhead(self.plan, self.ledger, t) for t in runs)

    # -- what the runner tells

    def report(self, epoch: Epoch) -> bool:
        """Book an epoch at what its trial has held until now; False when the trial must stop here."""
        trial = self.ledger.trials[epoch.trial]
        epoch = dataclasses.replace(epoch, cost=self.held(trial.id))
        if trial.phase == "search":
            passed = self._searches[trial.arm, trial.pair].report(epoch)
            if epoch.epoch < trial.epochs:
                epoch = dataclasses.replace(epoch, stop=self._why_stop(trial, epoch, passed=passed))
        self.ledger.add(epoch)
        return not epoch.stop

    def _why_stop(self, trial: Trial, epoch: Epoch, *, passed: bool) -> str:
        if not passed:
            return f"asha: below the best third at epoch {epoch.epoch}"
        if self._left_of(trial.arm, trial.pair) <= 0:
            return f"budget: the search share was spent at epoch {epoch.epoch}"
        return ""

    def waits(self, trial_id: str) -> None:
        """The trial has no machine yet: it holds nothing, and pays nothing, until it is ``granted`` one."""
        self._held[trial_id].since = math.inf

    def granted(self, trial_id: str) -> None:
        """The trial has its machine; from now on it pays. Nothing changes for one that had it before."""
        hold = self._held[trial_id]
        hold.since = min(hold.since, self._clock())

    def resumed(self, trial_id: str, epoch: int, seconds: float) -> None:
        """Book from where a trial went on: ``seconds`` of training after the end of ``epoch``."""
        hold, epochs = self._held[trial_id], self.ledger.epochs[trial_id]
        counts = (epochs[epoch - 1].cost if epoch else 0.0) + seconds * hold.fraction
        held = self.held(trial_id)
        cost = min(counts, hold.base)
        self.ledger.add(
            Resumed(
                trial=trial_id,
                epoch=epoch,
                reason=hold.reason,
                cost=cost,
                lost=held - cost,
                fraction=hold.fraction,
            )
        )
        self._held[trial_id] = _Hold(since=self._clock(), base=cost, fraction=hold.fraction)

    def end(self, trial_id: str, failure: str = "") -> Outcome:
        """Book the end of a trial: as failed when there is a ``failure``, else as it was decided."""
        cost = self.held(trial_id)
        del self._held[trial_id]
        return self._book_end(self.ledger.trials[trial_id], failure, cost)

    def lost(self, trial_id: str, kind: LossKind, reason: str) -> Outcome | None:
        """A trial's worker is gone: take it up again, or end it when the cause must be its own.

        One that ran out of memory gets twice as much of the machine, up to all that a trial can hold; when it
        held that before, it is tried once more, since something else may have filled the memory.
        """
        hold, epochs = self._held[trial_id], len(self.ledger.epochs[trial_id])
        losses = [loss for loss in self._losses.get(trial_id, []) if loss[0] == epochs]
        self._losses[trial_id] = [*losses, (epochs, kind)]
        times = sum(loss[1] == kind for loss in self._losses[trial_id])
        fraction, most = hold.fraction, self._largest_fraction
        own = times >= (HANGS if kind == "hang" else LOSSES)
        if kind == "out of memory":
            own, fraction = fraction >= most and times >= 2, min(2 * fraction, most)
        said = f"{kind}: {reason}"
        if own:
            return self.end(trial_id, said if times == 1 else f"{said} ({times} times)")
        self._set_aside(trial_id, fraction, said)
        return None

    def put_back(self, trial_id: str, reason: str) -> None:
        """A trial's worker never began: take it up again, which says nothing about the trial."""
        self._set_aside(trial_id, self._held[trial_id].fraction, reason)

    def _set_aside(self, trial_id: str, fraction: float, reason: str) -> None:
        self._book_held([trial_id])
        del self._held[trial_id]
        self._again[trial_id] = (fraction, reason)

    @property
    def _largest_fraction(self) -> float:
        """What one trial can hold at most: a whole GPU, or all cores of the plan (one machine's are not known)."""
        machine = self.plan.machine
        return 1.0 if machine.resource == "gpu" else min(2.0, machine.slots) * machine.fraction

    def beat(self) -> None:
        """Book what every running trial has held, when it is time: all that a kill -9 leaves unknown."""
        now = self._clock()
        if self._held and now - self._beat >= max(SETTINGS.beat_seconds, 0.1 * len(self._held)):
            self._beat = now
            self._book_held(self._held)

    def leave(self) -> None:
        """The study stops here for now: book what is held; every open trial waits to be taken up again."""
        if self._held:
            self._book_held(self._held)
            self._held.clear()

    def _book_held(self, trials: Iterable[str]) -> None:
        self.ledger.add(Beat(held={trial_id: self.held(trial_id) for trial_id in trials}))

    def patience(self, trial_id: str) -> float:
        """Wall seconds without a word after which a trial counts as hanging."""
        epoch = self.plan.epoch_cost(self.ledger.trials[trial_id].arm) / self.plan.machine.fraction
        return max(SETTINGS.silence_floor, SILENCE_EPOCHS * epoch)

    def _book_end(self, trial: Trial, failure: str, cost: float) -> Outcome:
        epochs = self.ledger.epochs[trial.id]
        stopped = epochs[-1].stop if epochs else ""
        outcome = Outcome(
            trial=trial.id,
            state="failed" if failure else "stopped" if stopped else "finished",
            reason=failure or stopped or "full length",
            epochs=len(epochs),
            cost=cost,
        )
        self.ledger.add(outcome)
        if trial.phase == "baseline":
            self._restore(trial)
        if trial.phase == "search":
            self._searches[trial.arm, trial.pair].tell(outcome, self.ledger.val_accuracy(trial.id))
        return outcome

    # -- money

    def held(self, trial_id: str) -> float:
        """Resource-seconds that a running trial has held until now."""
        hold = self._held[trial_id]
        return hold.base + max(0.0, self._clock() - hold.since) * hold.fraction

    def spent_now(self, arm: str, *phases: Phase, pair: int | None = None) -> float:
        """As ``Ledger.spent``, with running trials counted until now instead of to their last report."""
        booked = self.ledger.spent(arm, *phases, pair=pair)
        for trial_id in self._held:
            trial = self.ledger.trials[trial_id]
            if trial.arm == arm and (not phases or trial.phase in phases) and pair in (None, trial.pair):
                booked += self.held(trial_id) - self.ledger.booked[trial_id]
        return booked

    def _held_in(self, arm: str, pair: int) -> float:
        """What the search's running trials may yet cost, counted as full runs."""
        return sum(t.pair == pair for t in self.ledger.running(arm, "search")) * self.plan.full_run(arm)

    def _turn(self, arm: str) -> tuple[int, float, float]:
        """Who is next: fewest baseline runs, then least search, running trials counted at what they may cost.

        Of the arms whose search is over, the one with most left to do: they wait for each other, at the manifest
        and at the end, and the arm of the longer runs would else run its last ones alone.
        """
        baseline = len(self.ledger.of(arm, "baseline"))
        if self._searched(arm):
            return baseline, math.inf, -self._left_to_do(arm)
        running = sum(self.ledger.trials[t].arm == arm for t in self._held)
        spent = self.ledger.spent(arm, "search", "slice") + running * self.plan.full_run(arm)
        return baseline, round(spent, 3), 0.0

    def _left_to_do(self, arm: str) -> float:
        """Resource-seconds of the arm's runs that are yet to start, of selection or of confirmation."""
        ledger, plan = self.ledger, self.plan
        if self._pending:
            assert ledger.tuning is not None
            finds = self._finds(arm)
            due = sum(len(plan.select_folds(pair)) for pair, config in finds.items() if config is not None)
            done = sum(t.pair in finds for t in ledger.of(arm, "select"))
            return (due - done) * ledger.tuning.full_run[arm]
        return round(
            sum(
                (choice.runs - len(ledger.confirmed(arm, choice.pair)))
                * selection.run_cost(plan, ledger, arm, choice)
                for choice in ledger.choices(arm)
            ),
            3,
        )
