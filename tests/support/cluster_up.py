"""``python -m tests.support.cluster_up FOLDER``: cluster.yaml from up to down, on two hosts made of namespaces.

Each host has its own network address, processes, /tmp/ray, home and SSH server, so that ``ray up``, and the
``ray stop`` in it, affect nothing else on this machine; all ports are on a bridge of this machine
alone. The config is cluster.yaml's own with the provider changed to Ray's local one; of its commands
only those are left out that install system packages, export a disk or copy to a bucket (``LEFT_OUT``):
both hosts see one folder as /study instead. pip finds the exact versions in place.
Needs root, iproute2, rsync and OpenSSH's server. Writes the transcript to FOLDER/transcript.txt.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("apt-get", "exportfs", "crontab", "sudo mkdir", "boto3")
TOOLS = ("sshd", "ssh", "rsync", "ip", "unshare")
HEAD, WORKER = "10.213.77.2", "10.213.77.3"
BRIDGE = "study-br"
STUDY = "--budget 8cpu-minutes --arms tiny_resnet,tiny_resnext --data digits --epochs 3 --seed 3"
HOST = """
set -e
mount --make-rprivate /
case "$3" in /root/*) mkdir -p "$0/home${3#/root}" && mount --bind "$3" "$0/home${3#/root}";; esac
mount --rbind "$0/home" /root
mount --bind "$0/tmp" /tmp/ray
mount --bind "$1" /study
mount -t tmpfs -o mode=755 none /run/sshd
hostname "$2"
exec /usr/sbin/sshd -D -e -f "$0/sshd_config"
"""
"""Process 1 of a host. $0: its folder, $1: the shared disk, $2: its name, $3: Python's folder, perhaps in root's home."""


def missing(tools: tuple[str, ...] = TOOLS) -> str:
    """The reason why this machine cannot run what needs root, namespaces and ``tools``; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, to make hosts of namespaces"
    if absent := [tool for tool in tools if not shutil.which(tool, path=_PATH)]:
        return f"needs {', '.join(absent)}"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "namespaces cannot be made here"


_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def config(folder: Path) -> dict[str, Any]:
    """cluster.yaml for the two hosts: its own setup, mounts and start commands."""
    ours: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    del ours["available_node_types"], ours["head_node_type"]
    ours["max_workers"] = 1
    ours["provider"] = {"type": "local", "head_ip": HEAD, "worker_ips": [WORKER]}
    ours["auth"] = {"ssh_user": "root", "ssh_private_key": str(folder / "key")}
    ours["file_mounts"] = {
        "~/study": str(ROOT),
        "~/.ray/auth_token": str(folder / "auth_token"),
    }
    for name, commands in ours.items():
        if name.endswith("_commands"):
            ours[name] = [c for c in commands if not any(word in c for word in LEFT_OUT)]
    return ours


@contextmanager
def hosts(folder: Path) -> Iterator[None]:
    """The head's and the worker's host, up and listening for SSH with the key in ``folder``."""
    with ExitStack() as closing:
        made = [p for p in (Path("/study"), Path("/run/sshd"), Path("/tmp/ray")) if not p.exists()]
        for place in made:
            place.mkdir()
            closing.callback(_remove, place)
        _ip(f"link add {BRIDGE} type bridge")
        closing.callback(_ip, f"link del {BRIDGE}")
        _ip(f"addr add 10.213.77.1/24 dev {BRIDGE}")
        _ip(f"link set {BRIDGE} up")
        for name, address in (("head", HEAD), ("worker", WORKER)):
            space = f"study-{name}"
            _ip(f"netns add {space}")
            closing.callback(_ip, f"netns del {space}")
            _ip(f"link add {space} type veth peer name eth0 netns {space}")
            _ip(f"link set {space} master {BRIDGE} up")
            for line in ("link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up",
                         "route add default via 10.213.77.1"):  # fmt: skip
                _ip(f"-n {space} {line}")
            host = _furnish(folder, name, address)
            log = closing.enter_context((host / "log").open("w"))
            process = subprocess.Popen(
                ["ip", "netns", "exec", space, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts",
                 "bash", "-c", HOST, str(host), str(folder / "shared"), space, sys.base_prefix],
                stdout=log, stderr=log,
            )  # fmt: skip
            closing.callback(process.wait, 30)
            closing.callback(process.kill)
        yield


def _furnish(folder: Path, name: str, address: str) -> Path:
    """A host's home with the packages of this Python, and its SSH server's configuration."""
    host = folder / name
    for part in ("home", "tmp"):
        (host / part).mkdir(parents=True)
    (host / "home" / "env").symlink_to(folder / "env")
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", host / "hostkey"], check=True)
    (host / "sshd_config").write_text(
        f"ListenAddress {address}\nHostKey {host / 'hostkey'}\nAuthorizedKeysFile {folder / 'key.pub'}\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\nPidFile none\n"
        "Subsystem sftp internal-sftp\n"
    )
    return host


def _environment(folder: Path) -> None:
    """~/env: a virtual environment with access to this one's packages, so that pip installs nothing."""
    env = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (env / library / "base.pth").write_text(f"{Path(sys.prefix) / library}\n")
    for command, module in (("ray", "ray.scripts.scripts"), ("pip", "pip")):
        script = env / "bin" / command
        script.write_text(f'#!/bin/sh\nexec {env / "bin" / "python"} -m {module} "$@"\n')
        script.chmod(0o755)


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


def _remove(place: Path) -> None:
    if not any(place.iterdir()):
        place.rmdir()


class Transcript:
    """Runs commands as a user would type them, and records the output."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "transcript.txt"
        self._began = time.monotonic()

    def type(self, *command: str, timeout: float = 300) -> str:
        """Run a command and return its output. Raises RuntimeError if it fails."""
        self.say(
            f"$ {' '.join(c if re.fullmatch(r'[-./:=@,+~a-zA-Z0-9]+', c) else repr(c) for c in command)}"
        )
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", *command[1:]] if command[0] == "ray" else command,
            cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout, check=False, env={**os.environ, "TERM": "dumb", "PATH": _PATH},
        )  # fmt: skip
        output = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout).replace("\r", "")
        self.say(output.rstrip())
        if done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}: {output[-2000:]}")
        return output

    def say(self, text: str) -> None:
        stamp = f"[{time.monotonic() - self._began:5.0f} s] " if text.startswith("$") else ""
        with self._path.open("a") as file:
            print(f"{stamp}{text}", file=file)


def up_and_down(folder: Path) -> str:
    """Run a study on a cluster made by ``ray up``. Returns its last words; its report is in ``folder``/first."""
    folder.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    (folder / "auth_token").write_text(os.urandom(32).hex())
    (folder / "shared").mkdir()
    _environment(folder)
    (folder / "cluster.yaml").write_text(yaml.safe_dump(config(folder), sort_keys=False))
    log = Transcript(folder)
    with hosts(folder):
        _wait(lambda: "OpenSSH" in _banner(), 20)
        log.type("ray", "up", "cluster.yaml", "--yes", "--no-config-cache", "--log-style", "pretty")
        try:
            return _study(log)
        finally:
            log.type("ray", "down", "cluster.yaml", "--yes", "--log-style", "pretty")


def _study(log: Transcript) -> str:
    def on_head(command: str) -> str:
        return log.type("ray", "exec", "cluster.yaml", command)

    _wait(lambda: "CPU" in on_head("ray status"), 120)
    on_head(
        "cd ~/study && ray job submit --no-wait --submission-id first -- "
        f"python ~/study/study/run.py {STUDY} --out /study/first --address 127.0.0.1:6379 --wait-for 2"
    )
    _wait(lambda: _started(on_head("ray job status first; ls /study/first || true")), 300, every=15)
    on_head("cd ~/study && python -m study status /study/first")
    on_head("ray job stop first")
    said = on_head("ray job logs first")
    on_head(
        "cd ~/study && ray job submit --no-wait --submission-id second -- "
        "python ~/study/study/run.py --resume /study/first --address 127.0.0.1:6379 --wait-for 2"
    )
    _wait(lambda: _ended(on_head("ray job status second")), 900, every=45)
    said += on_head("ray job logs second")
    log.type("ray", "rsync-down", "cluster.yaml", "/study/first/", "first")
    log.type("ls", "first")
    return said


def _started(said: str) -> bool:
    return _ended(said) or "plan.json" in said


def _ended(said: str) -> bool:
    if "failed" in said:
        raise RuntimeError(said[-3000:])
    return "succeeded" in said


def _banner() -> str:
    done = subprocess.run(
        ["bash", "-c", f"exec 3<>/dev/tcp/{HEAD}/22 && head -c 20 <&3"], capture_output=True, text=True, check=False
    )  # fmt: skip
    return done.stdout


def _wait(until: Any, seconds: float, every: float = 2.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:.0f} s in vain")
        time.sleep(every)


if __name__ == "__main__":
    if missing():
        sys.exit(missing())
    up_and_down(Path(sys.argv[1]).resolve())
