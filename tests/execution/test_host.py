"""What a machine lets a study use: cores by affinity and quota, a home, a folder for Ray. Ray is not started."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from study import memory
from study.execution import host
from study.execution.meter import Meter
from study.protocol.errors import InputError


@pytest.fixture
def one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_core")
def test_cores_are_those_that_the_process_may_use() -> None:
    assert memory.cores() == 1


@pytest.mark.parametrize(
    ("lines", "controller", "quota"),
    [
        ("0::/job/step", "", {"cpu.max": "{} 100000"}),
        ("4:cpu,cpuacct:/job/step\n0::/", "cpu", {"cpu.cfs_quota_us": "{}", "cpu.cfs_period_us": "100000"}),
    ],
    ids=["cgroup 2", "cgroup 1"],
)
def test_cores_are_limited_by_the_tightest_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, controller: str, quota: dict[str, str]
) -> None:
    mine, top = tmp_path / "cgroup", tmp_path / "groups"
    mine.write_text(lines)
    monkeypatch.setattr(memory, "OWN_CGROUP", mine)
    monkeypatch.setattr(memory, "CGROUPS", top)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(128))
    for path, microseconds, left in (
        ("", "max" if not controller else "-1", 128),
        ("job", "450000", 4),
        ("job/step", "800000", 4),
        ("job/step", "50000", 1),
    ):
        group = top / controller / path
        group.mkdir(parents=True, exist_ok=True)
        for name, text in quota.items():
            (group / name).write_text(text.format(microseconds))
        assert memory.cores() == left


def test_threads_are_limited_by_the_fullest_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, top = tmp_path / "cgroup", tmp_path / "groups"
    mine.write_text("8:pids:/job/step\n0::/")
    monkeypatch.setattr(memory, "OWN_CGROUP", mine)
    monkeypatch.setattr(memory, "CGROUPS", top)
    monkeypatch.setattr(os, "getuid", lambda: 0)  # whom the limit on a user does not concern
    for path, limit, used in (("", "max", 900), ("job", "500", 120), ("job/step", "400", 10)):
        group = top / "pids" / path
        group.mkdir(parents=True, exist_ok=True)
        (group / "pids.max").write_text(limit)
        (group / "pids.current").write_text(str(used))
    assert memory.free_threads() == 380


@pytest.mark.parametrize(
    ("has", "names"), [("FILES", "ulimit -n"), ("THREADS", "pids.max"), ("MEMORY", "GiB of memory")]
)
def test_a_machine_on_which_ray_cannot_start_is_refused_at_once(
    has: str, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "")  # put back
    monkeypatch.setattr(host, "free_threads", lambda: 10_000)
    with host.prepared(print, starts_ray=True):
        pass
    monkeypatch.setattr(host, has, 2**62)
    with pytest.raises(InputError, match=names), host.prepared(print, starts_ray=True):
        pass


@pytest.mark.parametrize("pins", ["OMP_PLACES=cores", "OMP_PROC_BIND=true", "GOMP_CPU_AFFINITY=0"])
def test_trials_are_not_pinned_to_one_core(pins: str) -> None:
    """torch's OpenMP reads these when it is loaded, and would pin every trial's process to the same core."""
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is only one core")
    name, _, value = pins.partition("=")
    library = next((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    look = f"import ctypes, os; ctypes.CDLL({str(library)!r}); print(len(os.sched_getaffinity(0)))"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_PROC_BIND", raising=False)
        patch.setenv(name, value)
        assert _output(look) == "1"
        with host.prepared(print):
            assert _output(look) != "1"


def _output(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_without_a_home_there_is_one_for_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("OMP_PROC_BIND", "")  # both are put back
    notes: list[str] = []
    with host.prepared(notes.append):
        home = Path.home()
        (home / ".ray").mkdir()
    assert not home.exists()
    assert str(home) in notes[0]
    assert str(tmp_path / "file") in notes[0]


def test_a_relative_temporary_folder_is_the_same_one_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_PROC_BIND", "")  # put back
    monkeypatch.setenv("TMPDIR", "mine")
    monkeypatch.setenv("RAY_TMPDIR", "")
    with host.prepared(print):
        assert os.environ["TMPDIR"] == str(tmp_path / "mine")
        assert os.environ["RAY_TMPDIR"] == ""


def test_without_a_folder_for_temporary_files_the_variable_to_set_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "")  # put back
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    with pytest.raises(InputError, match="TMPDIR"), host.prepared(print):
        pass


def test_ray_gets_a_folder_with_room_for_its_sockets_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, file, notes = tmp_path / ("long" * 20), tmp_path / "file", list[str]()
    file.touch()
    for unfit in (long, file):
        monkeypatch.setenv("TMPDIR", str(unfit))
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        host.place_for_ray(notes.append)
        place = os.environ["RAY_TMPDIR"]
        assert len(place + host.SOCKET) <= 107
        assert Path(place, "ray").is_dir()
        assert os.environ["TMPDIR"] == place
        assert str(unfit) in notes[-1]
        assert place in notes[-1]
    host.place_for_ray(notes.append)  # what was found is fit
    assert len(notes) == 2
    monkeypatch.setattr(host, "ROOM", 2**62)
    with pytest.raises(InputError, match="MiB free, and Ray"):
        host.place_for_ray(notes.append)
    monkeypatch.setattr(host, "ELSEWHERE", ())
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(InputError, match="TMPDIR"):
        host.place_for_ray(notes.append)


def test_ray_keeps_objects_elsewhere_where_shared_memory_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert host.store() is None
    monkeypatch.setattr(host, "SHARED_MEMORY", "/proc/self")  # which not even root can write
    assert host.store() == f"{tmp_path}/ray"


def test_a_node_that_ray_takes_for_larger_is_refused() -> None:
    """As one that was started in a batch system's job: Ray counts the cores of the machine."""
    Meter().check_cores(memory.cores())
    with pytest.raises(InputError, match=f"--num-cpus={memory.cores()}"):
        Meter().check_cores(memory.cores() + 1)
