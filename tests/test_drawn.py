"""Some drawn inputs; ``python -m tests.hostile`` draws thousands, and its findings are kept as tests of what they met."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import ground, worker
from hostile.campaign import campaign
from hostile.kinds import KINDS

from study.signals import SIGNALS


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Images and tables to damage, and commands that stop before Ray."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    worker.barrier(monkeypatch.setattr)
    yield ground.grow(tmp_path / "base", studies=False)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_damaged_tables_are_read_or_refused(base: Path) -> None:
    met = [
        worker.meet(kind, 1, i, base, base.with_name("home-1"))
        for kind in ("csvs", "parquets")
        for i in range(12)
    ]
    assert [one for one in met if one.fault] == []
    assert any(2 in one.codes for one in met)
    assert any({*one.codes} == {0} for one in met)


def test_a_file_written_elsewhere_is_a_finding_at_any_depth(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ["analysis", "run"]
    for argv, written, found in (
        (plain, "../base/images/train/flat/new.png", True),
        (plain, "../tree/study/deep/new.py", True),
        (plain, "images/train/flat/new.png", True),
        (plain, "labels.csv", True),
        (plain, "run/report.html", False),
        (["analysis", "across", "--to", "images/x"], "images/x/new.png", False),
        (["analysis", "across", "--to=x"], "images/x", True),
    ):

        def writes(_: list[str], place: str = written) -> int:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).unlink(missing_ok=True)
            Path(place).write_text("new")
            return 0

        monkeypatch.setattr(worker, "command", lambda _, writes=writes: writes)
        monkeypatch.setitem(KINDS, "flags", lambda *_, argv=argv: ("", [argv]))
        met = worker.meet("flags", 0, 0, base, base.with_name("home-1"))
        assert ("writes elsewhere" in met.fault) == found, written


@pytest.mark.long
def test_inputs_of_every_kind_are_taken_or_refused(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    met = campaign(tmp_path, list(KINDS), seed=1, numbers=range(20), results=results)
    assert Counter(one.kind for one in met) == dict.fromkeys(KINDS, 20)
    assert [one for one in met if one.fault] == []
    assert campaign(tmp_path, list(KINDS), seed=1, numbers=range(20), results=results) == []
