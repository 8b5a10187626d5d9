"""Studies on machines as they are found. Real commands as root, with processes and mounts of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster_up import missing

ROOT = Path(__file__).parents[2]
STUDY = "study/run.py --budget 4cpu-minutes --data digits --arms tiny_resnet,tiny_resnext --plan"
PROXY = {f"{what}_proxy": "http://10.255.255.1:3128" for what in ("http", "https", "grpc", "all")}
ALONE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")

pytestmark = [pytest.mark.slow, pytest.mark.hosts]


@pytest.mark.parametrize(
    ("mounts", "environment", "says"),
    [
        (
            "mount -t tmpfs -o ro none /dev/shm; mount -t tmpfs none /tmp/ray; taskset -p 1 $$",
            PROXY | {"HOME": "/proc", "TMPDIR": "{long}", "OMP_PLACES": "cores"},
            ["(/proc)", "too long a path", "1 trials side by side, 1 core each"],
        ),
        (
            "mount -t tmpfs -o size=64m none /dev/shm; mount -t tmpfs -o ro none /tmp/ray",
            {},
            ["/tmp/ray is another user's"],
        ),
    ],
    ids=["one core, no home, no shared memory", "little shared memory, /tmp/ray not ours"],
)
def test_a_rough_machine_is_no_obstacle(
    tmp_path: Path, mounts: str, environment: dict[str, str], says: list[str]
) -> None:
    if why := missing():
        pytest.skip(why)
    long = tmp_path / ("long" * 20)
    long.mkdir()
    Path("/tmp/ray").mkdir(exist_ok=True)
    given = {name: value.format(long=long) for name, value in environment.items()}
    done = subprocess.run(
        [*ALONE, "bash", "-c", f'{mounts}; exec "$0" {STUDY}', sys.executable],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **given},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for part in (*says, "This budget can"):
        assert part in said
