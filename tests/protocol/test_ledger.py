"""The ledger returns its records unchanged, or says why it cannot be trusted."""

import dataclasses
import errno
import fcntl
import math
import os
from pathlib import Path

import pytest
from support.a_ledger import a_trial, an_epoch, an_outcome
from support.edited import chained

from study.protocol.codec import decode, encode
from study.protocol.errors import LedgerError
from study.protocol.history import History
from study.protocol.ledger import Ledger, read
from study.protocol.records import (
    Choice,
    Cost,
    Extension,
    Manifest,
    Outcome,
    Record,
    Scored,
    TestOpened,
    Tuning,
)

CHOICE = Choice(
    pair=0,
    config={"lr": 0.1},
    default=False,
    trials=("a-select-0000", "a-select-0001"),
    val_accuracy=0.9,
    lead=0.02,
    lead_se=None,
    run_variance=0.0,
    runs=5,
    ties="",
)
MANIFEST = Manifest.of({"a": (CHOICE,)}, {"a": 0})
MORE = Extension(
    look=2,
    budget_seconds=900.0,
    arms=("a",),
    pairs=1,
    level=0.019,
    declared=False,
    reason="--budget 15cpu-minutes after 10cpu-minutes",
    plan={},
)
EVERY_KIND: list[Record] = [
    a_trial(),
    an_epoch(a_trial(), 1, 2.0),
    an_outcome(a_trial(), 3.0),
    Cost(arm="a", phase="probe", what="speed", cost=1.0),
    Tuning(per_arm=100.0, slice_runs=2, full_run={"a": 5.0}),
    MANIFEST,
    MORE,
    TestOpened(manifest="ff", trials=("a-confirm-0000",)),
    Scored(trial="a-confirm-0000", test_accuracy=0.8),
]


@pytest.mark.parametrize("record", EVERY_KIND, ids=lambda r: type(r).__name__)
def test_every_record_comes_back_as_it_was(record: Record) -> None:
    assert decode(encode(record)) == record


def test_a_non_finite_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode(an_epoch(a_trial(), 1, math.nan))


def test_spend_counts_every_second_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    done, open_ = a_trial(0), a_trial(1)
    with Ledger(path) as ledger:
        for record in (
            done, an_epoch(done, 1, 4.0), an_epoch(done, 2, 7.0), an_outcome(done, 7.5),
            open_, an_epoch(open_, 1, 2.0),
            Cost(arm="tiny_resnet", phase="probe", what="speed", cost=1.0),
        ):  # fmt: skip
            ledger.add(record)
        assert ledger.spent("tiny_resnet", "search") == pytest.approx(9.5)
        assert ledger.spent("tiny_resnet") == pytest.approx(10.5)
        assert [t.id for t in ledger.running("tiny_resnet", "search")] == [open_.id]
    assert read(path).spent("tiny_resnet") == pytest.approx(10.5)


def test_a_torn_last_line_is_dropped_with_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    whole = chained([a_trial(0), a_trial(1)])
    path.write_text(whole[:-20])
    history = read(path)
    assert list(history.trials) == [a_trial(0).id]
    assert "torn" in history.torn


