"""What runs next, and when a running trial stops: decided from the plan and the ledger alone.

Per arm the phases follow one another: baseline -> slice and search -> selection -> confirmation. The next trial
goes to the arm that has spent least. Knows no Ray: anything that starts trials and reports back can
drive it.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping

from search_spaces import Arm, Config, default
from study import confirm
from study.ledger import Ledger
from study.plan import BASELINE_RUNS, MARGIN, SLICE_SHARE, Plan
from study.records import Epoch, Manifest, Outcome, Phase, Trial, Tuning
from study.search import ArmSearch, random_config, searched


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all parts, distinct for distinct parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


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
        self.plan = plan
        self.ledger = ledger
        self._clock = clock
        self._held_since: dict[str, float] = {}
        self._why_stopped: dict[str, str] = {}
        self.spaces = {name: searched(arm.space, plan.batch_sizes, plan.widen) for name, arm in arms.items()}
        self.defaults = {name: default(space) for name, space in self.spaces.items()}
        self._searches = {
            (name, island): ArmSearch(
                space, self.defaults[name], plan.rungs, seed=derive_seed(plan.seed, "sampler", name, island)
            )
            for name, space in self.spaces.items()
            for island in range(plan.islands)
        }

    # -- what runs next

    def next(self) -> Trial | None:
        """The next trial, now held and in the ledger; None while there is nothing to start."""
        if len(self._held_since) >= self.plan.machine.slots:
            return None
        self._advance()
        for arm in sorted(self.plan.arms, key=self._turn):
            trial = self._next_of(arm)
            if trial is not None:
                self._held_since[trial.id] = self._clock()
                self.ledger.add(trial)
                return trial
        return None

    @property
    def done(self) -> bool:
        """Whether every confirmation run has ended."""
        manifest = self.ledger.manifest
        return manifest is not None and not any(
            self.ledger.running(arm, "confirm") or self._confirmation_goes_on(arm) for arm in manifest.choices
        )

    def _next_of(self, arm: str) -> Trial | None:
        ledger, plan = self.ledger, self.plan
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
        candidate = confirm.next_candidate(plan, ledger, arm)
        return None if candidate is None else self._trial(arm, "select", candidate[1], candidate[0])

    def _trial(self, arm: str, phase: Phase, config: Config, island: int = 0) -> Trial:
        index = len(self.ledger.of(arm, phase))
        seed = self.plan.seed
        # Trials that are compared with each other share a split: those of an island, those of the slice.
        # All other runs have a split each, and the arms' runs of one number share it.
        number = {"search": island, "slice": 0, "select": confirm.repeat(self.ledger, arm, config)}
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
            key=lambda i: self.spent_now(arm, "search", island=i) + self._held_in(arm, i),
        )
        if ledger.tuning is None:
            return island
        first = (self.plan.rungs or (self.plan.epochs,))[0]
        rung_cost = ledger.tuning.full_run[arm] * first / self.plan.epochs
        open_trials = sum(t.island == island for t in ledger.running(arm, "search"))
        left = self._island_share(arm) - self.spent_now(arm, "search", island=island)
        return island if left >= (1 + open_trials) * rung_cost else None

    def _island_share(self, arm: str) -> float:
        """What one island of the arm may spend: an equal part of what the random slice leaves."""
        tuning = self.ledger.tuning
        if tuning is None:
            return math.inf
        outcomes = self.ledger.outcomes
        done = [outcomes[t.id].cost for t in self.ledger.of(arm, "slice") if t.id in outcomes]
        to_come = (tuning.slice_runs - len(done)) * tuning.full_run[arm]
        return max(0.0, tuning.per_arm - sum(done) - to_come) / self.plan.islands

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
        running = [t.id for t in runs if t.id in self._held_since]
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
            slice_runs = math.floor(SLICE_SHARE * per_arm / max(full_run.values()))
            ledger.add(Tuning(per_arm=per_arm, slice_runs=slice_runs, full_run=full_run))
        undecided = ledger.tuning is not None and ledger.manifest is None
        if undecided and all(self._selected(arm) for arm in plan.arms):
            ledger.add(Manifest.of({arm: confirm.choose(plan, ledger, arm) for arm in plan.arms}))

    def _selected(self, arm: str) -> bool:
        """Whether the arm's selection is over: no run of it is open or due."""
        return (
            self._searched(arm)
            and not self.ledger.running(arm, "select")
            and confirm.next_candidate(self.plan, self.ledger, arm) is None
        )

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
        self.ledger.add(epoch)
        if trial.phase != "search":
            return True
        passed = self._searches[trial.arm, trial.island].report(epoch)
        if epoch.epoch == trial.epochs:
            return True
        spent = self.spent_now(trial.arm, "search", island=trial.island)
        if not passed:
            self._why_stopped[trial.id] = f"asha: below the best third at epoch {epoch.epoch}"
        elif spent >= self._island_share(trial.arm):
            self._why_stopped[trial.id] = f"budget: the search share was spent at epoch {epoch.epoch}"
        return trial.id not in self._why_stopped

    def end(self, trial_id: str, failure: str = "") -> Outcome:
        """Book the end of a trial: as failed when there is a ``failure``, else as it was decided."""
        trial = self.ledger.trials[trial_id]
        epochs = len(self.ledger.epochs[trial_id])
        stopped = self._why_stopped.pop(trial_id, "")
        outcome = Outcome(
            trial=trial_id,
            state="failed" if failure else "stopped" if stopped else "finished",
            reason=failure or stopped or "full length",
            epochs=epochs,
            cost=self.held(trial_id),
        )
        del self._held_since[trial_id]
        self.ledger.add(outcome)
        if trial.phase == "search":
            self._searches[trial.arm, trial.island].tell(outcome, self.ledger.val_accuracy(trial_id))
        return outcome

    def interrupt(self) -> None:
        """Book every open trial as interrupted, at what it has held."""
        for trial_id in list(self._held_since):
            self.end(trial_id, "interrupted")

    # -- money

    def held(self, trial_id: str) -> float:
        """Resource-seconds that a running trial has held until now."""
        return (self._clock() - self._held_since[trial_id]) * self.plan.machine.fraction

    def spent_now(self, arm: str, *phases: Phase, island: int | None = None) -> float:
        """As ``Ledger.spent``, with running trials counted until now instead of to their last report."""
        booked = self.ledger.spent(arm, *phases, island=island)
        for trial_id in self._held_since:
            trial = self.ledger.trials[trial_id]
            if trial.arm == arm and (not phases or trial.phase in phases) and island in (None, trial.island):
                epochs = self.ledger.epochs[trial_id]
                booked += self.held(trial_id) - (epochs[-1].cost if epochs else 0.0)
        return booked

    def _held_in(self, arm: str, island: int) -> float:
        """What the island's running trials may yet cost, counted as full runs."""
        open_trials = [t for t in self.ledger.running(arm, "search") if t.island == island]
        return len(open_trials) * self.plan.full_run(arm)

    def _turn(self, arm: str) -> tuple[int, float]:
        """Who is next: fewest baseline runs, then least search, running trials counted at what they may cost."""
        running = sum(self.ledger.trials[t].arm == arm for t in self._held_since)
        spent = self.ledger.spent(arm, "search", "slice") + running * self.plan.full_run(arm)
        return len(self.ledger.of(arm, "baseline")), spent
