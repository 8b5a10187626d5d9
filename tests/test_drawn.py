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


@pytest.mark.long
def test_inputs_of_every_kind_are_taken_or_refused(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    met = campaign(tmp_path, list(KINDS), seed=1, numbers=range(40), results=results)
    assert Counter(one.kind for one in met) == dict.fromkeys(KINDS, 40)
    assert [one for one in met if one.fault] == []
    assert campaign(tmp_path, list(KINDS), seed=1, numbers=range(40), results=results) == []
