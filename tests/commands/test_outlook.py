"""The plan fits a terminal and states which gaps the budget resolves, which not, and a budget for those."""

import dataclasses
import io

import pytest
from rich.console import Console
from support.plans import PLAN

from study.commands.plan import outlook, overview
from study.protocol import allocation, levels
from study.protocol.budget import Budget
from study.protocol.plan import Plan
from study.protocol.question import Earlier
from study.protocol.text import level

RICH = dataclasses.replace(PLAN, budget=Budget.parse("20cpu-hours"))
POOR = dataclasses.replace(
    PLAN,
    budget=Budget(
        seconds=1.3 * allocation.FEWEST_RUNS * allocation.full_run(PLAN, PLAN.arms[0]) * 2, resource="cpu"
    ),
)


def shown(plan: Plan, *, verbose: bool = False, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(overview(plan, verbose=verbose))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("plan", [PLAN, RICH, POOR], ids=["usual", "rich", "poor"])
def test_it_fits_a_screen_and_has_every_arm(plan: Plan) -> None:
    lines = shown(plan)
    assert len(lines) <= 24
    for arm in plan.arms:
        (row,) = (line.split() for line in lines if line.startswith(f"{arm} "))
        assert row[-2:] == [str(allocation.select_runs(plan)), f"{allocation.confirm_reserved(plan)}+"]
        assert [str(plan.folds), str(plan.pairs), "x"] == [row[5], *row[7:9]]


def test_a_budget_for_one_search_names_one_for_three_pairs() -> None:
    assert POOR.pairs == 1
    can, cannot, would = outlook(POOR)
    assert "nets" in can
    assert "architecture" in cannot
    assert f"--budget {allocation.budget_for_pairs(POOR, 3)} --epochs {POOR.epochs}" in would


def test_a_larger_budget_resolves_a_gap_and_names_its_price() -> None:
    assert RICH.pairs > 1
    can, _, would = outlook(RICH)
    assert f"{RICH.pairs} pairs of searches" in can
    assert f"{100 * RICH.rope:g} pt" in would


def test_measuring_that_takes_much_of_a_small_budget_is_said() -> None:
    each = RICH.budget.seconds / len(RICH.arms)
    for share, said in ((0.04, False), (0.12, True)):
        plan = dataclasses.replace(RICH, probe_cost=dict.fromkeys(RICH.arms, share * each))
        assert ("Measuring took 12 % of the budget" in "\n".join(shown(plan))) == said


def test_two_looks_state_the_levels_that_the_study_will_use() -> None:
    """Also where the first look has no interval, and where earlier studies asked the same."""

    def line(plan: Plan) -> str:
        (found,) = (
            text for text in shown(dataclasses.replace(plan, looks=2), width=200) if "Two looks" in text
        )
        return found

    again = dataclasses.replace(RICH, earlier=(Earlier(run="x", arms=RICH.arms, level=0.05),))
    for plan, own in ((RICH, 0.05), (again, 0.025)):
        announced = dataclasses.replace(plan, looks=2)
        first = levels.of_pair(announced, *plan.arms, first=plan.pairs)
        assert first.own == own
        assert level(first.confidence) in line(plan)
        assert f"hold at {level(1 - own)}." in line(plan)
    first = levels.of_pair(dataclasses.replace(POOR, looks=2), *POOR.arms, first=1, look=2, now=3)
    assert f"no interval on architectures, that of the second is at {level(first.confidence)}" in line(POOR)


def test_verbose_adds_what_was_measured() -> None:
    text = "\n".join(shown(RICH, verbose=True))
    assert len(shown(RICH)) < len(shown(RICH, verbose=True))
    for audit in RICH.audits.values():
        assert f"{audit.params / 1e6:.2f} M" in text
    assert ", ".join(map(str, RICH.rungs)) in text
    assert f"{RICH.folds} folds of {RICH.val_images} images" in " ".join(text.split())
