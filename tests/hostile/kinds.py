"""What is drawn of each kind: a damaged file or command line in a copy of the ground, and the commands that meet it.

A drawing function gets a random generator and the home, which is the current folder, and returns what it did and the command lines;
their first word is the command: ``study`` for study/run.py, ``word`` for python -m study, ``analysis``, ``load`` for an export's load.py.
"""

import csv
import functools
import io
import json
import math
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from hostile import damage
from hostile.ground import ARMS, SETS
from study.protocol.codec import checksum

Drawn = tuple[str, list[list[str]]]
NEW = ["study", "--budget", "10cpu-minutes", "--arms", ",".join(ARMS), "--data"]
SHOWN = [["word", "status", "run"], ["analysis", "tables", "run", "--to", "tables"], ["analysis", "run"]]
GOOD = (
    [*NEW, "images"], [*NEW, "digits"], [*NEW, "csv:labels.csv", "--size", "8", "--test", "20%", "--fit", "pad"], [*NEW, "parquet:shard.parquet"],
    [*NEW, "images", "--epochs", "3", "--rope", "0.5", "--seed", "1", "--looks", "2", "--metric", "log-loss", "--train-fraction", "0.5"],
    [*NEW, "images,digits", "--out", "series"], [*NEW, "images", "--recipe", "modern", "--widen", "learning_rate", "--fraction", "1", "--log", "optuna"],
    ["study", "--budget", "10cpu-minutes", "--arms", f"{ARMS[0]}@net/weights.safetensors,tiny_resnext:cardinality=4", "--data", "images"],
    ["study", "--resume", "begun"], ["study", "--resume", "run", "--budget", "2cpu-hours"], ["study", "--resume", "run", "--arms", "tiny_resnet,small_resnet,tiny_resnext"],
    ["word", "status", "run"], ["word", "list", "."], ["word", "export", "run", ARMS[0], "--out", "out"], ["word", "predict", "run", ARMS[0], "pictures", "--to", "p.json"],
    ["word", "predict", "run", ARMS[0], "images", "--format", "json"], ["word", "rerun", "run", "arm0-search-0"], ["word", "log", "run", "--to", "tensorboard"],
    ["analysis", "run", "--expect", ARMS[0]], ["analysis", "compare", "a.npz", "b.npz", "--rope", "1", "--json"], ["analysis", "compare", "a.csv", "b.parquet"],
    ["analysis", "tables", "run", "--to", "t", "--format", "parquet"], ["analysis", "across", *SETS, "--to", "x"], ["load", "pictures"],
)  # fmt: skip
PLACES = (
    "run", "begun", "images", "net", "run/plan.json", "labels.csv", "a.npz", "a.csv", "zero", "fifo", "gone", ".", "..", "net/net.onnx", "pictures/RGBA.png",
    "csv:zero", "csv:fifo", "csv:run", "csv:~nobody-here/x", "parquet:zero", "parquet:fifo", "parquet:~nobody-here/x", "parquet:images", "folder:zero",
    "folder:~nobody-here/x", "folder:", "csv:", "hf:", "hf:gone", "hf:run", "torchvision:", "torchvision:MNISTS", "s3://", "s3:///x", "gs://", "file://",
    "file:///x/../..", "file:run", "-", "--", "-x", "\udcff", "x\udc80.csv", "timm/", "timm/../x", "timm/resnet", "torchvision/", "torchvision/resnet",
    "tiny_resnet@fifo.safetensors", "tiny_resnet@x.safetensors", "tiny_resnet:lr=nan", "tiny_resnet:x", "tiny_resnet:lr=1e999+lr=2", "9" * 5000 + "cpu-minutes",
    "1e308gpu-hours", "nancpu-minutes", "-1cpu-minutes", "1cpu-minute", "0cpu-hours", "infgpu-hours", "٣cpu-minutes", "1e-400cpu-hours",
)  # fmt: skip


def word(rng: random.Random) -> str:
    text = rng.choice(
        (
            rng.choice(PLACES),
            rng.choice(PLACES),
            rng.choice(damage.TEXTS),
            str(rng.choice(damage.NUMBERS[:-3])),
        )
    )
    return text.replace("\0", "") or ""


