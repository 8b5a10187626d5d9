"""A study goes on only under the same question, on the same data, with the same code."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from support.plans import PLAN

from study import provenance
from study.cli import Options
from study.protocol.budget import PlanError
from study.protocol.history import History

ARMS = ("tiny_resnext", "resnet50")
ASKED = dataclasses.replace(
    PLAN,
    arms=ARMS,
    audits=dict(zip(ARMS, PLAN.audits.values(), strict=True)),
    probe_cost=dict(zip(ARMS, PLAN.probe_cost.values(), strict=True)),
)


def a_history(home: Path) -> History:
    ASKED.save(home / "plan.json")
    history = History()
    history.add(provenance.session(home, ARMS))
    return history


def test_nothing_differs_in_the_same_checkout(tmp_path: Path) -> None:
    history = a_history(tmp_path)
    assert provenance.differences(history, provenance.session(tmp_path, ARMS)) == ""


def test_changed_code_and_versions_are_named(tmp_path: Path) -> None:
    history = a_history(tmp_path)
    now = provenance.session(tmp_path, ARMS)
    other = dataclasses.replace(
        now,
        code={**now.code, "search_spaces/tiny_resnet.py": "0" * 64},
        versions={**now.versions, "torch": "9.9"},
    )
    told = provenance.differences(history, other)
    assert "search_spaces/tiny_resnet.py" in told  # which tiny_resnext imports
    assert told.endswith("-> 9.9")
    assert "study/training/loop.py" not in told


def test_an_arm_of_another_study_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = shutil.copytree(provenance.ROOT / "search_spaces", tmp_path / "search_spaces")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    history = a_history(tmp_path)
    (spaces / "my_net.py").write_text("ARM = None\n")
    (spaces / "small_resnet.py").unlink()
    assert provenance.differences(history, provenance.session(tmp_path, ARMS)) == ""
    for used in ("__init__", "_shared", "tiny_resnet", "resnet50"):
        with (spaces / f"{used}.py").open("a") as file:
            file.write("# edited\n")
        assert f"search_spaces/{used}.py" in provenance.differences(
            history, provenance.session(tmp_path, ARMS)
        )


def test_another_plan_is_refused(tmp_path: Path) -> None:
    history = a_history(tmp_path)
    dataclasses.replace(ASKED, rope=0.01).save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="not the one that the study began with"):
        provenance.differences(history, provenance.session(tmp_path, ARMS))


def test_other_images_are_refused_with_what_differs() -> None:
    provenance.check_data(PLAN, PLAN.data)
    provenance.check_data(PLAN, dataclasses.replace(PLAN.data, note="1 file is no image and is left out."))
    fewer = dataclasses.replace(PLAN.data, train=999, fingerprint="1" * 64)
    with pytest.raises(PlanError, match="train 1000 -> 999; fingerprint 000"):
        provenance.check_data(PLAN, fewer)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--resume", "RUN", "--epochs", "9"], "leave out --epochs"),
        (["--resume", "RUN", "--looks=2"], "leave out --looks"),
        (["--resume", "RUN", "--budget", "1cpu-hours", "--arms", "a,b"], "extended once"),
        (["--resume", "RUN", "--budget", "1cpu-days"], "is not understood"),
        (["--resume", "RUN", "--arms", "tiny_resnet,nothing"], "no arm 'nothing'"),
        (["--resume", "nowhere"], "no study in it"),
        (["--resume", "n" * 5000], "too long"),
        (["--accept-changed-code", "--budget", "1cpu-hours"], "goes with --resume"),
        ([], "--budget is missing"),
    ],
)
def test_flags_that_do_not_go_together_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    PLAN.save(tmp_path / "plan.json")
    with pytest.raises(SystemExit) as ended:
        Options.parse([f.replace("RUN", str(tmp_path)) for f in flags])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_question_is_the_plans(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    options = Options.parse(["--resume", str(tmp_path), "--accept-changed-code"])
    assert (options.budget, options.arms, options.out) == (PLAN.budget, PLAN.arms, tmp_path)
    assert options.accept_changed_code
