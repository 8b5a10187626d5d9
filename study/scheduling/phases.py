"""What comes next: the phase that each arm is in, and the run that is due in it.

Per arm the phases follow one another: baseline -> random settings and searches -> selection -> confirmation. Search i of every
arm is a pair: the same fold, rungs, share and first random proposals (METHOD.md 3). Reads the plan, the ledger and what running
trials hold, and changes none of them.
"""

import math
from dataclasses import dataclass

from search_spaces import Config
from study.protocol import accounting, allocation, selection
from study.protocol.errors import FinalError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Choice, Phase
from study.scheduling.slots import Slots

HOPELESS = 8
"""Failed trials after which an arm without any other is given up, before it burns its budget."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """A run that may start now."""

    phase: Phase
    fold: int
    pair: int = 0
    config: Config | None = None
    """The setting, where a search has found it; elsewhere it is the default, or drawn."""


class Phases:
    """The phases of all arms, up to now."""

    def __init__(self, plan: Plan, history: History, slots: Slots) -> None:
        self._plan = plan
        self._history = history
        self._slots = slots
        self._found: dict[tuple[str, int], Config | None] = {}

    # -- the look that the study works towards

    @property
    def pending(self) -> bool:
        """Whether a manifest is still to come: that of the first look, or that of the extension."""
        return len(self._history.manifests) < (2 if self._history.extension else 1)

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms of the look."""
        extension = self._history.extension
        if extension is None:
            return self._plan.arms
        if self._history.manifests:
            return extension.arms
        added = () if extension.pairs else extension.arms
        return tuple(arm for arm in self._plan.arms if arm not in added)

    @property
    def pairs(self) -> range:
        """The pairs of searches of the look."""
        extension, planned = self._history.extension, self._plan.pairs
        if extension is not None and extension.pairs and self._history.manifests:
            return range(planned, planned + extension.pairs)
        return range(accounting.searches(self._plan, self._history))

    @property
    def done(self) -> bool:
        """Whether every confirmation run of the last look has ended."""
        return not self.pending and not any(
            self._history.running(arm, "confirm") or self._next_confirmed(arm) for arm in self.arms
        )

    @property
    def baseline_over(self) -> bool:
        """Whether all baseline runs have ended."""
        return all(self._ended(arm, "baseline", self._plan.folds) for arm in self.arms)

    @property
    def selection_over(self) -> bool:
        """Whether the manifest can be written: no selection run is running or due."""
        return all(
            self._searched(arm)
            and not self._history.running(arm, "select")
            and self._due_selection(arm) is None
            for arm in self.arms
        )

    # -- the next run

    def turn(self, arm: str) -> tuple[int, float, float]:
        """Sorts the arms, the next one first: fewest baseline runs, then least spent on the search.

        Running trials count at what they may cost. Of the arms whose search is over, the one with most left to do comes first:
        they wait for each other at the manifest and at the end, and the arm with the longer runs would otherwise run its last
        ones alone.
        """
        baseline = len(self._history.of(arm, "baseline"))
        if self._searched(arm):
            return baseline, math.inf, -self._left_to_do(arm)
        running = self._slots.running(arm) * allocation.full_run(self._plan, arm)
        return baseline, round(self._history.spent(arm, "search", "slice") + running, 3), 0.0

    def due(self, arm: str) -> Due | None:
        """The arm's next run. Raises FinalError if the arm is hopeless."""
        history, plan = self._history, self._plan
        give_up_if_hopeless(history, arm)
        if (run := len(history.of(arm, "baseline"))) < plan.folds:
            return Due(phase="baseline", fold=run)
        if not self.pending:
            if (choice := self._next_confirmed(arm)) is None:
                return None
            fold = allocation.confirm_fold(plan, choice.pair, len(history.confirmed(arm, choice.pair)))
            return Due(phase="confirm", fold=fold, pair=choice.pair, config=choice.config)
        if self.tuned(arm) and len(history.of(arm, "slice")) < self._slice_runs:
            return Due(phase="slice", fold=0)
        if (pair := self._open_pair(arm)) is not None:
            return Due(phase="search", fold=allocation.search_fold(plan, pair), pair=pair)
        return self._due_selection(arm) if self._searched(arm) else None

    def tuned(self, arm: str) -> bool:
        """Whether the arm's tuning share is fixed."""
        return self._history.tuning is not None and arm in self._history.tuning.full_run

    @property
    def _slice_runs(self) -> int:
        return self._history.tuning.slice_runs if self._history.tuning else 0

    def _ended(self, arm: str, phase: Phase, runs: int) -> bool:
        return len(self._history.of(arm, phase)) == runs and not self._history.running(arm, phase)

    # -- searches

    def _open_pair(self, arm: str) -> int | None:
        """The search that has spent least, if its share still pays for the first rung of one more trial.

        A search begins once the default's run on its fold has ended, which is its first trial.
        """
        history, plan = self._history, self._plan
        ended = {t.fold for t in history.of(arm, "baseline") if t.id in history.outcomes}
        ready = [pair for pair in self.pairs if allocation.search_fold(plan, pair) in ended]
        if not ready:
            return None
        full_run, running = allocation.full_run(plan, arm), history.running(arm, "search")

        def spent(pair: int) -> float:
            """With running trials counted as full runs; to the millisecond, so that no rounding error breaks a tie."""
            held = sum(t.pair == pair for t in running) * full_run
            return round(self._slots.spent(arm, "search", pair=pair) + held, 3)

        pair = min(ready, key=spent)
        if not self.tuned(arm):
            return pair
        assert history.tuning is not None
        first = (plan.rungs or (plan.epochs,))[0]
        rung_cost = history.tuning.full_run[arm] * first / plan.epochs
        open_trials = sum(t.pair == pair for t in running)
        return pair if self.left_of(arm, pair) >= (1 + open_trials) * rung_cost else None

    def left_of(self, arm: str, pair: int) -> float:
        """What the search may still spend: of its own share, and of the look's, which other pairs may have overdrawn.

        Nothing for a search that turned out to be one too many.
        """
        if pair not in self.pairs:
            return 0.0
        own = accounting.search_share(self._plan, self._history, arm)
        began = range(self.pairs.start, max(self.pairs.stop, self._plan.pairs))
        spent = {p: self._slots.spent(arm, "search", pair=p) for p in began}
        return min(own - spent[pair], own * len(self.pairs) - sum(spent.values()))

    def _searched(self, arm: str) -> bool:
        """Whether random settings and searches of the arm are over."""
        return (
            self.tuned(arm)
            and self._ended(arm, "slice", self._slice_runs)
            and not self._history.running(arm, "search")
            and self._open_pair(arm) is None
        )

    # -- selection and confirmation

    def _due_selection(self, arm: str) -> Due | None:
        finds = self._finds(arm)
        due = selection.next_selection(self._plan, self._history, arm, finds)
        return Due(phase="select", pair=due[0], fold=due[1], config=finds[due[0]]) if due else None

    def _finds(self, arm: str) -> dict[int, Config | None]:
        """What each search found; asked once the arm's searches are over, after which it never changes."""
        for pair in self.pairs:
            if (arm, pair) not in self._found:
                self._found[arm, pair] = selection.find(self._plan, self._history, arm, pair)
        return {pair: self._found[arm, pair] for pair in self.pairs}

    def _next_confirmed(self, arm: str) -> Choice | None:
        """The find with the fewest confirmation runs, if the next one is paid for: cost alone decides, no score.

        Of a tie the net in hand comes first.
        """
        history, plan = self._history, self._plan
        hand = history.in_hand(arm)
        due = []
        for choice in history.choices(arm):
            runs = len(history.confirmed(arm, choice.pair))
            if choice.pair in self.pairs and runs < choice.runs:
                floor = selection.runs_floor(plan, history, hand=choice.pair == hand)
                due.append((runs >= floor, runs, choice.pair != hand, choice.pair, choice))
        if not due:
            return None
        beyond_floor, *_, choice = min(due, key=lambda d: d[:-1])
        if not beyond_floor:
            return choice
        cost = accounting.run_cost(plan, history, arm, choice)
        running = [t.id for t in history.running(arm, "confirm") if t.id in self._slots]
        open_cost = sum(max(0.0, cost - self._slots.held(t)) for t in running)
        left = accounting.left(plan, history, arm, spent=self._slots.spent(arm)) - open_cost
        return choice if left >= cost else None

    def _left_to_do(self, arm: str) -> float:
        """Resource-seconds of the arm's runs of selection, or of confirmation, that have yet to start."""
        history, plan = self._history, self._plan
        if self.pending:
            assert history.tuning is not None
            finds = self._finds(arm)
            due = sum(
                len(allocation.select_folds(plan, p)) for p, config in finds.items() if config is not None
            )
            done = sum(t.pair in finds for t in history.of(arm, "select"))
            return (due - done) * history.tuning.full_run[arm]
        return round(accounting.confirmation_left(plan, history, arm), 3)


def give_up_if_hopeless(history: History, arm: str) -> None:
    """Raises FinalError if many of the arm's trials failed and none did not."""
    failed = history.ends[arm, "failed"]
    if failed >= HOPELESS and not history.ends[arm, "finished"] + history.ends[arm, "stopped"]:
        last = next(o for o in reversed(history.outcomes.values()) if history.trials[o.trial].arm == arm)
        raise FinalError(
            f"arm {arm} is given up: all of its {failed} trials failed, the latest by {last.reason!r}. "
            "Mend or leave out this arm, and start a new study"
        )
