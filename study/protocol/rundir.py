"""The folder of one run: the names of its files, the one atomic write, and the claim that keeps two studies apart."""

import datetime
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from study.protocol.errors import FinalError, InputError

PLAN, LEDGER, CLAIM, LOG, SEALED = "plan.json", "ledger.jsonl", ".claimed", "ray.log", "sealed_test.npz"
PICTURES = "pictures.npz"
IMAGES = "images.npy"
CHECKPOINTS, PREDICTIONS, VALIDATION, FIGURES = "checkpoints", "predictions", "validation", "figures"
SERIES = "series.json"
"""Marks a folder of runs as the series of several data sets."""
HTML, MARKDOWN, VERDICT = "report.html", "report.md", "verdict.json"
FOREIGN = "wandb"
"""A tool's own folder in a run: full of links of its making; the study neither reads nor writes there."""
PARTIAL = ".partial"
"""Suffix of a file that is being written."""


@dataclass(frozen=True)
class RunDir:
    """Paths in a run's folder. Creating one touches no disk."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def plan(self) -> Path:
        return self.path / PLAN

    @property
    def ledger(self) -> Path:
        return self.path / LEDGER

    @property
    def claim(self) -> Path:
        """Exists from the first moment, so that two studies never share a folder; names the writing process."""
        return self.path / CLAIM

    @property
    def log(self) -> Path:
        """Ray's messages."""
        return self.path / LOG

    @property
    def sealed(self) -> Path:
        """The test images, until the manifest opens them."""
        return self.path / SEALED

    @property
    def images(self) -> Path:
        """The training images as hashes, those of the arms' weights included: what a net of this run may have seen."""
        return self.path / IMAGES

    @property
    def verdict(self) -> Path:
        return self.path / VERDICT

    @property
    def html(self) -> Path:
        return self.path / HTML

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def checkpoint(self, trial: str) -> Path:
        return self.checkpoints / f"{trial}.pt"

    @property
    def predictions(self) -> Path:
        """Folder of the nets' answers on the test images."""
        return self.path / PREDICTIONS

    def prediction(self, trial: str) -> Path:
        return self.predictions / f"{trial}.npz"

    @property
    def pictures(self) -> Path:
        """Small pictures of some test images, for the report."""
        return self.path / PICTURES

    def validation(self, trial: str) -> Path:
        """What a run got right on its validation images."""
        return self.path / VALIDATION / f"{trial}.npz"

    # -- the claim

    def take(self) -> None:
        """Create the folder and claim it. Raises InputError when it holds anything, or cannot be written."""
        try:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise InputError(self._occupied())
            self.path.mkdir(parents=True, exist_ok=True)
            self.claim.touch(exist_ok=False)
        except FileExistsError as error:
            raise InputError(
                f"--out {self} has just been taken by another study: give another directory"
            ) from error
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _occupied(self) -> str:
        what, hint = "something else", ""
        if self.plan.exists():
            what, hint = "a study", f"; python -m analysis {self} shows that study"
        elif self.claim.exists():
            what = "a study that is being measured, or was killed before it began,"
            hint = f", or delete this one if python -m study status {self} reports it stopped"
        return f"--out {self} holds {what} already and is left as it is: give another directory{hint}"

    def sign(self) -> None:
        """Name this process in the claim. Raises OSError."""
        self.claim.write_text(f"process {os.getpid()} on {socket.gethostname()}")

    def holder(self) -> str:
        """The process that writes here, or did last: ``process 12 on HOST``."""
        try:
            return self.claim.read_text(errors="replace") or "another process"
        except OSError:
            return "another process"

    def discard_false_start(self) -> None:
        """Remove what a study left that ended before it had a plan or a record, and the folder if that is all."""
        if self.plan.exists() or (self.ledger.exists() and self.ledger.stat().st_size > 0):
            return
        for ours in (self.claim, self.log, self.ledger):
            ours.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def check_files(self) -> None:
        """Raises FinalError when any file of the study is a link, or none: a pipe, a device.

        A run that came from elsewhere could otherwise direct a report or a ledger over any file of its reader, or have it wait
        for ever.
        """
        for folder, folders, files in os.walk(self.path):
            for name in sorted([*folders, *files]):
                mode = (entry := Path(folder, name)).lstat().st_mode
                if stat.S_ISLNK(mode):
                    raise FinalError(
                        f"{entry} is a link, and a study holds its own files only: remove it, or copy what it shows"
                    )
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise FinalError(f"{entry} is not a file, and a study holds files only: remove it")
            if Path(folder) == self.path and FOREIGN in folders:
                folders.remove(FOREIGN)


def file_name(data: str, *, otherwise: str) -> str:
    """What a data source is called in the name of a folder; ``otherwise`` where nothing of its name is left."""
    stem = Path(data.partition(":")[2] or data).name
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)[:40] or otherwise


def unnamed(what: str) -> Path:
    """A new folder for what was given none: two that start in one second differ by their process."""
    return Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}-{what}"


def unwritable(place: Path, error: OSError) -> InputError:
    """For a new run or series."""
    return InputError(f"{place} cannot be written: {error.strerror}; --out DIRECTORY chooses another place")


def runs_in(folder: Path) -> list[Path]:
    """The folders of runs in ``folder``, those of its series among them, in order."""
    places = [folder, *(path.parent for path in folder.glob(f"*/{SERIES}"))]
    return sorted(path.parent for place in places for path in place.glob(f"*/{LEDGER}"))


@contextmanager
def replacing(path: Path, *, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A new file for ``path``, which it replaces at the end of the block, whole and on disk.

    When anything raises, ``path`` stays as it was. ``previous``: where the file that was at ``path`` goes.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Put the folder's names on disk: after a power cut a file could be there by its old content or not at all."""
    with suppress(OSError):  # not every file system has this
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def discard_partial(folder: Path, name: str = "**/*") -> None:
    """Remove what killed processes had begun to write of the files of this ``name``. Only their one writer calls this."""
    for partial in folder.glob(f"{name}.[0-9]*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Replace ``path``, whole or not at all. Raises OSError."""
    with replacing(path) as file:
        file.write(content)
