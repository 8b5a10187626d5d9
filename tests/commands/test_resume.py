"""A study resumes only with the same question, data and code."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from support.plans import PLAN

from study import provenance, session
from study.cli import parse
from study.protocol.errors import InputError
from study.protocol.history import History
from study.protocol.rundir import RunDir

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
    history.add(provenance.session(RunDir(home), ARMS, "sgd"))
    return history


def test_nothing_differs_in_the_same_checkout(tmp_path: Path) -> None:
    history = a_history(tmp_path)
    assert provenance.differences(history, provenance.session(RunDir(tmp_path), ARMS, "sgd")) == ""


def test_changed_code_and_versions_are_named(tmp_path: Path) -> None:
    history = a_history(tmp_path)
    now = provenance.session(RunDir(tmp_path), ARMS, "sgd")
    other = dataclasses.replace(
        now,
        code={**now.code, "search_spaces/tiny_resnet.py": "0" * 64},
        versions={**now.versions, "torch": "9.9"},
    )
    differences = provenance.differences(history, other)
    assert "search_spaces/tiny_resnet.py" in differences  # which tiny_resnext imports
    assert differences.endswith("-> 9.9")
    assert "study/training/loop.py" not in differences


def test_an_arm_of_another_study_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = shutil.copytree(provenance.ROOT / "search_spaces", tmp_path / "search_spaces")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    history = a_history(tmp_path)
    (spaces / "my_net.py").write_text("ARM = None\n")
    (spaces / "small_resnet.py").unlink()
    assert provenance.differences(history, provenance.session(RunDir(tmp_path), ARMS, "sgd")) == ""
    for used in ("__init__", "_shared", "tiny_resnet", "resnet50"):
        with (spaces / f"{used}.py").open("a") as file:
            file.write("# edited\n")
        assert f"search_spaces/{used}.py" in provenance.differences(
            history, provenance.session(RunDir(tmp_path), ARMS, "sgd")
        )


def test_the_family_of_an_arm_belongs_to_its_code() -> None:
    code = provenance.code(("timm/resnet18:lr=0.1", "tiny_resnet"), "sgd")
    assert {"search_spaces/families/timm.py", "search_spaces/tiny_resnet.py"} <= code.keys()
    assert "search_spaces/families/torchvision.py" not in code
    assert "timm" in provenance.versions()


def test_another_plan_is_refused(tmp_path: Path) -> None:
    history = a_history(tmp_path)
    dataclasses.replace(ASKED, rope=0.01).save(tmp_path / "plan.json")
    with pytest.raises(InputError, match="not the one that the study began with"):
        provenance.differences(history, provenance.session(RunDir(tmp_path), ARMS, "sgd"))


def test_other_images_are_refused_with_what_differs() -> None:
    provenance.check_data(PLAN, PLAN.data)
    provenance.check_data(PLAN, dataclasses.replace(PLAN.data, note="1 file is no image and is left out."))
    fewer = dataclasses.replace(PLAN.data, train=999, fingerprint="1" * 64)
    with pytest.raises(InputError, match="train 1000 -> 999; fingerprint 000"):
        provenance.check_data(PLAN, fewer)


@pytest.mark.parametrize(("run", "says"), [("nowhere", "no study in it"), ("n" * 5000, "too long")])
def test_a_missing_run_is_refused_and_not_created(
    run: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = parse(["--resume", run])
    with pytest.raises(InputError, match=says), session.open_run(request, session.place_of(request), print):
        pass
    assert not list(tmp_path.iterdir())


def test_the_question_comes_from_the_plan(tmp_path: Path) -> None:
    ASKED.save(tmp_path / "plan.json")
    request = parse(["--resume", str(tmp_path), "--accept-changed-code"])
    with session.open_run(request, session.place_of(request), print) as opened:
        assert (opened.plan, opened.run) == (ASKED, RunDir(tmp_path))
        assert opened.arms.keys() == set(ARMS)
    assert (tmp_path / "plan.json").exists()


def test_a_false_start_leaves_no_trace(tmp_path: Path) -> None:
    request = parse(["--budget", "1cpu-hour", "--widen", "nothing", "--out", str(tmp_path / "new")])
    with (
        pytest.raises(InputError, match="--widen nothing"),
        session.open_run(request, session.place_of(request), print),
    ):
        pass
    assert not (tmp_path / "new").exists()
