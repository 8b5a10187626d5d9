"""Any flags, any damaged byte, any folder: a study works or says why not.

``pytest --hypothesis-profile=long`` tries many more examples. Both profiles draw the same examples every time.
"""

import contextlib
import io
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.edited import chained
from support.plans import PLAN
from support.synthetic import write_run

from study.cli import parse
from study.data.prepare import prepare
from study.protocol import allocation
from study.protocol.codec import checksum
from study.protocol.errors import InputError, LedgerError
from study.protocol.ledger import Ledger, read
from study.protocol.plan import Plan
from study.protocol.records import Cost, asdict

# -- flags

FLAGS = (
    "--budget", "--arms", "--data", "--epochs", "--rope", "--train-fraction", "--widen", "--seed", "--out", "--plan",
    "--resume", "--accept-changed-code", "--address", "--fraction", "--log", "--wait-for", "--looks", "--verbose",
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [
            "10cpu-minutes",
            "8gpu-hours",
            "tiny_resnet,tiny_resnext",
            "digits",
            "0.5",
            "3",
            "new",
            "-1",
            "1e400",
            "nan",
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=12),
)
ARGV = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(FLAGS), VALUES).map(list),
        st.tuples(st.sampled_from(FLAGS), VALUES).map(lambda pair: ["=".join(pair)]),
        VALUES.map(lambda value: [value]),
    ),
    max_size=5,
).map(lambda groups: [word for group in groups for word in group])


@given(start=st.sampled_from([[], ["--budget", "10cpu-minutes"]]), argv=ARGV)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flags_are_parsed_or_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, start: list[str], argv: list[str]
) -> None:
    assume(not any("-h" in word for word in argv))  # asks for help
    with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as here:
        here.chdir(folder)
        stderr = io.StringIO()
        try:
            with contextlib.redirect_stderr(stderr):
                request = parse([*start, *argv])
        except SystemExit as stopped:
            assert stopped.code == 2
            first, second, rest = stderr.getvalue().split("\n")
            assert first.startswith("error: ")
            assert "--help" in second
            assert rest == ""
        else:
            assert request.resume is not None or (request.budget and len(set(request.arms)) >= 2)
            assert request.budget is None or request.budget.seconds > 0
            assert 0 < request.rope <= 0.2
            assert 0 <= request.seed < 2**31
            assert 0 < request.train_fraction <= 1
        assert not list(Path(folder).iterdir())


# -- the plan

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 10**30, 10**400, 1e308, 0.0]),
    st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in plain JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in inner for p in places(item, (*path, key)))]


BODY = json.loads(json.dumps(asdict(PLAN)))
BODY["spaces"] = {"a": {"lr": {"low": 0.1, "high": 1.0, "log": True, "default": 0.5}}}


def put(path: tuple[Any, ...], value: Any) -> Any:
    """The plan's body with another value at one place."""
    body = json.loads(json.dumps(BODY))
    if not path:
        return value
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return body


def loads_or_says_why(body: Any) -> None:
    """Load the plan and compute its allocation: a plan that loads can be used."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(json.dumps(body))
        try:
            plan = Plan.load(path)
        except InputError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 500 + len(folder)
            return
        assert allocation.full_runs(plan) < float("inf")
        assert [plan.pairs, plan.folds, allocation.confirm_reserved(plan), allocation.tuning_runs(plan)]
        assert all(allocation.full_run(plan, arm) > 0 for arm in plan.arms)
        assert str(plan.budget)


@given(path=st.sampled_from(places(BODY)), value=JUNK)
@settings(max_examples=3 * settings().max_examples)
def test_a_plan_edited_anywhere_is_used_or_refused_in_one_sentence(path: tuple[Any, ...], value: Any) -> None:
    loads_or_says_why(put(path, value))


@pytest.mark.parametrize(
    "path",
    [
        path for path in places(BODY)[1:] if path[0] != "spaces" or len(path) < 4
    ],  # an axis is refused as a whole
    ids=lambda path: ".".join(map(str, path)),
)
def test_a_plan_value_of_the_wrong_kind_is_refused_by_name(tmp_path: Path, path: tuple[Any, ...]) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(put(path, None)))
    with pytest.raises(InputError, match=f"{path[0]}: "):
        Plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{" * 5, "\x00", "1e999", '{"arms": NaN}'],
    ids=["deep", "open", "nul", "huge", "nan"],
)
def test_unusual_json_is_no_plan(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match="not a plan of this version"):
        Plan.load(tmp_path / "plan.json")


# -- the ledger


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The ledger of a whole small study."""
    run = write_run(tmp_path_factory.mktemp("study") / "run", images=50, runs=2)
    return (run / "ledger.jsonl").read_bytes()


