"""A plan on disk is the plan."""

from pathlib import Path

import pytest
from support.plans import PLAN

from study.protocol.errors import InputError
from study.protocol.plan import Plan


def test_a_plan_comes_back_from_disk(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == PLAN


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"arms": 3}', "null"])
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match="plan of this version"):
        Plan.load(tmp_path / "plan.json")