def flags(rng: random.Random, _: Path) -> Drawn:
    argv = list(rng.choice(GOOD))
    for _each in range(rng.choice((1, 1, 1, 2, 3))):
        i = rng.randrange(1, len(argv)) if len(argv) > 1 else 0
        match rng.choice(("value", "value", "value", "lost", "twice", "more", "letters", "joined")):
            case "lost":
                argv[i : i + 1] = []
            case "twice":
                argv[i:i] = argv[max(1, i - 1) : i + 1]
            case "more":
                argv[i:i] = [
                    rng.choice(
                        ("--plan", "--verbose", "--looks", "--address", "--wait-for", "--no-pictures", "--x")
                    ),
                    word(rng),
                ]
            case "letters":
                argv[i] = (
                    damage.of_bytes(rng, argv[i].encode("utf-8", "surrogateescape"))[1]
                    .decode("utf-8", "surrogateescape")
                    .replace("\0", "")
                )
            case "joined" if argv[i].startswith("--"):
                argv[i] += f"={word(rng)}"
            case _:
                argv[i] = word(rng)
        argv = argv if len(argv) > 1 else [*argv, word(rng)]
    return "flags", [[argv[0] if argv[0] in ("study", "word", "analysis", "load") else "study", *argv[1:]]]


def plans(rng: random.Random, home: Path) -> Drawn:
    """plan.json, and the other JSON of a run: verdict.json, series.json."""
    if rng.random() < 0.12:
        body = {
            "format": 1,
            "flags": ["--arms", ",".join(ARMS)],
            "members": [{"data": "images", "budget": "10cpu-minutes", "folder": "run"}] * 2,
        }
        what, data = damage.of_json(rng, json.dumps(body).encode())
        (home / "series").mkdir()
        return f"series: {what} {damage.at(rng, home / 'series' / 'series.json', data)}", [
            ["study", "--resume", "series"]
        ]
    if rng.random() < 0.12:
        body = {"scope": "s", "nets": [{"sentence": "n"}], "answer": {"a": 1}, "headline": "h"}
        what, data = damage.of_json(rng, json.dumps(body).encode())
        return f"verdict: {what} {damage.at(rng, home / 'run' / 'verdict.json', data)}", [
            ["word", "status", "run"],
            ["word", "list", "."],
        ]
    run = rng.choice(("run", "run", "begun"))
    what, data = damage.of_json(rng, (home / run / "plan.json").read_bytes())
    what = f"{run}: {what} {damage.at(rng, home / run / 'plan.json', data)}"
    return what, [
        ["word", rng.choice(("status", "status", "list")), run if rng.random() < 0.9 else "."],
        *_meet(rng, run),
    ]


def ledgers(rng: random.Random, home: Path) -> Drawn:
    """Damaged bytes, which the checksums find, and records edited by hand under new checksums."""
    what = _ledger(rng, home / "run" / "ledger.jsonl")
    return f"ledger {what}", [["word", "status", "run"], *_meet(rng, "run")]


def _ledger(rng: random.Random, path: Path) -> str:
    if rng.random() < 0.3:
        what, data = damage.of_bytes(rng, path.read_bytes())
    else:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kinds = sorted({line["record"] for line in lines})
        what = ""
        for _ in range(rng.choice((1, 1, 2, 5))):
            lines = lines or [{"record": "Trial"}]
            kind = rng.choice(kinds)
            i = rng.choice(
                [k for k, line in enumerate(lines) if isinstance(line, dict) and line.get("record") == kind]
                or [0]
            )
            match rng.choice(("edit", "edit", "edit", "edit", "lost", "twice", "moved", "cut", "kind lost")):
                case "edit":
                    told, lines[i] = damage.edited(rng, lines[i])
                    what += f"{kind}: {told} "
                case "lost":
                    del lines[i]
                case "twice":
                    lines.insert(rng.randrange(i, len(lines)), dict(lines[i]))
                case "moved":
                    lines.insert(rng.randrange(len(lines)), lines.pop(i))
                case "cut":
                    lines = lines[: max(1, i)]
                case _:
                    lines = (
                        [line for line in lines if line.get("record") != kind] or lines
                        if all(isinstance(x, dict) for x in lines)
                        else lines
                    )
        data = signed(lines)
    return what + damage.at(rng, path, data)


