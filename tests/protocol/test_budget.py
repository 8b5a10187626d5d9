"""Budgets parse and print."""

import pytest

from study.protocol.budget import Budget
from study.protocol.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds", "resource", "printed"),
    [
        ("8gpu-hours", 28800, "gpu", "8gpu-hours"),
        ("10cpu-minutes", 600, "cpu", "10cpu-minutes"),
        ("1.5cpu-hours", 5400, "cpu", "1.5cpu-hours"),
        ("90 GPU-minutes", 5400, "gpu", "1.5gpu-hours"),
        ("1gpu-hour", 3600, "gpu", "1gpu-hours"),
        (".5cpu-hours", 1800, "cpu", "30cpu-minutes"),
    ],
)
def test_budgets_parse_and_print(text: str, seconds: float, resource: str, printed: str) -> None:
    budget = Budget.parse(text)
    assert (budget.seconds, budget.resource, str(budget)) == (seconds, resource, printed)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    "text", ["", "8", "gpu-hours", "-1gpu-hours", "0cpu-minutes", "8gpu-days", "8tpu-hours", "nancpu-hours",
             "infgpu-hours", "1e99gpu-hours", "8gpu-hours extra", "1_0cpu-minutes", "٣cpu-minutes"],
)  # fmt: skip
def test_a_bad_budget_is_refused_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(InputError, match="gpu-hours|at least"):
        Budget.parse(text)