def changes(data: bytes) -> dict[str, Callable[[random.Random], bytes]]:
    """Ways of damaging or editing a file."""

    def at(rng: random.Random) -> int:
        return rng.randrange(len(data))

    def lines(rng: random.Random, edit: Callable[[list[bytes], int], object]) -> bytes:
        kept = data.splitlines(keepends=True)
        edit(kept, rng.randrange(len(kept)))
        return b"".join(kept)

    def flip(rng: random.Random) -> bytes:
        place = at(rng)
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]

    def insert(rng: random.Random) -> bytes:
        place = at(rng)
        return data[:place] + rng.randbytes(rng.randrange(1, 20)) + data[place:]

    def drop(rng: random.Random) -> bytes:
        place = at(rng)
        return data[:place] + data[place + rng.randrange(1, 200) :]

    return {
        "cut": lambda rng: data[: at(rng)],
        "bit": flip,
        "insert": insert,
        "drop": drop,
        "zeros": lambda rng: data[: (place := at(rng))] + bytes(len(data) - place),
        "line lost": lambda rng: lines(rng, lambda kept, i: kept.pop(i)),
        "line twice": lambda rng: lines(rng, lambda kept, i: kept.insert(i, kept[i])),
        "line moved": lambda rng: lines(
            rng, lambda kept, i: kept.insert(rng.randrange(len(kept)), kept.pop(i))
        ),
    }


@pytest.mark.parametrize("kind", changes(b"x"))
@given(seed=st.integers(0, 2**32))
@settings(
    max_examples=settings().max_examples // 3, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_ledger_is_read_up_to_the_damage_or_refused_with_its_line(
    written: bytes, kind: str, seed: int
) -> None:
    damaged = changes(written)[kind](random.Random(seed))
    whole, lines = written.splitlines(), damaged.split(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        path.write_bytes(damaged)
        try:
            history = read(path)
        except LedgerError as error:
            number = int(str(error).split(", line ")[1].split(":")[0])
            assert 1 <= number <= len(lines)
            assert lines[: number - 1] == whole[: number - 1]
            with pytest.raises(LedgerError, match=f"line {number}:"):
                Ledger(path)
            assert path.read_bytes() == damaged
        else:
            assert bool(history.torn) == (not damaged.endswith(b"\n") and damaged != b"")
            assert lines[:-1] == whole[: len(lines) - 1]  # only a missing end can go unnoticed
            trials = sum(b'{"record":"Trial"' in line for line in lines[:-1])
            assert len(history.trials) == trials


@given(share=st.floats(0, 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_ledger_cut_at_any_byte_goes_on_and_stays_whole(written: bytes, share: float) -> None:
    cut = round(share * len(written))
    whole = written[:cut].count(b"\n")
    more = Cost(arm="resnet8", phase="test", what="later", cost=1.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        path.write_bytes(written[:cut])
        with Ledger(path) as ledger:
            assert bool(ledger.torn) == (written[:cut].rpartition(b"\n")[2] != b"")
            before = ledger.spent("resnet8")
            ledger.add(more)
        kept = b"".join(written.splitlines(keepends=True)[:whole]).decode()
        assert path.read_text() == kept + chained([more], checksum(kept.removesuffix("\n")))
        history = read(path)
        assert history.torn == ""
        assert history.spent("resnet8") == before + 1


# -- folders of images


def an_image(size: tuple[int, int], suffix: str, colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (colour, 3, 5)).save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    return buffer.getvalue()


SIZES = st.sampled_from([(1, 1), (8, 8), (1, 300), (12, 9)])
FILES = st.one_of(
    st.binary(max_size=40),
    st.builds(an_image, SIZES, st.sampled_from(["png", "jpg", "bmp", "gif"]), st.integers(0, 255)),
    st.builds(lambda image, part: image[: int(part * len(image))], st.builds(
        an_image, SIZES, st.sampled_from(["png", "jpg"]), st.integers(0, 255)), st.floats(0, 1)),
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(["a.png", "b.jpg", "c.bmp", "-rf", "a b.gif", ".hidden", "x.PNG", "<b>.png", "ü.jpeg"]),
    st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1, max_size=8),
).filter(lambda name: name not in (".", ".."))
CLASS = st.dictionaries(NAMES, FILES, max_size=4)
PART = st.dictionaries(NAMES, st.one_of(CLASS, FILES), max_size=3)
GOOD = st.lists(st.builds(an_image, SIZES, st.just("png"), st.integers(0, 255)), min_size=4, max_size=6).map(
    lambda images: {f"{i}.png": image for i, image in enumerate(images)}
)
TREES = st.one_of(
    st.dictionaries(st.sampled_from(["train", "test", "val", "other"]), st.one_of(PART, FILES)),
    st.fixed_dictionaries(
        {"train": st.fixed_dictionaries({"a": GOOD, "b": GOOD})}, optional={"test": PART, "val": PART}
    ),
)


def grow(folder: Path, tree: dict[str, Any]) -> None:
    folder.mkdir()
    for name, content in tree.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            grow(folder / name, content)


@given(tree=TREES, seed=st.integers(0, 2**31 - 1))
def test_any_folder_is_prepared_or_refused_in_one_sentence(tree: dict[str, Any], seed: int) -> None:
    folder = Path(tempfile.mkdtemp()) / "images"
    try:
        grow(folder, tree)
        prepared = prepare(f"folder:{folder}", seed=seed, root=folder.parent)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        card = prepared.card
        assert card.train == len(prepared.train) >= 2 * len(card.classes)
        assert prepared.train.pixels.shape == (card.train, card.channels, card.size, card.size)
        assert set(prepared.train.labels) == set(range(len(card.classes)))
        assert card.test >= 2
        " ".join([*card.classes, card.note]).encode()
    finally:
        shutil.rmtree(folder.parent)
