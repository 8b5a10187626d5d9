"""Records to JSON lines and back: each line carries a checksum, and every field is checked when it is read."""

import dataclasses
import functools
import json
import re
import zlib
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from study.protocol.records import Record, asdict


def plain(value: Any) -> Any:
    """The value as it comes back from JSON: lists for tuples."""
    return json.loads(json.dumps(value))


def encode(record: Record, after: str = "") -> str:
    """One JSON line, without the newline, that ends with its checksum; ``after`` is the checksum of the line before it.

    Each checksum continues the one before, so that no line but the last can be removed, moved or doubled unnoticed: without
    its last line a ledger is one that stopped earlier. It protects against accident, not against forgery. Raises
    ValueError for a non-finite number.
    """
    body = {"record": type(record).__name__, **asdict(record)}
    text = json.dumps(body, allow_nan=False, separators=(",", ":"))[:-1]
    return f'{text},"crc":"{_crc(text, after)}"}}'


def checksum(line: str) -> str:
    """The checksum at the end of an encoded line; empty for an empty line."""
    return line[-10:-2]


def decode(line: str, after: str = "") -> Record:
    """The record a line was made from; ``after`` is the checksum of the line before it.

    Raises ValueError when the line is not a record, does not follow that line, or holds text that is not valid Unicode.
    """
    match = _CHECKED.fullmatch(line)
    if match is None:
        raise ValueError("not a record of ours: it does not end with a checksum")
    text, crc = match.groups()
    if _crc(text, after) != crc:
        raise ValueError("its checksum does not fit: it was changed, or a line before it added or taken out")
    try:
        body = parse(text + "}")
        record: Record = from_plain(_KINDS[body.pop("record")], body)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a record of ours: {error}") from error
    return record


def parse(text: str) -> Any:
    """The JSON value. Raises ValueError, also for what no terminal and no report could show: half a surrogate pair, control
    characters other than a new line or a tab, and JSON that is nested too deeply to be read.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if ("\\" in text or "\x7f" in text or not text.isascii()) and _ODD.search(text):
        written = json.dumps(value, ensure_ascii=False)  # escapes control characters up to 1f
        written.encode()
        if _CONTROL.search(written.replace("\\\\", "")):
            raise ValueError("it holds control characters")
    return value


def from_plain(hint: Any, value: Any) -> Any:
    """The inverse of ``asdict``: the value as the type ``hint``. Raises TypeError, naming the field, when it does not fit."""
    return _reader(hint)(value)


@functools.cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """The function that checks a JSON value and makes it a ``hint``; built once per type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if dataclasses.is_dataclass(hint):
        return _record_reader(hint)
    if origin is dict:
        value_of = _reader(args[1])
        return lambda value: {key: _named(key, value_of, v) for key, v in _a(dict, value).items()}
    if origin is tuple:
        item = _reader(args[0])
        return lambda value: tuple(_named(str(i), item, v) for i, v in enumerate(_a((list, tuple), value)))
    if origin is Literal:
        return lambda value: value if value in args else _wrong(value, " or ".join(map(str, args)))
    kinds = args or ((int, float) if hint is float else (hint,))
    expected = " or ".join(_IN_WORDS[kind] for kind in args or (hint,))

    def read(value: Any) -> Any:
        if type(value) not in kinds and (isinstance(value, bool) or not isinstance(value, kinds)):
            return _wrong(value, expected)
        if isinstance(value, (int, float)) and not abs(value) < _HUGE:  # nor is a NaN
            return _wrong(value, "number of a size that makes sense")
        return value

    return read


def _record_reader(kind: Any) -> Callable[[Any], Any]:
    readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
    needed = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }

    def read(value: Any) -> Any:
        given = _a(dict, value)
        try:
            return kind(**{name: readers[name](v) for name, v in given.items()})
        except (KeyError, TypeError):
            return named(given)

    def named(given: dict[str, Any]) -> Any:
        """The same, slower: the error names the field."""
        if missing := needed - given.keys():
            raise TypeError(f"{min(missing)} is missing")
        if unknown := given.keys() - readers.keys():
            raise TypeError(f"{_short(min(unknown))} is no field of a {kind.__name__}")
        return kind(**{name: _named(name, readers[name], v) for name, v in given.items()})

    return read


def _named(name: str, reader: Callable[[Any], Any], value: Any) -> Any:
    try:
        return reader(value)
    except TypeError as error:
        raise TypeError(f"{_short(name)[1:-1]}: {error}") from error


def _a(kinds: type | tuple[type, ...], value: Any) -> Any:
    return value if isinstance(value, kinds) else _wrong(value, "object" if kinds is dict else "list")


def _wrong(value: Any, expected: str) -> Any:
    raise TypeError(f"{_short(value)} is no {expected}")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print thousands of digits
        text = "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


_IN_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    type(None): "nothing",
}
_HUGE = 2**64
"""Above any count, seed or cost; a larger number would only overflow later."""
_CHECKED = re.compile(r'(.*),"crc":"([0-9a-f]{8})"}', re.DOTALL)
_ODD = re.compile(r"\\u(00|d)|\\[bfr]|[\x7f-\x9f]", re.IGNORECASE)
"""What control characters and surrogates in JSON look like, among others."""
_CONTROL = re.compile(r"\\u00|\\[bfr]|[\x7f-\x9f]")
_KINDS: dict[str, Any] = {k.__name__: k for k in get_args(Record)}


def _crc(text: str, after: str) -> str:
    return f"{zlib.crc32(text.encode(), int(after or '0', 16)):08x}"
