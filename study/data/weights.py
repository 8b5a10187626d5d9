"""Weights that arms begin from: found once on the driver, hashed and checked, then shipped to the trials as they are.

Only safetensors are read: other files of weights are pickles, which could run code. An export of this project comes with the
hashes of the images that its net has seen, and a study whose sealed test holds one of them refuses it.
"""

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

import search_spaces
from search_spaces import Arm, Published
from search_spaces._names import parse
from search_spaces._pins import spelled
from search_spaces._weights import SCALE, SHIFT
from study.data.images import check_file, shown
from study.data.sealed import Hashes, Prepared
from study.protocol.errors import InputError
from study.protocol.question import Weights
from study.protocol.rundir import IMAGES, replacing
from study.protocol.rundir import write as write_file
from study.protocol.text import first_line

HUB = "hub:"
"""Before a repository and a file, in place of a path."""
FILE = "weights.safetensors"
OURS, SIZE, LISTED, CLASSES = "data", "size", "images", "classes"
"""What an export's file says of itself: its data set, its pixels per side, the SHA-256 of the list of its images, its classes."""
PATIENCE = 4.0
"""Seconds that the hub has for a first answer."""
NONE: Hashes = np.zeros(0, dtype=np.uint64)
Content = NDArray[np.uint8]
"""A file of weights, byte for byte: as Ray ships it without copies on a node."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What an arm begins from."""

    record: Weights
    content: Content
    seen: Hashes = field(default_factory=lambda: NONE)
    """The images that the weights were trained on, where they are known."""
    classes: tuple[str, ...] | None = None
    """Of those images, in the head's order, where they are known."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An arm as a study has it."""

    name: str
    """Short and in one spelling, whatever was typed: a file of weights is the first digits of its SHA-256."""
    arm: Arm
    start: Start | None


def chosen(typed: str, recipe: str) -> Chosen:
    """The arm that was typed, with its weights. Raises ArmError when there is none, InputError when these cannot be had."""
    name, arm = parse(typed), search_spaces.load(typed, recipe)
    start = None
    if name.weights and not re.fullmatch(r"[0-9a-f]+", name.weights):
        if shown(name.weights) != name.weights:
            raise InputError(
                f"the name {shown(name.weights)} is no text, or more than a line: rename the file"
            )
        tagged = search_spaces.load(str(replace(name, weights="", pins=())), recipe).weights
        said = arm.published if tagged else None
        if said:
            said = replace(said, images=f"{said.images} if the file is the tag's")
        start = _read(name.weights, Path(name.weights), typed, said)
        name = name.with_hash(start.record.sha256)
    elif arm.weights and arm.published and not name.weights:
        source, path = _fetched(typed, arm.published)
        start = _read(source, path, typed, arm.published)
    return Chosen(name=str(replace(name, pins=spelled(arm, name.pins))), arm=arm, start=start)


def tensors(content: Content) -> dict[str, Tensor]:
    """The tensors of a file of weights; an export's come with the input that its net was trained on."""
    raw = content.tobytes()
    found: dict[str, Tensor] = load(raw)
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    if SCALE not in found and OURS in header.get("__metadata__", {}):
        found |= {SCALE: torch.tensor(1.0), SHIFT: torch.tensor(0.0)}
    return found


def check_unseen(starts: Mapping[str, Start], prepared: Prepared) -> None:
    """Raises InputError if an arm's weights have been trained on images of the sealed test."""
    for name, start in starts.items():
        if count := prepared.tested_among(start.seen):
            raise InputError(
                f"{count} of the {prepared.card.test} sealed test images are among those that the weights of {name} were trained "
                f"on ({start.record.trained_on}): its test accuracy would be too good. Use weights that have not seen them, "
                "other test images, or train from scratch"
            )


def write_seen(path: Path, prepared: Prepared, starts: Sequence[Start]) -> None:
    """Write the hashes of all images that a net of the study may have seen, itself or through its weights, ascending; those
    listed before stay. Raises InputError when these cannot be read.
    """
    seen = [prepared.seen, *(start.seen for start in starts)]
    if path.exists():
        try:
            seen.append(_hashes(path.read_bytes()))
        except ValueError as error:
            raise InputError(
                f"{shown(path)} is damaged: put back a copy, or remove it, and it is made anew of this study's images"
            ) from error
    with replacing(path) as file:
        np.save(file, np.unique(np.concatenate(seen)))


def write(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    trial: str,
    data: str,
    size: int,
    seen: Path,
    classes: Sequence[str] = (),
) -> None:
    """Write a net's weights into ``folder``, with the list ``seen`` of the images that it may have seen, if there is one."""
    about = {
        "trial": trial,
        OURS: data,
        SIZE: str(size),
        **({CLASSES: json.dumps(list(classes))} if classes else {}),
    }
    if seen.exists():
        listed = seen.read_bytes()
        write_file(folder / IMAGES, listed)
        about[LISTED] = hashlib.sha256(listed).hexdigest()
    content = save({name: tensor.contiguous() for name, tensor in state.items()}, metadata=about)
    write_file(folder / FILE, content)