def signed(lines: list[Any]) -> bytes:
    """The lines as a ledger whose checksums hold."""
    import zlib

    after, out = "", []
    for line in lines:
        body = {k: v for k, v in line.items() if k != "crc"} if isinstance(line, dict) else {"record": line}
        text = json.dumps(body, separators=(",", ":"))[:-1]
        done = f'{text},"crc":"{zlib.crc32(text.encode("utf-8", "replace"), int(after or "0", 16)):08x}"}}'
        after = checksum(done)
        out.append(done)
    return "".join(f"{line}\n" for line in out).encode("utf-8", "replace")


def _meet(rng: random.Random, run: str) -> list[list[str]]:
    """Commands on a run: the quick ones, and at times one of those that take seconds."""
    resumed = ["study", "--resume", run]  # of a finished study that is a report
    quick = [["analysis", "tables", run, "--to", "tables"], *([resumed] * 3 if run == "begun" else [])]
    slow = [
        ["analysis", run],
        resumed,
        ["word", "log", run, "--to", "optuna"],
        ["word", "export", run, ARMS[0], "--out", "out"],
        ["word", "predict", run, ARMS[1], "pictures/RGBA.png"],
        ["word", "rerun", run, "arm0-baseline-0"],
        ["analysis", "across", run, SETS[0]],
        ["study", "--resume", run, "--budget", "2cpu-hours"],
    ]
    return [rng.choice(quick), *([rng.choice(slow)] if rng.random() < 0.3 else [])]


def npz(rng: random.Random, home: Path) -> Drawn:
    """Predictions for ``compare``, and the arrays that a run holds."""
    if rng.random() < 0.5:
        what, data = damage.of_arrays(rng, (home / "a.npz").read_bytes())
        what += damage.at(rng, home / "a.npz", data)
        return f"compare: {what}", [
            ["analysis", "compare", "a.npz", rng.choice(("b.npz", "a.npz", "b.csv"))],
            ["analysis", "compare", "b.npz", "a.npz", "--json"],
        ]
    names = (
        "predictions/*.npz",
        "predictions/*.npz",
        "validation/*.npz",
        "sealed_test.npz",
        "checkpoints/arm0-confirm-*.pt",
        "pictures.npz",
    )
    name = rng.choice(names)
    paths = sorted((home / "run").glob(name))
    path = rng.choice(paths)
    of = damage.of_bytes if path.suffix == ".pt" else damage.of_arrays
    what, data = of(rng, path.read_bytes())
    what += "".join(damage.at(rng, each, data) for each in (paths if path.suffix == ".pt" else [path]))
    words = {
        "validation/*.npz": [["choose", "run"]],
        "sealed_test.npz": [["unseal", "run"]],
        "pictures.npz": [["analysis", "run"] if rng.random() < 0.3 else ["word", "status", "run"]],
        names[4]: [["word", "predict", "run", ARMS[0], "pictures/RGBA.png"]],
    }
    return f"{path.relative_to(home)}: {what}", words.get(name, [*SHOWN[1:]][: 1 + (rng.random() < 0.2)])


def across(rng: random.Random, home: Path) -> Drawn:
    """The studies of several data sets, one of them damaged or all edited alike, and which of them are joined."""
    runs, what = list(SETS), ""
    run = home / rng.choice(runs)
    match rng.choice(("plan", "plans", "plans", "ledger", "ledger", "predictions", "images", "runs")):
        case "plan":
            what, data = damage.of_json(rng, (run / "plan.json").read_bytes())
            what = f"{run.name}: {what} {damage.at(rng, run / 'plan.json', data)}"
        case "plans":  # or the first check, that all ask the same, would be the last
            for _ in range(rng.choice((1, 1, 2, 4))):
                body = json.loads((run / "plan.json").read_bytes())
                path = rng.choice(damage.places(body))
                old = functools.reduce(lambda inner, key: inner[key], path, body)
                alike = (new for _ in range(20) if type(new := damage.junk(rng, old)) is type(old))
                value = next(alike, None)
                what += f"{'.'.join(map(str, path))} = {value!r:.60} "
                for each in (home / name / "plan.json" for name in runs):
                    edited = damage.put(json.loads(each.read_bytes()), path, value) if path else body
                    each.unlink()  # a link
                    each.write_text(json.dumps(edited))
        case "ledger":
            what = f"{run.name}: ledger {_ledger(rng, run / 'ledger.jsonl')}"
        case "predictions":
            file = rng.choice(sorted(run.glob("*/*.npz")))
            what, data = damage.of_arrays(rng, file.read_bytes())
            what = f"{file.relative_to(home)}: {what} {damage.at(rng, file, data)}"
        case "images":
            kept = np.load(run / "images.npy")
            np.save(raw := io.BytesIO(), damage.array(rng, kept))
            what, data = rng.choice((("an array", raw.getvalue()), damage.of_bytes(rng, raw.getvalue())))
            what = f"{run.name}/images.npy: {what} {damage.at(rng, run / 'images.npy', data)}"
        case _:
            for _ in range(rng.choice((1, 1, 2, 6))):
                runs.insert(rng.randrange(6), rng.choice((word(rng), "run", "begun", "--to", *SETS)))
    rng.shuffle(runs)
    return what, [
        ["analysis", "across", *runs, *rng.choice(([], ["--to", rng.choice(("x", "x/y", "run", word(rng)))]))]
    ]


