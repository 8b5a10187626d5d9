"""Image folders for tests, and a manifest that unseals their test part."""

from pathlib import Path

from study.data.prepare import prepare
from study.data.sealed import Prepared
from study.protocol.records import Choice, Manifest

CHOICE = Choice(
    pair=0, config={"lr": 0.1}, default=False, trials=("t1",), val_accuracy=0.5, lead=0.01, lead_se=0.01,
    run_variance=0.0, runs=3, ties="",
)  # fmt: skip


MANIFEST = Manifest.of({"a": (CHOICE,)}, {"a": 0})


def folder(path: Path, seed: int = 0) -> Prepared:
    return prepare(f"folder:{path}", seed=seed, root=path / "unused")