def again(name: str, record: Weights) -> Start:
    """The weights of a study that goes on. Raises InputError when they are not what they were."""
    if record.source.startswith(HUB):
        repository, _, file = record.source.removeprefix(HUB).rpartition("/")
        path = _download(name, repository, file)
    else:
        path = Path(record.source)
    found = _read(record.source, path, name, None)
    if found.record.sha256 != record.sha256:
        raise InputError(
            f"the weights of {name} are not those that the study began with: {shown(record.source)} has the SHA-256 "
            f"{found.record.sha256[:16]}..., and had {record.sha256[:16]}...: put the file back, or start a new study"
        )
    return replace(found, record=record)


def _fetched(name: str, published: Published) -> tuple[str, Path]:
    if not published.repository or not published.file.endswith(".safetensors"):
        raise InputError(
            f"the weights of {name} are on no hub as safetensors, and other files are not read: choose another tag, or "
            "leave it out to train from scratch"
        )
    path = _download(name, published.repository, published.file)
    return f"{HUB}{published.repository}/{published.file}", path


def _download(name: str, repository: str, file: str) -> Path:
    """The file in the hub's cache on this machine, fetched unless it is there."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    if isinstance(cached := try_to_load_from_cache(repository, file), str):
        return Path(cached)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries, a line each
    folder = repository.rpartition("/")[2]  # the files of all models have one name
    try:
        get_hf_file_metadata(
            hf_hub_url(repository, file), timeout=PATIENCE
        )  # once; the download tries for half a minute
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # the hub, the network and the disk raise what they like
        raise InputError(
            f"the weights of {name} cannot be fetched ({type(error).__name__}: {first_line(error)}). Where there is a network: "
            f"hf download {repository} {file} --local-dir {folder}; bring {folder}/{file} here and write --arms {name}@{folder}/{file}"
        ) from error


def _read(source: str, path: Path, name: str, published: Published | None) -> Start:
    try:
        check_file(path)
        with path.open("rb") as file:
            content = np.frombuffer(file.read(), dtype=np.uint8)
        with safe_open(path, "pt") as opened:
            about: dict[str, str] = opened.metadata() or {}
    except OSError as error:
        raise InputError(
            f"the weights of {name} cannot be read: {shown(path)}: {error.strerror or error}"
        ) from error
    except SafetensorError as error:
        raise InputError(f"{shown(path)} is no file of safetensors: {first_line(error)}") from error
    seen = _seen(path, about)
    ours = OURS in about
    record = Weights(
        source=source,
        sha256=hashlib.sha256(content.data).hexdigest(),
        trained_on=shown(about[OURS])[:300]
        if ours
        else published.images
        if published
        else "images unknown to this study",
        size=_size(path, about) if ours else published.size if published else 0,
        images=len(seen),
    )
    return Start(record=record, content=content, seen=seen, classes=_classes(about) if ours else None)


def _classes(about: Mapping[str, str]) -> tuple[str, ...] | None:
    try:
        found = json.loads(about.get(CLASSES, ""))
    except (ValueError, RecursionError):  # an export of an earlier version, or a foreign file
        return None
    return tuple(map(str, found)) if isinstance(found, list) else None


def _size(path: Path, about: Mapping[str, str]) -> int:
    size = about.get(SIZE, "")
    if not re.fullmatch(r"[1-9][0-9]{0,4}", size):
        raise InputError(
            f"{shown(path)} does not say the size of the images that it was trained on: export the net again"
        )
    return int(size)


def _seen(path: Path, about: Mapping[str, str]) -> Hashes:
    """The images that an export's net has seen. Raises InputError when their list is not the one made with it."""
    if LISTED not in about:
        return NONE
    side = path.with_name(IMAGES)
    try:
        check_file(side)
        listed = side.read_bytes()
        if hashlib.sha256(listed).hexdigest() != about[LISTED]:
            raise InputError(
                f"{shown(side)} is not the list of images that {shown(path.name)} was exported with"
            )
        return _hashes(listed)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{shown(path)} was exported with the list of its training images, {IMAGES}, which cannot be read beside it: copy "
            "the whole folder of the export"
        ) from error


def _hashes(listed: bytes) -> Hashes:
    """Raises ValueError."""
    try:
        seen: Hashes = np.load(io.BytesIO(listed), allow_pickle=False)
        if seen.dtype != NONE.dtype or seen.ndim != 1:
            raise ValueError(f"its hashes are {seen.dtype}")
    except Exception as error:  # foreign bytes: numpy has a dozen ways to fail
        raise ValueError(str(error)) from error
    return seen
