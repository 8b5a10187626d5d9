"""A plan on disk is the plan."""

import dataclasses
import json
from pathlib import Path

import pytest
from support.plans import PLAN

from study.protocol.errors import InputError
from study.protocol.plan import Plan
from study.protocol.question import Weights, starts

WEIGHTS = Weights(source="hub:timm/x/model.safetensors", sha256="0" * 64, trained_on="ImageNet-1k", size=224)


def test_a_plan_comes_back_from_disk(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == PLAN
    begun = dataclasses.replace(PLAN, weights={"a": dataclasses.replace(WEIGHTS, new=("fc.bias",))})
    begun.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == begun


def test_weights_of_no_arm_are_refused(tmp_path: Path) -> None:
    dataclasses.replace(PLAN, weights={"c": WEIGHTS}).save(tmp_path / "plan.json")
    with pytest.raises(InputError, match="plan of this version"):
        Plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("weights", "flagged"),
    [
        ({}, 0),
        ({"a": WEIGHTS}, 4),  # what they are, the other has none, another size, test images seen or not
        ({"a": WEIGHTS, "b": WEIGHTS}, 4),
        ({name: dataclasses.replace(WEIGHTS, size=8, images=9) for name in ("a", "b")}, 2),
        ({"a": WEIGHTS, "b": dataclasses.replace(WEIGHTS, trained_on="digits", size=8)}, 5),
    ],
)
def test_what_arms_begin_from_is_said_where_it_differs(weights: dict[str, Weights], flagged: int) -> None:
    said = starts(weights, ("a", "b"), 8)
    assert len(said) == flagged
    assert all(sentence.endswith(".") for sentence in said)


def test_a_plan_that_no_terminal_could_show_is_neither_written_nor_read(tmp_path: Path) -> None:
    odd = dataclasses.replace(PLAN, command="study \x1b[31m")
    with pytest.raises(InputError, match="control characters"):
        odd.save(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text(json.dumps(dataclasses.asdict(odd)))
    with pytest.raises(InputError, match="control characters"):
        Plan.load(tmp_path / "plan.json")
    fine = dataclasses.replace(PLAN, command="of C:\\u0007 and é,\n\tin two lines")
    fine.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == fine


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"arms": 3}', "null"])
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match="plan of this version"):
        Plan.load(tmp_path / "plan.json")
