"""``cifar10`` and ``cifar100``: colour images of 32 x 32 pixels, downloaded once by torchvision with checksums."""

from functools import partial
from pathlib import Path

import numpy as np

from study.data.sources import Content, Part, Source
from study.protocol.errors import InputError


def read(name: str, _argument: str, downloads: Path) -> Content:
    """``name`` is torchvision's. Raises InputError, with the place for a copy, when the archive cannot be fetched."""
    from torchvision import datasets

    kind = getattr(datasets, name)
    try:
        both = [kind(downloads, train=train, download=True) for train in (True, False)]
    except Exception as error:  # no network, no disk, a damaged archive: the advice is the same
        raise InputError(
            f"{name.lower()} could not be fetched: {error}. Put {kind.filename} from {kind.url} into {downloads}, "
            "or study images of your own by folder:PATH"
        ) from error
    train, test = (
        Part(
            images=np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)),
            labels=np.asarray(part.targets, dtype=np.int64),
        )
        for part in both
    )
    return Content(classes=tuple(both[0].classes), train=train, test=test)


SOURCES = (
    Source(spelling="cifar10", help="60,000 colour images of 10 classes", read=partial(read, "CIFAR10")),
    Source(spelling="cifar100", help="the same of 100 classes", read=partial(read, "CIFAR100")),
)
