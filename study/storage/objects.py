"""Objects at a URI, s3://BUCKET/FOLDER, gs:// or file://, which ``--out`` may name instead of a folder.

Credentials come from the environment and are never written anywhere. ``sync.py`` keeps a whole run there; a
worker writes the checkpoint of its unfinished trial there itself.
"""

import hashlib
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from study.protocol.codec import encode
from study.protocol.errors import InputError
from study.protocol.records import Trial

UNFINISHED = "unfinished"
RETRY_SECONDS = 10
"""Retry limit of Google's client. Its own is 15 minutes, even without credentials."""
CREDENTIALS = {
    "s3": "credentials come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, the machine's role), "
    "another server than S3's own from AWS_ENDPOINT_URL",
    "gs": "credentials come from the environment (GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default login, the "
    "machine's role)",
    "file": "a folder is made where there is none",
}
SCHEMES = {"s3": "s3://BUCKET/FOLDER", "gs": "gs://BUCKET/FOLDER", "file": "file:///FOLDER"}


def is_uri(text: object) -> bool:
    return "://" in str(text)


def unfinished(trial: Trial) -> str:
    """The name of a trial's checkpoint while it is open.

    It carries a hash of the whole record: when the last lines of a ledger are lost, the next trial of that name is another one.
    """
    return f"{UNFINISHED}/{trial.id}.{hashlib.sha256(encode(trial).encode()).hexdigest()[:16]}.pt"


@dataclass(frozen=True)
class Stored:
    """An object in a listing. ``mtime`` is in seconds since 1970, by the storage's clock."""

    size: int
    mtime: float


class Storage:
    """Objects under a URI, by name, each whole or absent. Every failure is an OSError of one line."""

    def __init__(self, uri: str) -> None:
        """Checks the words only. Raises InputError."""
        scheme, _, rest = uri.partition("://")
        folder = rest.partition("?")[0]
        if scheme == "gs":
            folder = folder.removeprefix("anonymous@")  # no key, but that there is none
        if "@" in folder:
            raise InputError(
                "others would see a key in a storage's URI: leave out the part up to the @, and set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for gs:// GOOGLE_APPLICATION_CREDENTIALS), or use ~/.aws or "
                "the machine's role"
            )
        if scheme not in SCHEMES:
            raise InputError(f"{uri}: {scheme}:// is no storage; there are {', '.join(SCHEMES.values())}")
        bucket, _, path = folder.partition("/")
        if not path.strip("/") or bool(bucket) == (scheme == "file"):
            raise InputError(f"{uri} names no folder of its own: write {SCHEMES[scheme]}")
        self.uri = uri

    @cached_property
    def _place(self) -> tuple[Any, str]:
        from pyarrow.fs import FileSystem

        uri = self.uri
        if uri.startswith("gs://") and "retry_limit_seconds=" not in uri:
            uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={RETRY_SECONDS}"
        files, path = FileSystem.from_uri(uri)
        return files, path.rstrip("/")

    def put(self, name: str, content: bytes) -> None:
        with _one_line():
            files, base = self._place
            path = f"{base}/{name}"
            if files.type_name != "local":  # there an object appears when it is closed
                _write(files, path, content)
                return
            files.create_dir(str(PurePosixPath(path).parent), recursive=True)
            _write(files, f"{path}.partial", content)
            files.move(f"{path}.partial", path)

    def get(self, name: str) -> bytes | None:
        """None when there is no such object."""
        with _one_line():
            files, base = self._place
            try:
                with files.open_input_file(f"{base}/{name}") as file:
                    content: bytes = file.read()
            except FileNotFoundError:
                return None
            return content

    def delete(self, name: str) -> None:
        with _one_line(), suppress(FileNotFoundError):
            files, base = self._place
            files.delete_file(f"{base}/{name}")

    def exists(self) -> bool:
        """Whether anything lies there: one or two requests."""
        from pyarrow.fs import FileType

        with _one_line():
            files, base = self._place
            return bool(files.get_file_info(base).type != FileType.NotFound)

    def files(self, folder: str = "") -> dict[str, Stored]:
        """Objects under ``folder``, by name; none when there is no such folder."""
        from pyarrow.fs import FileSelector

        with _one_line():
            files, base = self._place
            selector = FileSelector(f"{base}/{folder}".rstrip("/"), recursive=True, allow_not_found=True)
            return {
                info.path[len(base) + 1 :]: Stored(info.size, info.mtime.timestamp())
                for info in files.get_file_info(selector)
                if info.is_file and not info.path.endswith(".partial")
            }


def _write(files: Any, path: str, content: bytes) -> None:
    stream = files.open_output_stream(path)
    stream.write(content)
    stream.close()


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn anything that pyarrow raises into an OSError with the one line that matters."""
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        line = re.split(r"AWS Error |google::cloud::Status|with a last message of ", line)[-1]
        line = re.split(r" error_info=|, gcloud-cpp\.| Learn more about ", line)[0]
        raise OSError(
            textwrap.shorten(re.sub(r" \(Request ID: .*?\)", "", line), 300, placeholder=" ...")
        ) from error


@contextmanager
def at_the_edge(uri: str) -> Iterator[None]:
    """Turn a storage failure into an InputError that says what a URI needs."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{uri} cannot be used: {str(error).rstrip('.')}. It takes a bucket (or folder) that exists and that this machine may read "
            f"and write; {CREDENTIALS[uri.partition('://')[0]]}"
        ) from error
