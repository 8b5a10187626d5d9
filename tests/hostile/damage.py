"""Ways of damaging valid files: bytes, JSON, tables, arrays, and what lies at a path. All draw from a ``random.Random``."""

import copy
import gzip
import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = list[list[str]]

EXTREMES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
TEXTS = (
    "", " ", "a", "nan", "-1", "1e400", "0x10", "١", "../../x", "/", ".", "~nobody-here/x", "a\nb", "a\rb", "a\0b", "\t", "é", "\x1b[31m",
    "[/b]", "{x}", "%s", "<script>", "=1+1", "\u202e", "\ufeff", "a" * 300, "a" * 40_000, "tiny_resnet", "null", "--help", "a,b",
    "zero", "fifo", "gone", "images",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 0.5, -0.5, 1e-300, 1e300, 1e15, 2**31, 2**53, 2**63, -(2**63), 10**30, 10**400, float("nan"), float("inf"),
)  # fmt: skip


def deep(levels: int, kind: str = "[") -> str:
    return kind * levels


def flip(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 4, 40))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + rng.randbytes(rng.randrange(1, 20)) + data[place:]


def drop(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.randrange(1, 200) :]


def zeros(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes(len(data) - place)


def size_field(rng: random.Random, data: bytes) -> bytes:
    """An extreme number where a length may stand: most often near an end, where formats keep them."""
    kind = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    packed = struct.pack(kind, rng.choice(EXTREMES) % 2 ** (8 * struct.calcsize(kind)))
    near = rng.choice((32, 256, len(data)))
    place = rng.randrange(min(near, len(data)))
    place = place if rng.random() < 0.6 else max(0, len(data) - 1 - place)
    return data[:place] + packed + data[place + len(packed) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:b] + data[a:b] * rng.choice((1, 2, 50)) + data[b:]


def coded(rng: random.Random, data: bytes) -> bytes:
    """Under another coding or wrapping."""
    return rng.choice((
        b"\xef\xbb\xbf" + data, data.decode("latin-1").encode("utf-16"), data.decode("latin-1").encode("utf-32"),
        gzip.compress(data), data + b"\0" * 100, b"\0" + data, data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r"),
        data[::-1], b"",
    ))  # fmt: skip


def noise(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randrange(min(2000, len(data) + 1)))


BYTES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "cut": cut, "bit": flip, "insert": insert, "drop": drop, "zeros": zeros, "size": size_field, "repeat": repeat, "coded": coded,
    "noise": noise,
}  # fmt: skip


def of_bytes(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    name = rng.choice(list(BYTES))
    return name, BYTES[name](rng, data or b"x")


# -- JSON


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in plain JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in inner for p in places(item, (*path, key)))]


def put(body: Any, path: Sequence[Any], value: Any) -> Any:
    """A copy of the body with another value at one place."""
    if not path:
        return value
    body = copy.deepcopy(body)
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return body


def junk(rng: random.Random, old: Any = None) -> Any:
    """Another value: of the same kind as often as of another."""
    if isinstance(old, bool) or old is None or rng.random() < 0.4:
        return rng.choice(
            (None, True, False, [], {}, [1], {"a": 1}, [[]], rng.choice(NUMBERS), rng.choice(TEXTS))
        )
    if isinstance(old, int | float) and abs(old) < 1e300:
        near = (old + 1, old - 1, -old, old * 1000, old / 3, float(old))
        return rng.choice((rng.choice(NUMBERS), rng.choice(near)))
    if isinstance(old, str):
        return rng.choice((rng.choice(TEXTS), old.upper(), old + " ", old[1:], old * 2))
    if isinstance(old, list):
        return rng.choice((old[1:], old + old, old[::-1], [*old, None], old * 300))
    if isinstance(old, dict) and old:
        key = rng.choice(list(old))
        rest = {k: v for k, v in old.items() if k != key}
        return rng.choice(
            (rest, rest | {key + "x": old[key]}, old | {"more": 1}, dict(reversed(old.items())))
        )
    return {"a": {}}


