"""``torchvision:NAME``: torchvision's own classification sets, downloaded once by its code with its checksums.

``cifar10`` and ``cifar100`` are short for two of them. Their archives hold pickles, which torchvision opens only when they have the
checksum that is written in its code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.images import shown
from study.data.sources import Content, Outline, Part, Source
from study.data.table import Row, content
from study.protocol.errors import InputError

Arguments = Mapping[str, Any]
FLAG: Mapping[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}
TWO: Mapping[str, Arguments] = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE: Mapping[str, Arguments] = {**TWO, "val": {"split": "val"}}
SETS: Mapping[str, Mapping[str, Arguments]] = {
    "CIFAR10": FLAG,
    "CIFAR100": FLAG,
    "Country211": {**TWO, "valid": {"split": "valid"}},
    "DTD": THREE,
    "EuroSAT": {"train": {}},
    "FGVCAircraft": THREE,
    "FashionMNIST": FLAG,
    "Flowers102": THREE,
    "Food101": TWO,
    "GTSRB": TWO,
    "Imagenette": {"train": {"split": "train"}, "val": {"split": "val"}},
    "KMNIST": FLAG,
    "MNIST": FLAG,
    "OxfordIIITPet": {"trainval": {"split": "trainval"}, "test": {"split": "test"}},
    "RenderedSST2": THREE,
    "STL10": TWO,
    "SUN397": {"train": {}},
    "SVHN": TWO,
    "USPS": FLAG,
}
"""Per set, its parts and what torchvision calls them."""


def read(name: str, downloads: Path) -> Content:
    """Raises InputError, with what would help, when the set is not known or cannot be fetched."""
    known = _known(name)
    from torchvision import datasets

    kind = getattr(datasets, known)
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        parts = {part: kind(str(downloads), download=True, **asked) for part, asked in SETS[known].items()}
    except Exception as error:  # no network, no disk, a damaged archive: the advice is the same
        archive = [getattr(kind, what, None) for what in ("filename", "url")]
        where = (
            f"Put {archive[0]} from {archive[1]}" if all(archive) else "Copy what another machine has fetched"
        )
        raise InputError(
            f"{known} could not be fetched: {' '.join(str(error).split()).rstrip('.')}. {where} into {downloads}, or study images of your own by folder:PATH"
        ) from error
    first = next(iter(parts.values()))
    if hasattr(first, "data"):
        arrays = {part: Part(images=_pixels(own.data), labels=_labels(own)) for part, own in parts.items()}
        return Content(classes=_classes(first, [part.labels for part in arrays.values()]), parts=arrays)
    root = downloads.absolute()
    listed = {part: _files(own) for part, own in parts.items()}
    classes = _classes(first, [np.array([label for _, label in own]) for own in listed.values()])
    rows = []
    for part, own in listed.items():
        for path, label in own:
            file = str(Path(path).absolute().relative_to(root))
            rows.append(Row(file=file, name=file, label=classes[label], part=part))
    return content(known, root, rows)


def outline(name: str) -> Outline:
    return Outline(name=f"torchvision:{_known(name)}")


def _known(name: str) -> str:
    """As torchvision spells it."""
    known = {each.casefold(): each for each in SETS}.get(name.casefold())
    if known is None:
        raise InputError(f"torchvision:{shown(name)} is not known. There are: {', '.join(SETS)}")
    return known


def _pixels(data: Any) -> NDArray[np.uint8]:
    """``(n, c, h, w)`` of an array or tensor that may have its colours last, or none."""
    pixels = np.asarray(data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[1] != 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels)


def _labels(own: Any) -> NDArray[np.int64]:
    return np.asarray(own.targets if hasattr(own, "targets") else own.labels, dtype=np.int64)


def _files(own: Any) -> list[tuple[str, int]]:
    """Every image's file and label: torchvision keeps them under several names."""
    pairs = getattr(own, "samples", None) or getattr(own, "_samples", None)
    if pairs is None:
        files = getattr(own, "_image_files", None) or own._images
        pairs = zip(files, own._labels, strict=True)
    return [(str(file), int(label)) for file, label in pairs]


def _classes(own: Any, labels: list[Any]) -> tuple[str, ...]:
    """Their names, or their numbers where the set has none."""
    count = 1 + max(int(np.max(each)) for each in labels)
    names = [n if isinstance(n, str) else n[0] for n in getattr(own, "classes", ())]
    return tuple(names) if len(names) >= count else tuple(f"{i:0{len(str(count - 1))}}" for i in range(count))


SOURCES = (
    Source(
        spelling="cifar10",
        help="60,000 colour images of 10 classes",
        read=lambda _, to: read("CIFAR10", to),
        outline=lambda _: outline("CIFAR10"),
    ),
    Source(
        spelling="cifar100",
        help="the same of 100 classes",
        read=lambda _, to: read("CIFAR100", to),
        outline=lambda _: outline("CIFAR100"),
    ),
    Source(spelling="torchvision:NAME", help=f"its own sets: {', '.join(SETS)}", read=read, outline=outline),
)
