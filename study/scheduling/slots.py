"""Which trial holds which part of the machine, since when, and what that costs."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.protocol.records import Beat, Phase
from study.protocol.settings import SETTINGS


@dataclass
class Hold:
    """What a running trial holds."""

    since: float
    """``math.inf`` while it waits for its machine."""
    base: float
    """Resource-seconds held before ``since``."""
    fraction: float
    reason: str = ""
    """Why the trial had to resume; used when its worker reports where it resumed."""


class Slots:
    """The running trials and their costs, up to now."""

    def __init__(self, plan: Plan, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._machine = plan.machine
        self._ledger = ledger
        self._clock = clock
        self._holds: dict[str, Hold] = {}
        self._of: dict[tuple[str, Phase, int], dict[str, Hold]] = defaultdict(dict)
        """The same by arm, phase and pair, each in the order of ``_holds``."""
        self._used = 0
        self._beat = clock()

    def __contains__(self, trial_id: str) -> bool:
        return trial_id in self._holds

    def __getitem__(self, trial_id: str) -> Hold:
        return self._holds[trial_id]

    def fits(self, fraction: float) -> bool:
        """Whether one more trial that holds ``fraction`` finds room."""
        return self._used + self._machine.slots_of(fraction) <= self._machine.slots

    def take(self, trial_id: str, fraction: float, *, base: float = 0.0, reason: str = "") -> None:
        """The trial holds ``fraction`` from now on, and pays for it."""
        if trial_id in self._holds:
            self._used -= self._machine.slots_of(self._holds[trial_id].fraction)
        self._used += self._machine.slots_of(fraction)
        hold = Hold(since=self._clock(), base=base, fraction=fraction, reason=reason)
        self._holds[trial_id] = self._of[self._group(trial_id)][trial_id] = hold

    def wait(self, trial_id: str) -> None:
        """The trial has no machine yet: it keeps its slot but pays nothing until ``grant``."""
        self._holds[trial_id].since = math.inf

    def grant(self, trial_id: str) -> None:
        """The trial has its machine and pays from now on. Changes nothing for one that had it before."""
        hold = self._holds[trial_id]
        hold.since = min(hold.since, self._clock())

    def release(self, trial_id: str) -> float:
        """End the hold; the resource-seconds that the trial held."""
        cost = self.held(trial_id)
        self._used -= self._machine.slots_of(self._holds.pop(trial_id).fraction)
        del self._of[self._group(trial_id)][trial_id]
        return cost

    def _group(self, trial_id: str) -> tuple[str, Phase, int]:
        trial = self._ledger.trials[trial_id]
        return trial.arm, trial.phase, trial.pair

    def held(self, trial_id: str) -> float:
        """Resource-seconds that a running trial has held until now."""
        hold = self._holds[trial_id]
        return hold.base + max(0.0, self._clock() - hold.since) * hold.fraction

    def spent(self, arm: str, *phases: Phase, pair: int | None = None) -> float:
        """As ``History.spent``, but running trials count up to now instead of to their last report."""
        if len(phases) == 1 and pair is not None:  # asked at every epoch of a search
            holds = self._of[arm, phases[0], pair]
        else:
            holds = {t: h for t, h in self._holds.items() if self._is_of(t, arm, phases, pair)}
        spent, booked, now = self._ledger.spent(arm, *phases, pair=pair), self._ledger.booked, self._clock()
        for trial_id, hold in holds.items():
            spent += hold.base + max(0.0, now - hold.since) * hold.fraction - booked[trial_id]
        return spent

    def _is_of(self, trial_id: str, arm: str, phases: tuple[Phase, ...], pair: int | None) -> bool:
        its_arm, phase, its_pair = self._group(trial_id)
        return its_arm == arm and (not phases or phase in phases) and pair in (None, its_pair)

    def running(self, arm: str) -> int:
        """How many of the arm's trials hold a slot."""
        return sum(len(trials) for group, trials in self._of.items() if group[0] == arm)

    def beat(self) -> None:
        """If it is time, book what every running trial has held, which a kill -9 would erase."""
        now = self._clock()
        if self._holds and now - self._beat >= max(SETTINGS.beat_seconds, 0.1 * len(self._holds)):
            self._beat = now
            self.book(self._holds)

    def leave(self) -> None:
        """The study stops here for now: book what is held; every running trial will have to resume."""
        if self._holds:
            self.book(self._holds)
            for trial_id in list(self._holds):
                self.release(trial_id)

    def book(self, trials: Iterable[str]) -> None:
        """Write down what these trials have held until now."""
        self._ledger.add(Beat(held={trial_id: self.held(trial_id) for trial_id in trials}))
