"""``python -m tests.support.growing FLAGS``: a cluster that starts workers for a study and ends them when idle.

Ray's own fake provider: real autoscaler, real raylets, machines that are processes. It runs in namespaces of its
own (``alone``), away from any other Ray, and leaves no process behind.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import ray
from ray.util.state import list_actors

ROOT = Path(__file__).parents[2]
ALONE = """
set -e
ip link set lo up
mount --make-rprivate /
mkdir -p /tmp/ray
mount -t tmpfs none /tmp/ray
exec "$0" -m tests.support.growing $1
"""
EMPTY = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
         "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")  # fmt: skip
CONFIG = {
    "cluster_name": "growing",
    "max_workers": 3,
    "upscaling_speed": 8,
    "idle_timeout_minutes": 0.2,
    "provider": {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
                 "disable_launch_config_check": True},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3},
    },
    "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
    **{name: [] for name in EMPTY},
}  # fmt: skip
"""A small version of cluster.yaml's node types."""


def alone(study: str, timeout: float) -> "subprocess.CompletedProcess[str]":
    """Run this module with these flags as process 1 of its own namespaces, with a loopback device only. Needs root."""
    return subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", ALONE, sys.executable, study],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"},
    )  # fmt: skip


def main() -> None:
    config = Path("/tmp/ray/growing.json")
    config.write_text(json.dumps(CONFIG))
    subprocess.run(
        ["ray", "start", "--head", "--port=6379", "--num-cpus=0", f"--autoscaling-config={config}"],
        env={**os.environ, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "0"},
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    ray.init(address="127.0.0.1:6379", log_to_driver=False)
    seen: list[int] = []
    threading.Thread(target=_watch, args=(seen,), daemon=True).start()
    time.sleep(2)
    _say(f"before: {seen[-1]} cores")
    study = subprocess.run(
        [sys.executable, "study/run.py", *sys.argv[1:], "--address", "127.0.0.1:6379", "--wait-for", "2"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    _say(study.stdout + study.stderr)
    trained = {actor.node_id for actor in list_actors(detail=True) if "Trainable" in actor.class_name}
    _say(f"trained on {len(trained)} nodes")
    _say(f"during: {max(seen)} cores, exit code {study.returncode}")
    ended, deadline = time.monotonic(), time.monotonic() + 120
    while seen[-1] and time.monotonic() < deadline:
        time.sleep(1)
    _say(f"after: {seen[-1]} cores, {time.monotonic() - ended:.0f} s later")


def _watch(seen: list[int]) -> None:
    while True:
        seen.append(int(ray.cluster_resources().get("CPU", 0)))  # type: ignore[no-untyped-call]
        time.sleep(0.5)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
