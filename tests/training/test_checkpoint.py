"""A checkpoint is complete or absent, and training resumes from it to the last digit."""

import dataclasses
from pathlib import Path

import pytest
import torch
from support.training import CPU, a_trial, measures
from torch import nn

from study.data.sealed import Prepared
from study.protocol.plan import Plan
from study.protocol.records import Epoch
from study.training import checkpoint
from study.training.checkpoint import pack
from study.training.evaluation import Split
from study.training.loop import Training
from study.training.trial import training

STATE = {"epoch": 2, "net": {"weight": torch.arange(3.0)}, "measures": [{"epoch": 1}]}


def test_a_checkpoint_comes_back_unchanged_and_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    checkpoint.save(path, pack(STATE))
    loaded = checkpoint.load(path, CPU)
    assert loaded is not None
    assert loaded["measures"] == STATE["measures"]
    assert torch.equal(loaded["net"]["weight"], torch.arange(3.0))
    assert [p.name for p in tmp_path.iterdir()] == ["t.pt"]


@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_a_torn_checkpoint_falls_back_to_the_previous_one(tmp_path: Path, left: int) -> None:
    path = tmp_path / "t.pt"
    checkpoint.save(path, pack({**STATE, "epoch": 1}))
    checkpoint.save(path, pack(STATE))
    path.write_bytes(path.read_bytes()[:left])
    loaded = checkpoint.load(path, CPU)
    assert loaded is not None
    assert loaded["epoch"] == 1
    checkpoint.keep_only(path)
    assert checkpoint.load(path, CPU) is None


def test_only_a_whole_file_at_the_last_epoch_is_a_trained_net(tmp_path: Path) -> None:
    """A frozen worker that wakes writes an older one over the final one."""
    path = tmp_path / "t.pt"
    assert not checkpoint.is_trained(path, 2)
    checkpoint.save(path, pack(STATE))
    assert checkpoint.is_trained(path, 2)
    checkpoint.save(path, pack({**STATE, "epoch": 1}))
    assert not checkpoint.is_trained(path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert not checkpoint.is_trained(path, 1)


def test_a_pickle_from_outside_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"net": print}, tmp_path / "t.pt")
    assert checkpoint.load(tmp_path / "t.pt", CPU) is None


def test_a_checkpoint_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    checkpoint.save(path, pack(STATE))
    (tmp_path / "t.before.pt").mkdir()  # blocks the previous checkpoint
    with pytest.raises(OSError, match="directory"):
        checkpoint.save(path, pack({**STATE, "epoch": 3}))
    loaded = checkpoint.load(path, CPU)
    assert loaded is not None
    assert loaded["epoch"] == 2
    with pytest.raises(OSError, match="gone"):
        checkpoint.save(tmp_path / "gone" / "t.pt", pack(STATE))


def in_pieces(make: Training, again: Training, path: Path) -> list[Epoch]:
    """Train one step at a time, and resume from a checkpoint after each."""
    epochs: list[Epoch] = []
    runs, done = (make, again), 0
    while len(epochs) < 2:
        run = runs[done % 2]
        epoch = run.advance(0.0)
        epochs += [epoch] if epoch else []
        checkpoint.save(path, pack(run.state()))
        state = checkpoint.load(path, CPU)
        assert state is not None
        done += 1
        runs[done % 2].load(state)
    assert done > 4
    return epochs


@pytest.mark.parametrize("policy", ["flip+crop+cutout", "trivial", "flip+resizedcrop.35"])
def test_training_goes_on_within_an_epoch_to_the_last_digit(
    plan: Plan, digits: Prepared, tmp_path: Path, policy: str
) -> None:
    trial = a_trial(augment=policy, batch_size=256)
    whole = list(training(plan, trial, digits.train, CPU).epochs())
    pieces = [training(plan, trial, digits.train, CPU) for _ in range(2)]
    assert measures(in_pieces(pieces[0], pieces[1], tmp_path / "t.pt")) == measures(whole)


def test_dropout_goes_on_too(tmp_path: Path) -> None:
    """Dropout draws from torch's global generator, whose state is part of the checkpoint."""
    images = torch.arange(4 * 64, dtype=torch.uint8).repeat(4, 1).reshape(64, 1, 4, 4)
    everything = torch.arange(64)
    data = Split(images=images, labels=everything % 2, train=everything, val=everything)
    trial = dataclasses.replace(a_trial(batch_size=16), config={**a_trial().config, "batch_size": 16})

    def run() -> Training:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 2))
        return Training(net, trial, data, classes=2)

    whole = list(run().epochs())
    assert measures(in_pieces(run(), run(), tmp_path / "t.pt")) == measures(whole)