@pytest.mark.parametrize(
    "bad",
    [
        b"not json",
        b'{"record":"Trial"}',
        b'{"record":"Nothing"}',
        b"[]",
        b"\xff\xfe",
        b'{"record":["a"]}',
        b'{"record":"Scored","trial":"a","test_accuracy":"high"}',
        b'{"record":"Scored","trial":1,"test_accuracy":1.0}',
        b'{"record":"Outcome","trial":"a","state":"lost","reason":"","epochs":1,"cost":1.0}',
        b'{"record":"Cost","arm":"a","phase":"probe","what":"w","cost":true}',
    ],
)
def test_any_other_damage_stops_with_its_line(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(encode(a_trial(0)).encode() + b"\n" + bad + b"\n")
    with pytest.raises(LedgerError, match="line 2"):
        read(path)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([a_trial(), a_trial()], "twice"),
        ([an_epoch(a_trial(), 1, 1.0)], "unknown trial"),
        (
            [a_trial(), dataclasses.replace(a_trial(1), phase="confirm")],
            "was seen by the search",
        ),
        ([a_trial(), an_outcome(a_trial(), 1.0), an_epoch(a_trial(), 1, 1.0)], "ended already"),
        ([a_trial(), an_epoch(a_trial(), 1, 5.0), an_epoch(a_trial(), 2, 4.0)], "gives back"),
        ([MANIFEST, MANIFEST], "a manifest of look 1 after 1: each is final"),
        ([MANIFEST, dataclasses.replace(MANIFEST, look=2)], "which was never asked for"),
        ([MORE, MORE], "a study is extended once"),
    ],
)
def test_a_contradiction_is_refused_and_not_written(tmp_path: Path, records: list[Record], why: str) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        for record in records[:-1]:
            ledger.add(record)
        with pytest.raises(LedgerError, match=why):
            ledger.add(records[-1])
    assert len(path.read_text().splitlines()) == len(records) - 1


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path), pytest.raises(LedgerError, match=f"process {os.getpid()}"):
        Ledger(path)


def test_a_manifest_is_named_by_its_content() -> None:
    other = dataclasses.replace(CHOICE, config={"lr": 0.2})
    assert Manifest.of({"a": (CHOICE,)}, {"a": 0}) == MANIFEST
    for changed in (
        Manifest.of({"a": (other,)}, {"a": 0}),
        Manifest.of({"a": (CHOICE,)}, {"a": 1}),
        Manifest.of({"a": (CHOICE,)}, {"a": 0}, look=2),
    ):
        assert changed.sha256 != MANIFEST.sha256


def test_choices_of_two_looks_form_one_list_and_the_latest_names_the_net_in_hand() -> None:
    history = History()
    for record in (
        MANIFEST,
        MORE,
        Manifest.of({"a": (dataclasses.replace(CHOICE, pair=1),)}, {"a": 1}, look=2),
    ):
        history.add(record)
    assert [choice.pair for choice in history.choices("a")] == [0, 1]
    assert history.in_hand("a") == 1
    assert [m.look for m in history.manifests] == [1, 2]


def test_a_failed_write_leaves_the_file_whole_even_if_it_cannot_be_cut_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system turned read-only, or a disk that fills in mid-line."""
    path = tmp_path / "ledger.jsonl"
    real = os.write

    def torn(file: int, line: bytes) -> int:
        return real(file, line[:10])

    def fails(file: int, size: int) -> None:
        del file, size
        raise OSError(30, "Read-only file system")

    with Ledger(path) as ledger:
        ledger.add(a_trial(0))
        for at_once in (True, False):
            before = path.read_bytes()
            with monkeypatch.context() as broken:
                broken.setattr(os, "write", torn)
                if not at_once:
                    broken.setattr(os, "ftruncate", fails)
                with pytest.raises(LedgerError, match="cannot be written"):
                    ledger.add(a_trial(1 if at_once else 2))
            assert (path.read_bytes() == before) == at_once
        with monkeypatch.context() as broken:
            broken.setattr(os, "ftruncate", fails)
            with pytest.raises(LedgerError, match="cannot be written"):
                ledger.add(a_trial(3))  # no line is appended to half a line
        ledger.add(a_trial(4))
    assert [t.index for t in read(path).trials.values()] == [0, 4]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As NFS without its lock service, Lustre without ``-o flock``, and some FUSE file systems answer."""

    def none(file: int, operation: int) -> None:
        del file, operation
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(LedgerError, match="mounted with locks"):
        Ledger(tmp_path / "ledger.jsonl")


def test_text_that_utf8_cannot_encode_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    odd = Outcome(trial="a", state="failed", reason="half a \udcff", epochs=0, cost=0.0)
    path.write_text(chained([odd]))
    with pytest.raises(LedgerError, match="line 1: .*surrogates"):
        read(path)
    whole = Outcome(trial="a", state="failed", reason="\N{SNOWMAN} \N{GRINNING FACE}", epochs=0, cost=0.0)
    assert decode(encode(whole)) == whole
