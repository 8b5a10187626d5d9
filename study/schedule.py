"""What runs next, and when a running trial stops: decided from the plan and the ledger alone.

Per arm the phases follow one another: baseline -> slice and search -> selection -> confirmation. The next trial
goes to the arm that has spent least, after the search to the one that has most left to do. Knows no Ray:
anything that starts trials and reports back can drive it.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from search_spaces import Arm, Config, default
from study import confirm
from study import plan as plans
from study.ledger import Ledger
from study.plan import BASELINE_RUNS, MARGIN, Plan
from study.records import Beat, Epoch, Manifest, Outcome, Phase, Resumed, Trial, Tuning
from study.search import ArmSearch, random_config, searched


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
BEAT_SECONDS = 10.0
SILENCE_FLOOR = 120.0
"""Seconds that even the fastest trial may be silent, while its first step is compiled for example."""
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
    ) -> None:
        """Takes up the study where the ledger ends."""
        self.plan = plan
        self.ledger = ledger
        self._clock = clock
        self._held: dict[str, _Hold] = {}
        self._losses: dict[str, list[tuple[int, str]]] = {}
        self._beat = clock()
        self.spaces = {name: searched(arm.space, plan.batch_sizes, plan.widen) for name, arm in arms.items()}
        self.defaults = {name: default(space) for name, space in self.spaces.items()}
        self._searches = {
            (name, island): ArmSearch(
                space, self.defaults[name], plan.rungs, seed=derive_seed(plan.seed, "sampler", name, island)
            )
            for name, space in self.spaces.items()
            for island in range(plan.islands)
        }
        for trial in ledger.trials.values():
            if trial.phase == "search":
                outcome = ledger.outcomes.get(trial.id)
                try:
                    self._searches[trial.arm, trial.island].restore(trial, ledger.epochs[trial.id], outcome)
                except (KeyError, ValueError) as error:
                    raise confirm.StudyError(
                        f"trial {trial.id} has a setting that the search of {trial.arm} does not have: {error}"
                    ) from error
        self._entered: dict[str, list[Config]] = {}
        self._again: dict[str, tuple[float, str]] = {}
        """Trials to take up again: what they shall hold, and why."""
        for trial in ledger.open:
            epochs = ledger.epochs[trial.id]
            if epochs and (epochs[-1].stop or len(epochs) == trial.epochs):
                self._book_end(trial, "", ledger.booked[trial.id])  # only the word was missing
            else:
                self._again[trial.id] = (ledger.fraction(trial.id, plan), "study interrupted")

    # -- what runs next

    def next(self) -> Start | None:
        """The next trial, now held and in the ledger; None while there is nothing to start.

        Raises GivenUpError when there is no way to finish.
        """
        if self._again:
            return self._take_up(next(iter(self._again)))
        if not self._fits(self.plan.machine.fraction):
            return None
        self._advance()
        for arm in sorted(self.plan.arms, key=self._turn):
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
        """Whether every confirmation run has ended."""
        manifest = self.ledger.manifest
        return manifest is not None and not any(
            self.ledger.running(arm, "confirm") or self._confirmation_goes_on(arm) for arm in manifest.choices
        )

    def _next_of(self, arm: str) -> Trial | None:
        ledger, plan = self.ledger, self.plan
        failed = ledger.ends[arm, "failed"]
        if failed >= HOPELESS and not ledger.ends[arm, "finished"] + ledger.ends[arm, "stopped"]:
            last = next(o for o in reversed(ledger.outcomes.values()) if ledger.trials[o.trial].arm == arm)
            raise confirm.GivenUpError(
                f"arm {arm} is given up: all of its {failed} trials failed, the latest by {last.reason!r}. "
                "Mend or leave out this arm, and start a new study"
            )
        if len(ledger.of(arm, "baseline")) < BASELINE_RUNS:
            return self._trial(arm, "baseline", self.defaults[arm])
        if ledger.tuning is not None and len(ledger.of(arm, "slice")) < ledger.tuning.slice_runs:
            return self._trial(arm, "slice", self._random(arm, len(ledger.of(arm, "slice"))))
        island = self._open_island(arm)
        if island is not None:
            trial = self._trial(arm, "search", {}, island)
            return dataclasses.replace(trial, config=self._searches[arm, island].ask(trial.id))
        if ledger.manifest is not None:
            if self._confirmation_goes_on(arm):
                return self._trial(arm, "confirm", ledger.manifest.choices[arm].config)
            return None
        if not self._searched(arm):
            return None
        candidate = confirm.next_candidate(plan, ledger, arm, self._candidates(arm))
        return None if candidate is None else self._trial(arm, "select", candidate[1], candidate[0])

    def _trial(self, arm: str, phase: Phase, config: Config, island: int = 0) -> Trial:
        index = len(self.ledger.of(arm, phase))
        seed = self.plan.seed
        # A search compares its own trials, so an island's share a split, as do those of the slice.
        # All other runs have a split each, and the arms' runs of one number share it.
        number = {"search": island, "slice": 0}
        return Trial(
            id=f"{arm}-{phase}-{index:04d}",
            arm=arm,
            phase=phase,
            index=index,
            island=island,
            config=config,
            seed=derive_seed(seed, "run", arm, phase, index),
            split_seed=derive_seed(seed, "split", phase, number.get(phase, index)),
            epochs=self.plan.epochs,
        )

    def _random(self, arm: str, index: int) -> Config:
        """Random config number ``index``: the arms' shared axes have the same values in it."""
        return random_config(self.spaces[arm], seed=derive_seed(self.plan.seed, "slice", index))

    def _open_island(self, arm: str) -> int | None:
        """The island that has spent least, if its share still pays for the first rung of one more trial."""
        ledger = self.ledger
        island = min(
            range(self.plan.islands),
            # to the millisecond: where two are even, a rounding error must not choose
            key=lambda i: round(self.spent_now(arm, "search", island=i) + self._held_in(arm, i), 3),
        )
        if ledger.tuning is None:
            return island
        first = (self.plan.rungs or (self.plan.epochs,))[0]
        rung_cost = ledger.tuning.full_run[arm] * first / self.plan.epochs
        open_trials = sum(t.island == island for t in ledger.running(arm, "search"))
        return island if self._left_of(arm, island) >= (1 + open_trials) * rung_cost else None

    def _left_of(self, arm: str, island: int) -> float:
        """What the island may yet spend: of its own share, and of the arm's, which others may have overdrawn."""
        own = self._island_share(arm) - self.spent_now(arm, "search", island=island)
        tuning = self.ledger.tuning
        all_left = math.inf if tuning is None else tuning.per_arm - self.spent_now(arm, "search", "slice")
        return min(own, all_left)

    def _island_share(self, arm: str) -> float:
        """What one island of the arm may spend: an equal part of what the random slice leaves."""
        tuning = self.ledger.tuning
        if tuning is None:
            return math.inf
        running = self.ledger.running(arm, "slice")
        done = self.ledger.spent(arm, "slice") - sum(self.ledger.booked[t.id] for t in running)
        to_come = (tuning.slice_runs - len(self.ledger.of(arm, "slice")) + len(running)) * tuning.full_run[
            arm
        ]
        return max(0.0, tuning.per_arm - done - to_come) / self.plan.islands

    def _searched(self, arm: str) -> bool:
        """Whether slice and search of the arm are over."""
        ledger = self.ledger
        return (
            ledger.tuning is not None
            and self._ended(arm, "slice", ledger.tuning.slice_runs)
            and not ledger.running(arm, "search")
            and self._open_island(arm) is None
        )

    def _confirmation_goes_on(self, arm: str) -> bool:
        """Whether another of the manifest's runs is due and paid for; cost alone decides, never a score."""
        ledger, plan = self.ledger, self.plan
        assert ledger.manifest is not None
        choice = ledger.manifest.choices[arm]
        runs = ledger.of(arm, "confirm")
        if len(runs) < confirm.RUNS_FLOOR or len(runs) >= choice.runs:
            return len(runs) < choice.runs
        cost = confirm.run_cost(plan, ledger, choice.trials)
        running = [t.id for t in runs if t.id in self._held]
        open_cost = sum(max(0.0, cost - self.held(t)) for t in running)
        return confirm.left(plan, ledger, arm, spent=self.spent_now(arm)) - open_cost >= cost

    def _advance(self) -> None:
        """Write down what has become known: the tuning share, then the manifest."""
        ledger, plan = self.ledger, self.plan
        if ledger.tuning is None and all(self._ended(arm, "baseline", BASELINE_RUNS) for arm in plan.arms):
            full_run = {arm: self._full_run(arm) for arm in plan.arms}
            reserved = plan.select_runs + plan.confirm_reserved
            left = [
                plan.share
                - ledger.spent(arm, "probe", "baseline")
                - confirm.startup(plan, ledger, arm)
                - BASELINE_RUNS * plan.test_cost(arm)
                - MARGIN * reserved * (full_run[arm] + plan.test_cost(arm))
                for arm in plan.arms
            ]
            per_arm = max(0.0, min(left))
            slice_runs = plans.slice_runs(per_arm / max(full_run.values()))
            ledger.add(Tuning(per_arm=per_arm, slice_runs=slice_runs, full_run=full_run))
        undecided = ledger.tuning is not None and ledger.manifest is None
        if undecided and all(self._selected(arm) for arm in plan.arms):
            ledger.add(Manifest.of({arm: confirm.choose(plan, ledger, arm) for arm in plan.arms}))

    def _selected(self, arm: str) -> bool:
        """Whether the arm's selection is over: no run of it is open or due."""
        return (
            self._searched(arm)
            and not self.ledger.running(arm, "select")
            and confirm.next_candidate(self.plan, self.ledger, arm, self._candidates(arm)) is None
        )

    def _candidates(self, arm: str) -> list[Config]:
        """What enters selection: known, and the same from then on, once slice and search of the arm are over."""
        if arm not in self._entered:
            self._entered[arm] = confirm.candidates(self.plan, self.ledger, arm)
        return self._entered[arm]

    def _ended(self, arm: str, phase: Phase, runs: int) -> bool:
        return len(self.ledger.of(arm, phase)) == runs and not self.ledger.running(arm, phase)

    def _full_run(self, arm: str) -> float:
        """Measured cost of one run on a worker that is up: mean of the baseline runs' epochs + least overhead."""
        runs = self.ledger.full_length(arm, "baseline")
        if not runs:  # every one failed: what the probe measured is all there is
            return self.plan.epochs * self.plan.epoch_cost(arm)
        epochs = [confirm.trained(self.plan, self.ledger, t) for t in runs]
        return sum(epochs) / len(epochs) + min(confirm.overhead(self.plan, self.ledger, t) for t in runs)

    # -- what the runner tells

    def report(self, epoch: Epoch) -> bool:
        """Book an epoch at what its trial has held until now; False when the trial must stop here."""
        trial = self.ledger.trials[epoch.trial]
        epoch = dataclasses.replace(epoch, cost=self.held(trial.id))
        if trial.phase == "search":
            passed = self._searches[trial.arm, trial.island].report(epoch)
            if epoch.epoch < trial.epochs:
                epoch = dataclasses.replace(epoch, stop=self._why_stop(trial, epoch, passed=passed))
        self.ledger.add(epoch)
        return not epoch.stop

    def _why_stop(self, trial: Trial, epoch: Epoch, *, passed: bool) -> str:
        if not passed:
            return f"asha: below the best third at epoch {epoch.epoch}"
        if self._left_of(trial.arm, trial.island) <= 0:
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
        if self._held and now - self._beat >= max(BEAT_SECONDS, 0.1 * len(self._held)):
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
        return max(SILENCE_FLOOR, SILENCE_EPOCHS * epoch)

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
        if trial.phase == "search":
            self._searches[trial.arm, trial.island].tell(outcome, self.ledger.val_accuracy(trial.id))
        return outcome

    # -- money

    def held(self, trial_id: str) -> float:
        """Resource-seconds that a running trial has held until now."""
        hold = self._held[trial_id]
        return hold.base + max(0.0, self._clock() - hold.since) * hold.fraction

    def spent_now(self, arm: str, *phases: Phase, island: int | None = None) -> float:
        """As ``Ledger.spent``, with running trials counted until now instead of to their last report."""
        booked = self.ledger.spent(arm, *phases, island=island)
        for trial_id in self._held:
            trial = self.ledger.trials[trial_id]
            if trial.arm == arm and (not phases or trial.phase in phases) and island in (None, trial.island):
                booked += self.held(trial_id) - self.ledger.booked[trial_id]
        return booked

    def _held_in(self, arm: str, island: int) -> float:
        """What the island's running trials may yet cost, counted as full runs."""
        open_trials = [t for t in self.ledger.running(arm, "search") if t.island == island]
        return len(open_trials) * self.plan.full_run(arm)

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
        assert ledger.tuning is not None
        if ledger.manifest is None:
            return (plan.select_runs - len(ledger.of(arm, "select"))) * ledger.tuning.full_run[arm]
        choice = ledger.manifest.choices[arm]
        cost = confirm.run_cost(plan, ledger, choice.trials)
        return round((choice.runs - len(ledger.of(arm, "confirm"))) * cost, 3)
