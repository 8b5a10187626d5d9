"""Free memory, and more of the machine for a trial that ran out of it, with real Ray and Tune (two cores)."""

from pathlib import Path

import psutil
import pytest
from faults.ground import prepare_ground, run_out

from study import memory
from study.protocol.ledger import read

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


WALLS = {
    2: ("0::/job/step", "", ("memory.max", "memory.current", "inactive_file")),
    1: (
        "3:cpu:/\n2:memory:/job/step\n0::/",
        "memory",
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ),
}


@pytest.mark.parametrize("version", WALLS)
def test_free_memory_is_set_by_the_tightest_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Limits of containers or jobs: two here, one inside the other, and one that limits nothing."""
    lines, controller, (wall, used, reclaimed) = WALLS[version]
    mine, top = tmp_path / "cgroup", tmp_path / "groups"
    mine.write_text(lines + "\n")
    monkeypatch.setattr(memory, "OWN_CGROUP", mine)
    monkeypatch.setattr(memory, "CGROUPS", top)
    whole = psutil.virtual_memory()
    assert memory.all_memory() == whole.total  # no limit is set there
    for path, size, taken in (("", "max", 9), ("job", "1000", 900), ("job/step", "2000", 1500)):
        group = top / controller / path
        group.mkdir(parents=True, exist_ok=True)
        (group / wall).write_text(f"{size}\n")
        (group / used).write_text(f"{taken}\n")
        (group / "memory.stat").write_text(f"anon 1\n{reclaimed} 50\nfile 70\n")
    assert memory.free_memory() == 1000 - 900 + 50
    assert memory.all_memory() == 1000
    (top / controller / "job" / used).write_text("1200\n")
    assert memory.free_memory() == 0


@pytest.mark.long
def test_idle_workers_make_room_for_a_trial_that_needs_both_cores(tmp_path: Path) -> None:
    """Tune keeps the workers of ended trials, and each keeps its core."""
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