def edited(rng: random.Random, body: Any) -> tuple[str, Any]:
    path = rng.choice(places(body))
    inner = body
    for key in path:
        inner = inner[key]
    value = junk(rng, inner)
    return f"{'.'.join(map(str, path))} = {value!r:.60}", put(body, path, value)


def of_json(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """A JSON file with values edited, or its bytes damaged."""
    if rng.random() < 0.2:
        return of_bytes(rng, data)
    if rng.random() < 0.08:
        bad = (
            deep(100_000),
            deep(100_000, '{"a":'),
            "NaN",
            '"\\ud800"',
            "[" + "9" * 10_000 + "]",
            "null",
            "[]",
            "{}",
        )
        text = rng.choice(bad)
        return f"JSON {text[:20]}", text.encode()
    what, body = edited(rng, json.loads(data))
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        more, body = edited(rng, body)
        what += f"; {more}"
    return what, json.dumps(body).encode("utf-8", "surrogatepass")


# -- tables of text


def table(rng: random.Random, rows: Rows) -> tuple[str, Rows]:  # noqa: C901  # one case per way
    """One edit of a table whose first row is its header."""
    rows = [list(row) for row in rows]
    i, j = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    ways = ("cell",) * 5 + (
        "column",
        "header",
        "row lost",
        "row twice",
        "short",
        "long",
        "moved",
        "wide",
        "many",
    )
    what = rng.choice(("tall", "distinct") if rng.random() < 0.03 else ways)
    match what:
        case "cell":
            rows[i][min(j, len(rows[i]) - 1)] = rng.choice(
                (rng.choice(TEXTS), str(rng.choice(NUMBERS)), "\0", '"', "x" * 200_000)
            )
        case "column":
            same = rng.choice((*TEXTS, *map(str, NUMBERS)))
            rows = [rows[0], *([*row[:j], same, *row[j + 1 :]] for row in rows[1:])]
        case "header":
            rows[0][j] = rng.choice((*TEXTS, rows[0][j - 1], rows[0][j].upper()))
        case "row lost":
            rows = rows[:i] + rows[i + 1 :] or [[""]]
        case "row twice":
            rows.insert(rng.randrange(len(rows)), list(rows[i]))
        case "short":
            rows[i] = rows[i][:-1] or [""]
        case "long":
            rows[i] = [*rows[i], *("x",) * rng.choice((1, 5000))]
        case "moved":
            rng.shuffle(rows)
        case "wide":
            rows = [[*row, *(f"c{k}" for k in range(2000))] for row in rows[:100]]
        case "many":
            rows = [rows[0], *rows[1:] * 40]
        case "tall":  # one long cell, for whose column numpy would make room in every row
            rows = [rows[0], ["x" * 100_000, *rows[i][1:]], *rows[1:] * (20_000 // max(1, len(rows)))]
        case _:  # as many images, runs and classes as rows
            rows = [
                rows[0],
                *(
                    [f"{cell[:20]}{k}" for cell in rows[-1]]
                    for k in range(min(30_000, 2_000_000 // (len(rows[-1]) or 1)))
                ),
            ]
    return what, rows


def as_text(rng: random.Random, rows: Rows) -> bytes:
    mark = rng.choice((",", ",", ",", ";", "\t", "|", " ", ", "))
    quoted = rng.random() < 0.3
    lines = (mark.join(f'"{cell}"' if quoted else cell for cell in row) for row in rows)
    text = rng.choice(("\n", "\n", "\n", "\r\n", "\r", "\n\n")).join(lines) + "\n"
    start = rng.choice(("", "", "", "", "\ufeff", "sep=,\n", "\n\n", "# note\n"))
    return (start + text).encode(
        rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1", "cp1252")), "replace"
    )


def of_table(rng: random.Random, rows: Rows) -> tuple[str, bytes]:
    what = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        told, rows = table(rng, rows)
        what.append(told)
        rows = rows[: 3_000_000 // max(len(row) for row in rows)] if rows and any(rows) else rows
    data = as_text(rng, rows)
    if rng.random() < 0.25:
        told, data = of_bytes(rng, data)
        what.append(told)
    return " ".join(what), data


# -- arrays


def array(rng: random.Random, old: Array) -> Array:
    kinds = ("?", "i1", "u1", "i8", "u8", "f2", "f4", "f8", "c16", "U3", "S3", "M8[s]", "O", ">i4", "f4,i4")
    flat = old.reshape(-1)
    match rng.choice(("kind", "shape", "value", "value", "part", "swap", "scalar", "odd")):
        case "kind":
            with np.errstate(all="ignore"):
                return np.zeros(old.shape, "f4,i4") if (k := rng.choice(kinds)) == "f4,i4" else old.astype(k)
        case "shape":
            return rng.choice((flat, old[None], old[..., None], old.T, flat[:0], np.stack([old] * 3)))
        case "part":
            row = np.atleast_1d(old)
            return rng.choice((row[:-1], row[1:], row[:1], np.concatenate([row, row])))
        case "swap":
            return np.flip(old)
        case "scalar":
            return np.array(rng.choice((0, -1, 2**62, np.nan, "x", None, b"x")))
        case "odd":
            return np.array(
                rng.choice(([{"a": 1}], [None], ["\ud800"], ["a\nb"] * len(flat), list(range(len(flat))))),
                dtype=None,
            )
        case _:
            return valued(rng, old)


def valued(rng: random.Random, old: Array) -> Array:
    """With an extreme number somewhere, or everywhere."""
    with np.errstate(all="ignore"):
        value = rng.choice((-1, 0, 1, 2, 127, 255, 2**31, 2**62, np.nan, np.inf, -np.inf, 1e300, -0.5))
        new = old.astype("f8") if rng.random() < 0.4 else old.copy()
        where = slice(None) if rng.random() < 0.3 else rng.randrange(max(1, old.size))
        try:
            new.reshape(-1)[where] = value
        except (ValueError, OverflowError, IndexError):
            return new
    return new


def packed(arrays: dict[str, Array], *, squeeze: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if squeeze else np.savez)(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def bomb(shape: str, *, name: str = "labels", kind: str = "<i8", body: int = 0) -> bytes:
    """An archive of one array whose header declares ``shape``, over ``body`` zeros."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(body)
        )
    return file.getvalue()


SHAPES = (
    "(10**13,)",
    "(10000000000000,)",
    "(-1,)",
    "(2000000000,)",
    "(1000000,1000000,1000000)",
    "()",
    "(0,)",
    "(4,'a')",
    "(" * 3000,
)


def of_arrays(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """An archive with one array changed, renamed, lost or boundless, or its bytes damaged."""
    chance = rng.random()
    if chance < 0.3:
        return of_bytes(rng, data)
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    name = rng.choice(list(arrays))
    if chance < 0.38:
        shape = rng.choice(SHAPES)
        return f"{name}: {shape[:30]}", bomb(shape, name=name, body=rng.choice((0, 64, 10**7)))
    if chance < 0.46:
        arrays[rng.choice(("x", "labels", "names", "../x", "probabilities", "correct"))] = arrays.pop(name)
        return f"{name} renamed", packed(arrays)
    if chance < 0.5:
        alone = io.BytesIO()
        np.save(alone, arrays[name])
        return f"{name} alone, a .npy", alone.getvalue()
    try:
        arrays[name] = array(rng, arrays[name])
    except (ValueError, TypeError, OverflowError):  # texts that are no numbers
        arrays[name] = arrays[name].astype("O")
    return f"{name}: {arrays[name].dtype} {arrays[name].shape}", packed(arrays, squeeze=rng.random() < 0.5)


# -- what lies at a path


def at(rng: random.Random, path: Path, data: bytes) -> str:
    """Put ``data`` there, or in one of 25 cases something that is no file."""
    if path.is_dir() and not path.is_symlink():
        path = path / "x"
    path.unlink(missing_ok=True)
    what = (
        rng.choice(("dir", "fifo", "zero", "gone", "loop", "link", "none", "empty"))
        if rng.random() < 0.04
        else ""
    )
    match what:
        case "dir":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "gone":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "link":
            path.with_name("real").write_bytes(data)
            path.symlink_to("real")
        case "empty":
            path.touch()
        case "none":
            pass
        case _:
            path.write_bytes(data)
    return what
