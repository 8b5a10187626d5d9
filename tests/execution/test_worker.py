"""What workers report for trials that resume or fail, and its bookkeeping (without Ray)."""

import ctypes
import dataclasses
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.a_ledger import an_epoch
from support.plans import AUDIT
from support.schedules import ARMS, a_plan
from support.training import CPU, a_trial

from search_spaces import ImageSpec, load
from study.data import weights
from study.data.sealed import Prepared
from study.execution.callback import LEAVE_SECONDS, Runner
from study.execution.messages import Assignment, Blocked, Event, Failed, Message, Restored, Trained
from study.execution.trainable import StudyTrial, slice_seconds
from study.memory import out_of_memory
from study.protocol.errors import StudyError
from study.protocol.ledger import Ledger, read
from study.protocol.plan import Plan
from study.protocol.records import Epoch, asdict
from study.protocol.rundir import RunDir
from study.scheduling.schedule import Schedule
from study.training import checkpoint
from study.training.device import describe
from study.training.trial import start


def a_worker(plan: Plan, data: Prepared, home: Path, *, epochs: int, again: bool) -> StudyTrial:
    """A worker as Ray Tune sets it up, after its first message."""
    worker = object.__new__(StudyTrial)
    given = Assignment(trial=a_trial(epochs=3), epochs=epochs, again=again, fraction=1.0)
    worker.setup(given.config(), plan=asdict(plan), pool=data.train, home=str(home))
    worker._began = True
    return worker


def event(worker: StudyTrial) -> Event:
    """The event of the worker's next step."""
    message = Message.of(worker.step())
    assert message is not None
    return message.event


def epochs_of(worker: StudyTrial, upto: int) -> list[Epoch]:
    """The epochs it reports, up to this one."""
    found: list[Epoch] = []
    while not found or found[-1].epoch < upto:
        if isinstance(said := event(worker), Trained):
            found.append(said.epoch)
    return found


def test_epochs_missing_from_the_ledger_come_from_the_checkpoint(
    plan: Plan, digits: Prepared, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    first = a_worker(plan, digits, tmp_path, epochs=0, again=False)
    second = epochs_of(first, upto=2)[-1]
    first._save()
    again = a_worker(plan, digits, tmp_path, epochs=1, again=True)  # the second report was lost
    restored = event(again)
    assert isinstance(restored, Restored)
    assert restored.epoch == 1
    assert restored.seconds == pytest.approx(second.train_seconds + second.eval_seconds)
    epochs = epochs_of(again, upto=3)
    assert epochs[0].val_loss == second.val_loss
    _, whole = start(plan, a_trial(epochs=3), digits.train, CPU)
    assert epochs[-1].val_loss == list(whole)[-1].val_loss


@pytest.mark.parametrize("net", [{}, {"other.weight": torch.zeros(3)}])
def test_a_checkpoint_of_other_code_is_ignored_and_the_trial_begins_anew(
    plan: Plan,
    digits: Prepared,
    tmp_path: Path,
    net: dict[str, torch.Tensor],
) -> None:
    """An accepted change of code does not fail the interrupted trials."""
    (tmp_path / "checkpoints").mkdir()
    other = checkpoint.pack({"epoch": 1, "measures": [{}], "net": net})
    checkpoint.save(tmp_path / "checkpoints" / "t.pt", other)
    again = a_worker(plan, digits, tmp_path, epochs=1, again=True)
    assert event(again) == Restored(epoch=0, seconds=0.0)
    _, whole = start(plan, a_trial(epochs=3), digits.train, CPU)
    assert epochs_of(again, upto=1)[-1].val_loss == next(whole).val_loss


def test_a_worker_begins_from_the_weights_that_it_was_sent(
    plan: Plan, digits: Prepared, tmp_path: Path
) -> None:
    """No file is there any more; the head, of other classes, comes from the trial's seed."""
    images = ImageSpec(channels=1, size=8, classes=3)
    given = load("tiny_resnet").build(load("tiny_resnet").default(), images)
    weights.write(tmp_path, given.state_dict(), trial="t", data="x", size=8, seen=tmp_path / "none")
    it = weights.chosen(f"tiny_resnet@{tmp_path}/{weights.FILE}", "sgd")
    assert it.start is not None
    (tmp_path / weights.FILE).unlink()
    begun = dataclasses.replace(
        plan, arms=(it.name,), audits={it.name: AUDIT}, weights={it.name: it.start.record}
    )
    worker = object.__new__(StudyTrial)
    trial = dataclasses.replace(a_trial(), arm=it.name)
    assignment = Assignment(trial=trial, epochs=0, again=False, fraction=1.0)
    worker.setup(
        assignment.config(), plan=asdict(begun), pool=digits.train, home=str(tmp_path),
        weights={it.name: it.start.content},
    )  # fmt: skip
    worker._began = True
    assert not isinstance(event(worker), Failed)
    assert worker._run is not None
    found, own = worker._run.net.state_dict(), given.state_dict()
    fit = [name for name, tensor in own.items() if found[name].shape == tensor.shape]
    assert [name for name in own if name not in fit] == ["fc.weight", "fc.bias"]
    assert all(torch.equal(found[name], own[name]) for name in fit)


def test_many_trials_report_less_often_but_before_a_stopping_study_leaves() -> None:
    assert [slice_seconds(slots) for slots in (1, 500, 700, 1000, 10_000)] == [5, 5, 7, 8, 8]
    assert 2 * slice_seconds(10_000) < LEAVE_SECONDS  # then the checkpoints are written


def test_out_of_memory_is_distinguished_from_an_arms_own_fault() -> None:
    with pytest.raises(RuntimeError) as host:
        torch.empty(2**60)
    with pytest.raises(MemoryError) as python:
        bytearray(2**62)
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert out_of_memory(host.value)
    assert out_of_memory(python.value)
    for said in (
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
    ):
        assert out_of_memory(RuntimeError(said))
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(shapes.value)


KEEPS = """
import resource, sys
import torch
from study.memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

fresh = faults()
keep_freed()
faults()  # some aligned blocks do not fit where one of their size was
kept, held = faults(), resident()
keep_freed()
print(fresh, kept, held - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_memory_freed_by_a_step_stays_with_the_process_until_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", KEEPS], capture_output=True, text=True, check=True)
    fresh, kept, given_back = map(int, done.stdout.split())
    assert kept < 0.2 * fresh
    assert given_back >= 2**26


def test_a_huge_allocation_counts_as_out_of_memory(
    plan: Plan, digits: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = a_worker(plan, digits, tmp_path, epochs=0, again=False)
    monkeypatch.setattr("study.execution.trainable.training", lambda *_: torch.empty(2**60))
    said = event(worker)
    assert isinstance(said, Failed)
    assert said.out_of_memory
    assert "can't allocate" in said.reason


def test_no_end_follows_an_epoch_that_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills between the two; the shorter line of the end would still fit."""
    real, path = os.write, tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        schedule = Schedule(a_plan(), ledger, ARMS)
        runner = Runner(schedule, RunDir(tmp_path), lambda: None, lambda: False, lambda _: None, None)
        runner.leave_for(StudyError("the disk is nearly full"))  # the first error is the one reported
        begun = schedule.next()
        assert begun is not None
        trial = begun.trial
        given = Assignment(trial=trial, epochs=0, again=False, fraction=1.0)
        epochs = [an_epoch(trial, number, 0.0) for number in range(1, trial.epochs + 1)]
        for epoch in epochs[:-1]:
            assert runner.take(Message(trial=trial.id, event=Trained(epoch=epoch, last=False)).result())
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda file, line: real(file, line[:9]))
            last = Message(trial=trial.id, event=Trained(epoch=epochs[-1], last=True)).result()
            assert runner.take(last)
        runner.on_trial_complete(0, [], SimpleNamespace(config=given.config(), last_result=last))
        schedule.slots.leave()
    history = read(path)
    assert [t.id for t in history.open] == [trial.id]
    assert len(history.epochs[trial.id]) == trial.epochs - 1