def csvs(rng: random.Random, home: Path) -> Drawn:
    name = rng.choice(("labels.csv", "a.csv"))
    rows = list(csv.reader(io.StringIO((home / name).read_text())))
    if name == "labels.csv" and rng.random() < 0.3:
        rows = [row[: rng.choice((2, 3))] for row in rows][rng.choice((0, 1)) :]
    what, data = damage.of_table(rng, rows)
    target = home / (
        rng.choice(("labels.csv", "labels.tsv", "labels.txt"))
        if name == "labels.csv"
        else rng.choice(("a.csv", "a.tsv"))
    )
    what = f"{name}: {what} {damage.at(rng, target, data)}"
    if name == "labels.csv":
        return what, [[*NEW, rng.choice(("csv:", "")) + target.name]]
    return what, [["analysis", "compare", target.name, rng.choice(("b.csv", "b.npz", "b.parquet"))]]


def parquets(rng: random.Random, home: Path) -> Drawn:
    name = rng.choice(("shard.parquet", "a.parquet"))
    if rng.random() < 0.5:
        what, data = damage.of_bytes(rng, (home / name).read_bytes())
    else:
        rows = parquet.read_table(home / name)
        j = rng.randrange(rows.num_columns)
        column, count = rows.column(j), rows.num_rows
        values = column.to_pylist()
        values[rng.randrange(count)] = damage.junk(rng)
        makers: list[Callable[[], Any]] = [lambda: pa.array(values), lambda: column.cast(pa.string())]
        for odd in (
            None,
            [1, 2],
            {"bytes": None, "path": "x"},
            {"bytes": b"x", "path": "../x"},
            math.nan,
            2**62,
            "../x",
            b"\x89PNG",
            -1,
        ):
            makers.append(functools.partial(pa.array, [odd] * count))
        makers += [
            lambda: pa.array(["a"] * count).dictionary_encode(),
            lambda: pa.array([0] * count, pa.timestamp("s")),
        ]
        try:
            array = rng.choice(makers)()
        except (pa.ArrowException, TypeError, OverflowError, ValueError):
            array = pa.nulls(count)
        title = rng.choice(
            (rows.column_names[j], rows.column_names[j], *damage.TEXTS[:12], rows.column_names[j - 1])
        )
        rows = rows.set_column(j, title, array) if rng.random() < 0.9 else rows.slice(0, rng.choice((0, 1)))
        if rng.random() < 0.2:
            rows = rows.replace_schema_metadata(
                {
                    b"huggingface": damage.of_json(
                        rng, b'{"info":{"features":{"label":{"_type":"ClassLabel","names":["a"]}}}}'
                    )[1]
                }
            )
        file = io.BytesIO()
        parquet.write_table(rows, file, compression=rng.choice(("none", "snappy", "zstd")))
        what, data = f"{title!r:.20}: {array.type}", file.getvalue()
    what = f"{name}: {what} {damage.at(rng, home / name, data)}"
    if name == "a.parquet":
        return what, [["analysis", "compare", name, rng.choice(("b.csv", "b.parquet"))]]
    return what, [[*NEW, rng.choice(("parquet:", "")) + name]]


def images(rng: random.Random, home: Path) -> Drawn:
    source = rng.choice(sorted(p for p in (home / "pictures").iterdir()))
    what, data = damage.of_bytes(rng, source.read_bytes())
    for _ in range(rng.choice((0, 0, 1, 3))):
        more, data = damage.of_bytes(rng, data)
        what += f" {more}"
    way = rng.choice(("predict", "predict", "data", "load"))
    target = home / (f"odd{source.suffix}" if way != "data" else f"images/train/flat/odd{source.suffix}")
    what = f"{source.name}: {what} {damage.at(rng, target, data)}"
    if way == "data":
        return what, [[*NEW, "images", *(("--allow-losses",) if rng.random() < 0.7 else ())]]
    return what, [
        ["word", "predict", "run", ARMS[0], target.name] if way == "predict" else ["load", target.name]
    ]


