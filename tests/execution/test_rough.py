"""Studies on machines as they are found. Real commands, begun as root, with processes and mounts of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster_up import missing

from study.protocol.plan import Plan
from study.protocol.rundir import RunDir

ROOT = Path(__file__).parents[2]
STUDY = (
    "study/run.py --budget 4cpu-minutes --data digits --train-fraction 0.3 --arms tiny_resnet,tiny_resnext"
)
PROXY = "http://10.255.255.1:3128"
"""Where nothing answers."""
ALONE = (
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
LITTLE = f"""
mkdir -p /tmp/ray
mount -t tmpfs -o size=64m none /dev/shm
mount -t tmpfs -o ro none /tmp/ray
mount -t tmpfs -o size=4k none /mnt && echo full > /mnt/file
HOME=/mnt exec {sys.executable} {STUDY} --plan
"""
LONG = "long" * 20
ROUGHEST = f"""
set -e
mount -t tmpfs none /mnt
mkdir /mnt/out && mount --bind $0 /mnt/out
mkdir -m 777 /mnt/{LONG}
mount --bind . . && mount -o remount,ro,bind .
for place in {sys.base_prefix} {sys.prefix} $PWD; do
    case $place in /root/*) mkdir -p /mnt/open$place && mount --rbind $place /mnt/open$place;; esac
done
if [ -d /mnt/open ]; then chmod 755 /mnt/open/root && mount --rbind /mnt/open/root /root; fi
cd $PWD
mkdir -p /tmp/ray
mount -t tmpfs -o ro none /dev/shm
mount -t tmpfs -o mode=755 none /tmp/ray
hostname in-no-hosts-file
exec taskset 1 setpriv --reuid 12345 --regid 12345 --clear-groups \
    env -i TMPDIR=/mnt/{LONG} OMP_PLACES=cores OMP_NUM_THREADS=64 \
    {" ".join(f"{what}_proxy={PROXY}" for what in ("http", "https", "grpc", "all"))} \
    {sys.executable} {STUDY} --out /mnt/out
"""
"""The script of a user in no passwd file, without an environment but what does harm, in a folder that cannot be written."""

pytestmark = [pytest.mark.slow, pytest.mark.hosts]


@pytest.fixture(autouse=True)
def _tools() -> None:
    if why := missing(("unshare", "mount", "setpriv", "taskset")):
        pytest.skip(why)


def _run(script: str, place: Path, timeout: float) -> str:
    """All that the study in ``script`` printed, which had to end well."""
    done = subprocess.run(
        [*ALONE, "bash", "-c", script, str(place)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_little_shared_memory_a_full_home_and_a_strangers_folder_are_no_obstacle(tmp_path: Path) -> None:
    said = _run(LITTLE, tmp_path, 300)
    assert "(/mnt)" in said
    assert "/tmp/ray is another user's" in said
    assert "This budget can" in said


def test_without_a_loopback_device_ray_is_not_started(tmp_path: Path) -> None:
    words = ["unshare", "--net", sys.executable, *STUDY.split(), "--out", str(tmp_path / "run")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "loopback" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_study_reaches_its_verdict_on_the_roughest_machine(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    said = _run(ROUGHEST, tmp_path, 550)
    for part in ("(~)", "too long a path", "/tmp/study-12345/ray"):
        assert part in said
    run = RunDir(tmp_path)
    plan = Plan.load(run.plan)
    assert (plan.machine.slots, plan.machine.threads) == (1, 1)
    assert run.verdict.exists()
    assert run.html.exists()
    assert run.html.stat().st_uid == 12345