def test_a_node_with_another_model_of_the_same_kind_of_gpu_trains_nothing(
    plan: Plan, digits: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray has one name for an A100 of 40 GB, one of 80 GB and a slice of either; their run times do not compare."""
    known = SimpleNamespace(name="NVIDIA A100", multi_processor_count=108, total_memory=80 * 2**30)
    here = SimpleNamespace(name="NVIDIA A100", multi_processor_count=108, total_memory=40 * 2**30)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: known)
    gpu = describe(torch.device("cuda", 0))
    assert gpu == "NVIDIA A100, 108 multiprocessors, 80.0 GiB"
    machine = dataclasses.replace(plan.machine, resource="gpu", gpu=gpu)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: here)
    worker = a_worker(dataclasses.replace(plan, machine=machine), digits, tmp_path, epochs=0, again=False)
    result = worker.step()
    message = Message.of(result)
    assert message is not None
    assert message.event == Blocked(
        reason=f"this node has NVIDIA A100, 108 multiprocessors, 40.0 GiB, and the study was measured on {gpu}"
    )
    assert not result["done"]  # the trial did not fail: it waits for a node of the study's kind


def test_a_failed_trial_is_released_before_its_memory(
    plan: Plan, digits: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error holds its stack frames, which hold the net; its memory could not be released."""
    worker = a_worker(plan, digits, tmp_path, epochs=0, again=False)
    nets: list[weakref.ref[torch.nn.Module]] = []

    def full(*_: object) -> None:
        net = torch.nn.Linear(1, 1)
        nets.append(weakref.ref(net))
        raise torch.OutOfMemoryError("CUDA out of memory")

    left: list[object] = []
    monkeypatch.setattr("study.execution.trainable.training", full)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(nets[0]()))
    monkeypatch.setattr("study.execution.trainable.device_of", lambda *_: torch.device("cuda"))
    assert isinstance(event(worker), Failed)
    assert left == [None]
