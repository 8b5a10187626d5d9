"""A short fault campaign; ``python -m tests.faults`` is the long one."""

from pathlib import Path

import pytest
from faults.campaign import campaign


@pytest.mark.long
def test_broken_studies_end_as_an_undisturbed_one(tmp_path: Path) -> None:
    """A driver killed with -9 leaves a torn ledger."""
    said: list[str] = []
    rows = campaign(
        tmp_path, faults=["worker killed", "ledger torn"], repeats=1, seed=1, say=said.append, budget=110.0
    )
    assert all(tried == survived for _, tried, survived, _ in rows), "\n".join(said)
