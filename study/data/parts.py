"""Which parts of a data set are the training pool and which is the sealed test.

Parts go by their names, in any capitals: train, test, and val, valid or validation. ``--test`` chooses otherwise.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from study.data.groups import numbered
from study.data.images import Files
from study.data.sources import Content, Part
from study.protocol.errors import InputError
from study.protocol.text import counted, few, listed

NAMES = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What a part's name means."""
SHARES = (1.0, 90.0)
"""Per cent that ``--test`` may set apart."""
FEWEST_GROUPS = 2
"""Groups per class in the training pool: one beside that which is validated on."""
SMALLEST_CLASS = 3
"""Images per class below which training, validation and test cannot all have one."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """The training pool, the test, and how that came about."""

    pool: Part
    test: Part | None
    """None where a share of the pool is to be set apart."""
    share: float | None = None
    """The requested share; None leaves it to the number of images."""
    notes: tuple[str, ...] = ()


def role(name: str) -> str:
    """``train``, ``val`` or ``test``; empty for any other name."""
    return NAMES.get(name.casefold(), "")


def chosen_test(word: str) -> str:
    """What was given to ``--test``, as it is. Raises InputError for what can be neither a part nor a share."""
    if not word.strip():
        raise InputError("--test is empty: name a part, as in --test val, or a share, as in --test 20%")
    if word.endswith("%"):
        share_of(word)
    return word


def share_of(test: str) -> float | None:
    """The share that ``--test`` names, None for a part's name. Raises InputError for what can be neither."""
    try:
        number = float(test.removesuffix("%"))
    except ValueError:
        return None
    if not test.endswith("%") or not SHARES[0] <= number <= SHARES[1]:
        raise InputError(
            f"--test {test} is neither a part's name, as in --test val, nor a share of all images from {SHARES[0]:g}% to "
            f"{SHARES[1]:g}%, as in --test 20%"
        )
    return number / 100


def divide(spec: str, content: Content, test: str = "") -> Division:
    """The division that ``test``, what was given to ``--test``, asks for; empty: the usual one. Raises InputError."""
    parts = content.parts
    share = None if test in parts else share_of(test)  # a part may be called by a number
    if share is not None:
        found = _division(parts, parts, (), share=share, notes=_unlabelled(content))
    elif test:
        found = _chosen(spec, content, test)
    else:
        found = _usual(spec, content)
    check(spec, content.classes, found.pool, found.test)
    return found


def _usual(spec: str, content: Content) -> Division:
    parts, unlabelled = content.parts, _unlabelled(content)
    if len(parts) == 1:
        (only,) = parts
        if "test" in map(role, content.unlabelled):
            raise InputError(
                f"{spec}: {listed(list(content.unlabelled))} holds no class folders or labels: give it those of {only}, remove it, or "
                "set a share of the other images apart with --test 20%"
            )
        told = [] if role(only) in ("train", "") else [f"{only} is the only part, and the training images"]
        return _division(parts, [only], (), notes=[*unlabelled, *told])
    train, val, sealed = (_of(parts, kind) for kind in ("train", "val", "test"))
    if not train:
        raise InputError(
            f"{spec} has no train among its parts {listed(list(parts))}: name the training images train, or choose the test with "
            "--test PART or --test 20%"
        )
    told = [f"{listed(val)} {'is' if len(val) == 1 else 'are'} the test part"] if val and not sealed else []
    return _division(parts, [*train, *(val if sealed else [])], sealed or val, notes=[*unlabelled, *told])


def _chosen(spec: str, content: Content, test: str) -> Division:
    """The named part is the test; another test part is left unused, in case it is kept for later."""
    parts = content.parts
    exact = [name for name in parts if name.casefold() == test.casefold()]
    chosen = exact or (_of(parts, role(test)) if role(test) else [])
    there = f"{spec} has {listed(list(parts))}"
    if not chosen:
        raise InputError(
            f"--test {test}: {there if len(parts) > 1 else f'{spec} has no parts'} (a folder is one if it is called {', '.join(NAMES)}). A share of all images would do: --test 20%"
        )
    named = bool(_of(parts, "train"))  # where no part is, as with folds, all others are the training images
    pool = [n for n in parts if n not in chosen and (role(n) in ("train", "val") or not (named or role(n)))]
    if not pool or (named and not _of({name: parts[name] for name in pool}, "train")):
        raise InputError(
            f"--test {test} leaves nothing to train on: {there}. --test 20% takes a share of all"
        )
    return _division(
        parts, pool, chosen, notes=[*_unlabelled(content), f"{listed(chosen)} is the test part, by --test"]
    )


