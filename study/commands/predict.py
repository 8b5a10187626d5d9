"""What an arm's best confirmed net says of image files, read as those that it was trained on."""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from study.commands.export import restored
from study.data.images import shown
from study.data.listing import candidate, files
from study.data.opened import reading_of
from study.data.reading import Reading, UnreadableError, read_each
from study.protocol import consistency
from study.protocol.errors import BAD_INPUT, DONE, InputError
from study.protocol.rundir import RunDir, replacing
from study.protocol.text import class_columns, counted, escaped
from study.storage.fetch import local
from study.training.evaluation import predict

AT_ONCE = 256
"""Images in memory."""
Row = tuple[str, NDArray[np.float32]]
"""The file as it was given, and the probability of each class."""


def command(given: argparse.Namespace, console: Console) -> int:
    run = RunDir(local(given.run, nets=True))
    plan, history = consistency.load(run)
    if given.to and given.to.exists() and not given.to.is_file():
        raise InputError(f"--to {given.to} is not a file: leave --to out to write to the terminal or a pipe")
    bad: list[str] = []
    files = _files(given.images, bad)
    _, net = restored(plan, history, run, given.arm)
    rows = _said(net, files, reading_of(plan.data), bad)
    kind = given.format or ("json" if given.to and given.to.suffix.lower() == ".json" else "csv")
    count = 0
    try:
        if given.to is None:
            _write(sys.stdout, rows, plan.data.classes, kind)
            sys.stdout.flush()
        else:
            with replacing(given.to) as file:
                text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
                count = _write(text, rows, plan.data.classes, kind)
                text.detach()  # the file is closed by ``replacing``
    except BrokenPipeError:  # a reader that has gone has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    errors = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    for sentence in bad:
        errors.print(f"error: {escaped(sentence)}")
    if given.to is not None:
        console.print(f"{given.to}: {counted(count, 'image')}")
    return BAD_INPUT if bad else DONE


def _files(given: Sequence[Path], bad: list[str]) -> list[Path]:
    """The files, and those in the folders, by name; a sentence on what is neither goes to ``bad``."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = [p for p in files(path) if candidate(p)]
            found += inside
            bad += [] if inside else [f"{shown(path)}: it holds no images"]
        elif path.is_file():
            found.append(path)
        else:
            bad.append(f"{shown(path)}: {'it is no file' if path.exists() else 'there is no such file'}")
    return found


def _said(net: nn.Module, files: Sequence[Path], reading: Reading, bad: list[str]) -> Iterator[Row]:
    """Of the files that can be read, in their order; a sentence on each other goes to ``bad``."""
    found = zip(files, read_each(files, reading), strict=True)
    while some := list(islice(found, AT_ONCE)):
        bad += [f"{shown(file)}: {got}" for file, got in some if isinstance(got, UnreadableError)]
        good = [(file, got) for file, got in some if not isinstance(got, UnreadableError)]
        if good:
            pixels = torch.from_numpy(np.stack([got for _, got in good]))
            soft = predict(net, pixels, torch.arange(len(good))).numpy()
            yield from ((shown(file), row) for (file, _), row in zip(good, soft, strict=True))


def _write(file: TextIO, rows: Iterator[Row], classes: Sequence[str], kind: str) -> int:
    """How many images."""
    columns, count = class_columns(classes), 0
    if kind == "csv":
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "prediction", *columns])
        for name, soft in rows:
            table.writerow([name, classes[int(soft.argmax())], *map(_number, soft)])
            count += 1
        return count
    file.write("[")
    for name, soft in rows:
        said: dict[str, Any] = {"image": name, "prediction": classes[int(soft.argmax())]}
        said["probabilities"] = {c: float(_number(p)) for c, p in zip(classes, soft, strict=True)}
        file.write(f"{',' if count else ''}\n{json.dumps(said, ensure_ascii=False)}")
        count += 1
    file.write("\n]\n")
    return count


def _number(probability: np.float32) -> str:
    return f"{probability:.6g}"
