"""A trial that ran out of memory gets more of the machine, with Ray and Tune as they are (two cores)."""

from pathlib import Path

import pytest
from faults.campaign import prepare_ground, run_out

from study.ledger import read

HUNGRY = """

import dataclasses
from pathlib import Path

_build = ARM.build


def _hungry(config, images):
    tried = Path({mark!r})
    if not tried.exists():
        tried.touch()
        raise MemoryError("made up")
    return _build(config, images)


ARM = dataclasses.replace(ARM, build=_hungry)
"""


@pytest.mark.slow
def test_idle_workers_make_room_for_a_trial_that_needs_both_cores(tmp_path: Path) -> None:
    """Tune keeps workers that have ended a trial, and each of them goes on holding its core."""
    ground = prepare_ground(tmp_path, budget=30.0)
    arm = ground.repo / "search_spaces" / "tiny_resnet.py"
    arm.write_text(arm.read_text() + HUNGRY.format(mark=str(tmp_path / "tried")))
    home = ground.begin("hungry", slots=2)
    run_out(ground, home, clocked=False)
    history = read(home / "ledger.jsonl")
    ((trial, resumed),) = (
        (t, r) for t, records in history.resumed.items() for r in records if r.fraction == 2
    )
    assert "out of memory" in resumed.reason
    assert history.outcomes[trial].state == "finished"
