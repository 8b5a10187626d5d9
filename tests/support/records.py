"""The recorded studies of ``support/recorded``, unpacked for a test."""

import tarfile
from pathlib import Path

RECORDED = Path(__file__).parent / "recorded"
RUNS = sorted(path.name.removesuffix(".tar.xz") for path in RECORDED.glob("*.tar.xz"))


def unpacked(name: str, to: Path) -> Path:
    with tarfile.open(RECORDED / f"{name}.tar.xz") as tar:
        tar.extractall(to, filter="data")
    return to / name
