"""The valid files that inputs are drawn from: images, tables, predictions, weights, an export, a finished and a begun study."""

import os
import shutil
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from support.nets import with_nets
from support.pictures import make_images
from support.plans import AUDIT, PLAN
from support.synthetic import write_run

from study.commands.export import export
from study.data import pictures as kept
from study.data.prepare import prepare
from study.data.weights import write_seen
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan

ROOT = Path(__file__).parents[2]
ARMS = ("tiny_resnet", "small_resnet")
SETS = tuple(f"sets/{number}" for number in range(5))
"""Studies of different data sets, as many as give a mean."""


def tree(folder: Path) -> Path:
    """A copy of the sources, so that drawn arms lie in no one's checkout."""
    for name in ("study", "search_spaces", "analysis", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "recorded"))
    return folder


def grow(base: Path, *, studies: bool = True) -> Path:
    """The folder ``base`` with everything that inputs are made of, without ``studies`` images and tables only."""
    base.mkdir(parents=True)
    with chdir(base):
        make_images(Path("images"), train=8, test=5)
        _tables()
        _pictures(Path("pictures"))
        if studies:
            _studies()
    return base


def _studies() -> None:
    """A finished one, one that has begun, and an export."""
    prepared = prepare("images", seed=0, root=Path("data"))
    card = prepared.card
    run = with_nets(Path("run"), prepared, ARMS)
    write_seen(run.images, prepared, [])
    kept.save(run.pictures, prepared.train, range(8))
    export(run, ARMS[0], Path("net"))
    audits, cost = dict.fromkeys(ARMS, AUDIT), dict.fromkeys(ARMS, 1.0)
    Path("begun").mkdir()
    replace(PLAN, arms=ARMS, data=card, audits=audits, probe_cost=cost).save(Path("begun/plan.json"))
    with Ledger(Path("begun/ledger.jsonl")):
        pass
    for number, each in enumerate(SETS):
        _of_own_images(Path(each), number)


def _of_own_images(run: Path, number: int) -> None:
    """A finished study of a data set of its own, to be joined with others."""
    write_run(run, arms=ARMS, tuned=(0.92, 0.94), seed=number, luck_sd=0.004, images=200, runs=2, classes=3)
    plan, own = Plan.load(run / "plan.json"), f"{number:064d}"
    card = replace(plan.data, spec=f"folder:set{number}", fingerprint=own)
    replace(plan, data=card, test_source=own).save(run / "plan.json")
    np.save(run / "images.npy", np.arange(number * 100, number * 100 + 100, dtype=np.uint64))


def _tables() -> None:
    """Of the images, as a CSV and a shard of parquet, and of two sides' predictions in two runs each, as arrays and tables."""
    files = sorted(Path("images").rglob("*.png"))
    images = pd.DataFrame(
        {
            "path": map(str, files),
            "label": [f.parent.name for f in files],
            "split": [f.parts[1] for f in files],
        }
    )
    images = images.assign(group=[f"g{i}" for i in range(len(files))])
    images.to_csv("labels.csv", index=False)
    held = images.assign(image=[f.read_bytes() for f in files]).drop(columns="path")
    held.to_parquet("shard.parquet", row_group_size=16)
    rng = np.random.default_rng(0)
    names, labels = np.array([str(f) for f in files[:15]]), np.arange(15) % 3
    for side in ("a", "b"):
        soft = rng.dirichlet((1, 1, 1), (2, 15)).astype(np.float32)
        named = soft.argmax(axis=2)
        np.savez(f"{side}.npz", labels=labels, predictions=named, log_probabilities=np.log(soft), names=names)
        sheets = [
            pd.DataFrame(soft[run], columns=list("012")).assign(
                image=names, label=labels, run=run, prediction=named[run]
            )
            for run in range(2)
        ]
        sheet = pd.concat(sheets)[["image", "label", "run", "prediction", "0", "1", "2"]]
        sheet.to_csv(f"{side}.csv", index=False)
        sheet.to_parquet(f"{side}.parquet", index=False)


def _pictures(folder: Path) -> None:
    """One image of every format and mode that Pillow writes here."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 255, (20, 31, 4), dtype=np.uint8), "RGBA")
    deep = Image.fromarray(rng.integers(0, 4000, (20, 31), dtype=np.uint16))
    tag = Image.Exif()
    tag[0x112] = 6
    for suffix, mode, options in (
        ("png", "RGBA", {}), ("png", "P", {}), ("png", "1", {}), ("jpg", "RGB", {"exif": tag}), ("jpg", "CMYK", {}),
        ("jpg", "RGB", {"progressive": True}), ("gif", "P", {}), ("bmp", "RGB", {}), ("tif", "RGB", {"compression": "tiff_lzw"}),
        ("tif", "RGBA", {}), ("tif", "F", {}), ("tif", "LAB", {}), ("webp", "RGBA", {}), ("ppm", "RGB", {}), ("pcx", "RGB", {}),
        ("sgi", "RGB", {}), ("jp2", "RGB", {}), ("avif", "RGB", {}), ("qoi", "RGB", {}), ("dib", "RGB", {}),
    ):  # fmt: skip
        if (
            f".{suffix}" in Image.registered_extensions()
            and Image.registered_extensions()[f".{suffix}"] in Image.SAVE
        ):
            source = colour.convert("RGB") if mode in ("LAB", "P", "1", "F", "CMYK") else colour
            try:
                image = source.convert(mode) if mode != "LAB" else Image.new("LAB", source.size, (90, 3, 5))
                image.save(folder / f"{mode}{'p' if 'progressive' in options else ''}.{suffix}", **options)
            except (OSError, ValueError, KeyError):
                continue
    deep.save(folder / "deep.png")
    Image.new("L", (11_000, 11_000)).save(folder / "large.png")
    colour.save(folder / "frames.gif", save_all=True, append_images=[colour.rotate(90)])
    colour.save(folder / "frames.tif", save_all=True, append_images=[colour.rotate(90)])


def copied(base: Path, home: Path) -> Path:
    """A copy of ``base``, by links: what the commands write replaces files, except for ledgers."""

    def put(source: str, target: str) -> str:
        name = Path(source).name
        if name in ("ledger.jsonl", ".claimed"):
            return shutil.copyfile(source, target)
        os.link(source, target)
        return target

    shutil.copytree(base, home, copy_function=put)
    (home / "zero").symlink_to("/dev/zero")
    (home / "gone").symlink_to("nowhere")
    os.mkfifo(home / "fifo")
    return home