ARM = (Path(__file__).parents[2] / "search_spaces" / "tiny_resnext.py").read_text()
PYTHON = (
    "None", "1/0", "[]", "{}", "''", "float('nan')", "10**9", "-1", "0", "1e400", "undefined", "lambda: 0", "print", "(1, 2)", "True", "b'x'", "object()", "[] * 9",
    "raise ValueError('a\\nb\\x1b[31m')", "import no_such_module", "def f(: pass", "yield 1", "assert False", "exit(3)", "raise SystemExit", "ARM", "ImageSpec", "config",
    "while", "'\\ud800'", "f()", "globals().clear()", "raise Exception", "class ARM: pass", "\t x", "]", "x = y = z",
)  # fmt: skip


def arms(rng: random.Random, home: Path) -> Drawn:
    """Files of search_spaces, and files of weights with the list of images beside them."""
    return _weights(rng, home) if rng.random() < 0.5 else _arm_file(rng)


def _arm_file(rng: random.Random) -> Drawn:
    import search_spaces

    tokens = re.findall(r"\w+|\s+|[^\w\s]", ARM)
    what = ""
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.choice([k for k, token in enumerate(tokens) if token.strip()])
        match rng.choice(("other", "other", "lost", "twice", "swap")):
            case "other":
                new = rng.choice(PYTHON)
            case "lost":
                new = ""
            case "twice":
                new = tokens[i] * 2
            case _:
                new = rng.choice(tokens)
        what += f"{tokens[i]} -> {new[:20]}; "
        tokens[i] = new
    data = "".join(tokens).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        told, data = damage.of_bytes(rng, data)
        what += told
    name = f"drawn_{rng.randrange(10**9)}"
    path = Path(search_spaces.__file__).parent / f"{name}.py"
    path.write_bytes(data)
    recipe = rng.choice(("sgd", "modern"))
    return what, [
        [
            "study",
            "--budget",
            "10cpu-minutes",
            "--arms",
            f"{ARMS[0]},{name}",
            "--data",
            "images",
            "--recipe",
            recipe,
        ]
    ]


def _weights(rng: random.Random, home: Path) -> Drawn:
    path = home / "net" / "weights.safetensors"
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    chance = rng.random()
    if chance < 0.2:
        side = home / "net" / "images.npy"
        what, data = (
            damage.of_bytes(rng, side.read_bytes())
            if chance < 0.15
            else ("an archive", damage.bomb("(3,)", body=24))
        )
        what = f"images.npy: {what} {damage.at(rng, side, data)}"
    else:
        if chance < 0.4:
            what, data = damage.of_bytes(rng, raw)
        else:
            what, head = damage.of_json(rng, raw[8 : 8 + size])
            head = head if rng.random() < 0.2 else head + b" " * (-len(head) % 8)
            data = struct.pack("<Q", len(head)) + head + raw[8 + size :]
        what = f"weights: {what} {damage.at(rng, path, data)}"
    name = rng.choice(
        (f"{ARMS[0]}@net/weights.safetensors", f"{ARMS[0]}@{home}/net/weights.safetensors:batch_size=32")
    )
    return what, [["study", "--budget", "10cpu-minutes", "--arms", f"{name},{ARMS[1]}", "--data", "images"]]


def exports(rng: random.Random, home: Path) -> Drawn:
    """The files of an exported net, as load.py meets them."""
    name = rng.choice(("config.json", "config.json", "config.json", "weights.safetensors"))
    path = home / "net" / name
    data = path.read_bytes()
    what, data = damage.of_json(rng, data) if name == "config.json" else damage.of_bytes(rng, data)
    return f"{name}: {what} {damage.at(rng, path, data)}", [["load", "pictures/RGBA.png", "images/test/flat"]]


KINDS: dict[str, Callable[[random.Random, Path], Drawn]] = {
    "flags": flags, "plans": plans, "ledgers": ledgers, "npz": npz, "csvs": csvs, "parquets": parquets, "images": images, "arms": arms, "exports": exports, "across": across,
}  # fmt: skip
