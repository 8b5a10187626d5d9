"""What runs next, and when a running trial stops: decided from the plan and the ledger alone.

Per arm the phases follow one another: baseline -> search -> selection -> confirmation. The next trial
goes to the arm that has spent least. Knows no Ray: anything that starts trials and reports back can
drive it.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping

from search_spaces import Arm, Config
from study import confirm
from study.ledger import Ledger
from study.plan import BASELINE_RUNS, MARGIN, Plan
from study.records import Epoch, Manifest, Outcome, Phase, Trial, Tuning
from study.search import ArmSearch, restrict


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all parts, distinct for distinct parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Schedule:
    """The study's decisions. ``start``, ``report`` and ``end`` are told by whoever runs the trials."""

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
        self.defaults: dict[str, Config] = {}
        self._searches: dict[str, ArmSearch] = {}
        for name, arm in arms.items():
            space = restrict(arm.space, plan.batch_sizes)
            self.defaults[name] = Arm(arm.build, space=space).default()
            self._searches[name] = ArmSearch(
                space, self.defaults[name], plan.rungs, seed=derive_seed(plan.seed, "sampler", name)
            )

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
        if self._search_goes_on(arm):
            trial = self._trial(arm, "search", {})
            return dataclasses.replace(trial, config=self._searches[arm].ask(trial.id))
        if ledger.manifest is not None:
            if self._confirmation_goes_on(arm):
                return self._trial(arm, "confirm", ledger.manifest.choices[arm].config)
            return None
        if ledger.tuning is None or ledger.running(arm, "search"):
            return None
        config = confirm.next_candidate(plan, ledger, arm)
        return None if config is None else self._trial(arm, "select", config)

    def _trial(self, arm: str, phase: Phase, config: Config) -> Trial:
        index = len(self.ledger.of(arm, phase))
        seed = self.plan.seed
        if phase == "search":  # one split for all trials that are compared with each other
            split_seed = derive_seed(seed, "split", phase, 0)
        else:  # a new split per run; the arms' runs of one index share it
            number = confirm.repeat(self.ledger, arm, config) if phase == "select" else index
            split_seed = derive_seed(seed, "split", phase, number)
        return Trial(
            id=f"{arm}-{phase}-{index:04d}",
            arm=arm,
            phase=phase,
            index=index,
            island=0,
            config=config,
            seed=derive_seed(seed, "run", arm, phase, index),
            split_seed=split_seed,
            epochs=self.plan.epochs,
        )

    def _search_goes_on(self, arm: str) -> bool:
        """Whether the tuning share still pays for the first rung of one more trial."""
        tuning = self.ledger.tuning
        if tuning is None:
            return True
        first = (self.plan.rungs or (self.plan.epochs,))[0]
        rung_cost = tuning.full_run[arm] * first / self.plan.epochs
        open_trials = len(self.ledger.running(arm, "search"))
        return tuning.per_arm - self.spent_now(arm, "search") >= (1 + open_trials) * rung_cost

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
            ledger.add(Tuning(per_arm=max(0.0, min(left)), full_run=full_run))
        undecided = ledger.tuning is not None and ledger.manifest is None
        if undecided and all(self._selected(arm) for arm in plan.arms):
            ledger.add(Manifest.of({arm: confirm.choose(plan, ledger, arm) for arm in plan.arms}))

    def _selected(self, arm: str) -> bool:
        """Whether the arm's selection is over: no run of it is open or due."""
        ledger = self.ledger
        busy = ledger.running(arm, "search") or ledger.running(arm, "select") or self._search_goes_on(arm)
        return not busy and confirm.next_candidate(self.plan, ledger, arm) is None

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
        passed = self._searches[trial.arm].report(epoch)
        if epoch.epoch == trial.epochs:
            return True
        tuning = self.ledger.tuning
        if not passed:
            self._why_stopped[trial.id] = f"asha: below the best third at epoch {epoch.epoch}"
        elif tuning is not None and self.spent_now(trial.arm, "search") >= tuning.per_arm:
            self._why_stopped[trial.id] = f"budget: the tuning share was spent at epoch {epoch.epoch}"
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
            self._searches[trial.arm].tell(outcome, self.ledger.val_accuracy(trial_id))
        return outcome

    def interrupt(self) -> None:
        """Book every open trial as interrupted, at what it has held."""
        for trial_id in list(self._held_since):
            self.end(trial_id, "interrupted")

    # -- money

    def held(self, trial_id: str) -> float:
        """Resource-seconds that a running trial has held until now."""
        return (self._clock() - self._held_since[trial_id]) * self.plan.machine.fraction

    def spent_now(self, arm: str, *phases: Phase) -> float:
        """As ``Ledger.spent``, with running trials counted until now instead of to their last report."""
        booked = self.ledger.spent(arm, *phases)
        for trial_id in self._held_since:
            trial = self.ledger.trials[trial_id]
            if trial.arm == arm and (not phases or trial.phase in phases):
                epochs = self.ledger.epochs[trial_id]
                booked += self.held(trial_id) - (epochs[-1].cost if epochs else 0.0)
        return booked

    def _turn(self, arm: str) -> tuple[int, float]:
        """Who is next: fewest baseline runs, then least search, running trials counted at what they may cost."""
        running = sum(self.ledger.trials[t].arm == arm for t in self._held_since)
        spent = self.ledger.spent(arm, "search") + running * self.plan.full_run(arm)
        return len(self.ledger.of(arm, "baseline")), spent
