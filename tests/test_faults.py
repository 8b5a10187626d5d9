"""A short fault campaign; ``python -m tests.faults`` is the long one."""

from pathlib import Path

import pytest
from faults import campaign, played
from faults.drawing import wishes
from faults.ground import prepare_ground
from support.a_ledger import a_trial

from study.protocol import rundir
from study.protocol.ledger import Ledger, read


@pytest.mark.parametrize("kind", ["second look", pytest.param("added arm", marks=pytest.mark.long)])
def test_a_study_killed_within_its_writes_decides_as_an_undisturbed_one(tmp_path: Path, kind: str) -> None:
    said: list[str] = []
    row = played.one_study(tmp_path, kind, "1", 4, said.append)
    assert not row["error"], said
    assert len(row["faults"]) >= 2
    assert (row["lost"], row["doubled"]) == (0, 0)


@pytest.mark.parametrize("step", [1, 2])
def test_a_power_cut_leaves_every_file_that_the_ledger_knows_of(tmp_path: Path, step: int) -> None:
    (home := tmp_path / "run").mkdir()
    mark = tmp_path / "mark"
    end = {
        "role": "driver",
        "file": "ledger: Trial",
        "nth": step,
        "how": "power",
        "part": 0.5,
        "mark": str(mark),
    }

    def act() -> None:
        rundir.write(home / "file", b"old")
        rundir.write(home / "file", b"new")
        with Ledger(home / "ledger.jsonl") as ledger:
            ledger.add(a_trial())

    assert not played.apart(act, wishes(home, [end]))
    assert "power" in mark.read_text()
    assert (home / "file").read_bytes() == b"new"
    assert len(read(home / "ledger.jsonl").trials) == step - 1  # the line was written, then it was synced


@pytest.mark.long
@pytest.mark.parametrize(("stage", "faults"), [("study", 4), ("second look", 2)])
def test_a_broken_study_ends_as_an_undisturbed_one(
    tmp_path_factory: pytest.TempPathFactory, stage: str, faults: int
) -> None:
    ground = prepare_ground(tmp_path_factory.getbasetemp() / "broken")
    said: list[str] = []
    kinds = ["writes", "worker killed", "ledger torn"]
    row = campaign.one_study(ground, stage, "1", faults, kinds, said.append)
    assert not row["error"], said
    assert row["faults"]
    assert (row["lost"], row["doubled"], row["verdict"]) == (0, 0, True)
