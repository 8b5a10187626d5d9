"""Ledgers edited by hand, with matching checksums, as a careful forger would write them."""

from collections.abc import Callable, Iterable
from pathlib import Path

from study.protocol.codec import checksum, encode
from study.protocol.ledger import records
from study.protocol.records import Record


def chained(new_records: Iterable[Record], after: str = "") -> str:
    """The records as lines of a ledger; ``after``: checksum of the line before."""
    lines = []
    for record in new_records:
        lines.append(encode(record, after))
        after = checksum(lines[-1])
    return "".join(f"{line}\n" for line in lines)


def append(ledger: Path, *new_records: Record) -> None:
    written = ledger.read_text()
    ledger.write_text(written + chained(new_records, checksum(written.removesuffix("\n"))))


def edit(ledger: Path, change: Callable[[Record], Record | None]) -> None:
    """Replace every record by ``change(record)``, and drop it for None."""
    kept = [new for record in records(ledger) if (new := change(record)) is not None]
    ledger.write_text(chained(kept))
