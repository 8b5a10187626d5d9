"""A study resumes only with the same question, data and code."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.plans import PLAN
from support.schedules import ARMS as PLAYED
from support.schedules import a_plan, play
from support.synthetic import write_run

from study import provenance, session
from study.cli import parse
from study.data.images import Images
from study.data.sealed import Prepared
from study.data.weights import Start
from study.protocol.errors import InputError
from study.protocol.history import History
from study.protocol.ledger import Ledger, read
from study.protocol.question import Weights
from study.protocol.records import SCORED_PHASES, Scored, TestOpened
from study.protocol.rundir import RunDir, discard_partial

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


def test_what_trials_and_their_schedule_run_counts_and_nothing_else(tmp_path: Path) -> None:
    history = a_history(tmp_path)
    now = provenance.session(RunDir(tmp_path), ARMS, "sgd")
    rooms = {file.split("/")[1] for file in now.code if file.startswith("study/")}
    assert rooms == {"training", "data", "protocol", "scheduling", "execution"}
    # a study that began when the commands and loggers counted too
    history.add(dataclasses.replace(now, code={**now.code, "study/loggers/wandb.py": "0" * 64}))
    assert provenance.differences(history, now) == ""
    history.add(dataclasses.replace(now, code={**now.code, "study/training/loop.py": "0" * 64}))
    assert "study/training/loop.py" in provenance.differences(history, now)


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
    (left := tmp_path / "predictions" / "a.npz.1.partial").parent.mkdir()
    left.touch()  # by a process that was killed
    request = parse(["--resume", str(tmp_path), "--accept-changed-code"])
    with session.open_run(request, session.place_of(request), print) as opened:
        assert (opened.plan, opened.run) == (ASKED, RunDir(tmp_path))
        assert opened.arms.keys() == set(ARMS)
    assert (tmp_path / "plan.json").exists()
    assert not left.exists()


def test_only_half_written_files_of_the_asked_name_are_removed(tmp_path: Path) -> None:
    ours, others = tmp_path / "net.npz.12.partial", (tmp_path / "net.npz.partial", tmp_path / "x.12.partial")
    for path in (ours, *others):
        path.touch()
    discard_partial(tmp_path, "net.npz")
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_false_start_leaves_no_trace(tmp_path: Path) -> None:
    request = parse(["--budget", "1cpu-hour", "--widen", "nothing", "--out", str(tmp_path / "new")])
    with (
        pytest.raises(InputError, match="--widen nothing"),
        session.open_run(request, session.place_of(request), print),
    ):
        pass
    assert not (tmp_path / "new").exists()


def test_an_added_arm_that_is_refused_leaves_the_study_as_it_was(tmp_path: Path) -> None:
    prepared = _prepared()
    plan = dataclasses.replace(a_plan(minutes=20), data=prepared.card)
    plan.save(tmp_path / "plan.json")
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.add(provenance.session(RunDir(tmp_path), PLAYED, plan.recipe))
    play(plan, tmp_path / "ledger.jsonl")
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        nets = [t.id for arm in plan.arms for p in SCORED_PHASES for t in ledger.full_length(arm, p)]
        ledger.add(TestOpened(manifest=ledger.manifests[-1].sha256, trials=tuple(nets)))
        for net in nets:
            ledger.add(Scored(trial=net, test_accuracy=0.9))
    request = parse(["--resume", str(tmp_path), "--arms", ",".join((*PLAYED, "resnet50"))])
    with session.open_run(request, session.place_of(request), print) as opened:
        opened.take_up(prepared, print)  # and planning.added_arm refuses
    assert len(read(tmp_path / "ledger.jsonl").sessions) == 1
    other = parse(["--resume", str(tmp_path), "--arms", ",".join((*PLAYED, "small_resnet"))])
    with session.open_run(other, session.place_of(other), print) as opened:
        assert opened.session is not None
        assert opened.session.accepted == ""


def test_an_added_arms_weights_join_the_images_that_nets_may_have_seen(tmp_path: Path) -> None:
    prepared, run = _prepared(), RunDir(tmp_path)
    plan = dataclasses.replace(ASKED, data=prepared.card)
    record = Weights(source="file", sha256="0" * 64, trained_on="images")
    start = Start(record=record, content=np.zeros(0, np.uint8), seen=np.array([1, 2], dtype=np.uint64))
    with Ledger(run.ledger) as ledger:
        request = parse(["--resume", str(tmp_path)])
        opened = session.Opened(
            request=request, place=run, run=run, ledger=ledger, mirror=None, starts={"new": start}
        )
        opened._list_seen(plan, prepared)
        assert set(np.load(run.images)) == set(prepared.seen)
        opened._list_seen(dataclasses.replace(plan, arms=(*ARMS, "new")), prepared)
    assert set(np.load(run.images)) == {1, 2, *prepared.seen}


def test_an_arm_as_a_report_calls_it_needs_the_file_of_its_weights(tmp_path: Path) -> None:
    asked = [
        "--budget",
        "1cpu-hour",
        "--arms",
        "tiny_resnet@208b3e04,tiny_resnet",
        "--out",
        str(tmp_path / "a"),
    ]
    request = parse(asked)
    with (
        pytest.raises(InputError, match=r"the file itself: tiny_resnet@FILE\.safetensors"),
        session.open_run(request, session.place_of(request), print),
    ):
        pass


def _prepared() -> Prepared:
    rng = np.random.default_rng(0)

    def images(number: int) -> Images:
        return Images(rng.integers(0, 256, (number, 1, 8, 8), dtype=np.uint8), np.arange(number) % 2)

    return Prepared(spec="digits", classes=("x", "y"), train=images(1000), test=images(200))


def test_resuming_a_finished_study_answers_at_once_and_without_ray(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    before = (run / "ledger.jsonl").read_bytes()
    program = "import sys; from study import run; code = run.main(sys.argv[1:]); sys.exit(code or 'ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, "--resume", str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"report: {run / 'report.html'}" in done.stdout
    assert (run / "ledger.jsonl").read_bytes() == before