def _division(
    parts: Mapping[str, Part],
    pool: Iterable[str],
    test: Sequence[str],
    *,
    notes: Iterable[str],
    share: float | None = None,
) -> Division:
    pool = list(pool)
    told = [*notes]
    if joined := [name for name in pool if role(name) != "train"] if len(pool) > 1 else []:
        told.append(f"{listed([_counted(parts, n) for n in joined])} joined to the training images")
    if unused := [name for name in parts if name not in (*pool, *test)]:
        told.append(f"{listed([_counted(parts, name) for name in unused])} left unused")
    return Division(
        pool=_joined([parts[name] for name in pool]),
        test=_joined([parts[name] for name in test]) if test else None,
        share=share,
        notes=tuple(told),
    )


def _counted(parts: Mapping[str, Part], name: str) -> str:
    return f"{name} ({counted(len(parts[name].labels), 'image')})"


def _of(parts: Mapping[str, Part], kind: str) -> list[str]:
    return [name for name in parts if role(name) == kind]


def _unlabelled(content: Content) -> list[str]:
    return [f"{listed(list(content.unlabelled))} left unused, without labels"] if content.unlabelled else []


def _joined(parts: Sequence[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    labels = np.concatenate([np.asarray(part.labels, dtype=np.int64) for part in parts])
    groups = None
    if any(part.groups for part in parts):
        groups = [group for part in parts for group in part.groups or [""] * len(part.labels)]
    files = [part.images for part in parts if isinstance(part.images, Files)]
    arrays = [part.images for part in parts if not isinstance(part.images, Files)]
    images = (
        Files(
            files[0].root,
            [name for f in files for name in f.names],
            [title for f in files for title in f.titles],
            [place for f in files for place in f.places],
        )
        if files
        else np.concatenate(arrays)
    )
    return Part(images=images, labels=labels, groups=groups)


def check(spec: str, classes: Sequence[str], pool: Part, test: Part | None = None) -> None:
    """Raises InputError where a class has too few images to be trained on or tested."""
    if len(classes) < 2:
        raise InputError(f"{spec} has one class, {classes[0]!r}: at least two are needed to tell apart")
    counts = np.bincount(np.asarray(pool.labels, dtype=np.int64), minlength=len(classes))
    tested = (
        counts
        if test is None
        else np.bincount(np.asarray(test.labels, dtype=np.int64), minlength=len(classes))
    )
    if extra := [classes[int(i)] for i in np.flatnonzero((counts == 0) & (tested > 0))]:
        raise InputError(
            f"{spec}: the test has classes that train lacks: {few(extra)}. Name them as in train (capitals count, and a folder that begins with a dot is left out), or remove them"
        )
    if counts.min() < SMALLEST_CLASS:
        raise InputError(
            f"{spec} has {counts.min()} training images of class {classes[int(counts.argmin())]!r}: at least "
            f"{SMALLEST_CLASS} of each class are needed. Add some, or remove the class"
        )
    if absent := [classes[int(i)] for i in np.flatnonzero(tested == 0)]:
        raise InputError(
            f"{spec} has no test images of {few(absent)}, and what cannot be tested cannot be judged: add some, remove the "
            "class, or set a share of all images apart with --test 20%"
        )
    if pool.groups:
        _check_groups(spec, classes, pool, FEWEST_GROUPS if test else FEWEST_GROUPS + 1)


def _check_groups(spec: str, classes: Sequence[str], pool: Part, needed: int) -> None:
    pairs = np.stack([pool.labels, numbered(pool.groups or ())], axis=1)
    counts = np.bincount(np.unique(pairs, axis=0)[:, 0], minlength=len(classes))
    if counts.min() < needed:
        raise InputError(
            f"{spec} has images of class {classes[int(counts.argmin())]!r} in {counted(int(counts.min()), 'group')}: at least {needed} are "
            "needed, since a group stays on one side of every split"
        )
