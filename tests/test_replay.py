"""Replays are valid: no row twice, equal cost, correct judgements."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bench.replay import Run, found, judge, rates, replay, report_text, search, summarise, truths
from bench.taskset import ADAM, FILES, Curves, Rows, load, made_up

A, B = (made_up(name, seed=seed, rows=150, checkpoints=20) for seed, name in enumerate(("a", "b")))
ARMS = {"a": A, "b": B}
ONES = {"a": 1.0, "b": 1.0}


def test_a_search_never_gets_a_row_twice() -> None:
    rows = Rows(A)
    drawn = [rows.draw(dict(ADAM)) for _ in range(150)]
    assert sorted(drawn) == list(range(150))
    with pytest.raises(LookupError, match="150"):
        rows.draw(dict(ADAM))
    exact = {name: float(value) for name, value in zip(A.axes, A.settings[7], strict=True)}
    assert Rows(A).draw(dict(exact)) == 7
    for arms in ({"a": A}, ARMS):
        runs = search(arms, budget=200, costs=ONES, seed=1)
        assert len({(r.arm, r.row) for r in runs}) == len(runs) > 10


def test_both_ways_spend_the_budget_to_the_checkpoint_and_alike_for_the_same_seed() -> None:
    for arms in ({"b": B}, {"b": B, "a": A}):
        runs = search(arms, budget=120, costs=ONES, seed=2)
        assert sum(r.checkpoints for r in runs) == 120
        assert runs == search(arms, budget=120, costs=ONES, seed=2)
        assert runs[0].arm == "b"
    dear = search({"a": A}, budget=120, costs={"a": 1.5}, seed=2)
    assert 1.5 * sum(r.checkpoints for r in dear) == 120


def test_an_arm_that_never_ran_to_the_end_loses_unless_it_is_retrained() -> None:
    best, worst = (int(f(c.final_test)) for f, c in ((np.argmin, A), (np.argmax, B)))

    def run(arm: str, row: int, checkpoints: int) -> Run:
        return Run(arm=arm, row=row, checkpoints=checkpoints, loss=0.5, failed=False)

    runs = [run("a", best, 3), run("b", worst, 20)]
    case = judge((A, B), runs, ONES, "joint", 0)
    assert (case.right, case.right_retrained) == (False, True)
    assert case.better_never_finished
    assert case.share == pytest.approx(3 / 23)
    assert judge((A, B), [run("a", best, 20), run("b", worst, 20)], ONES, "joint", 0).right
    failed = dataclasses.replace(runs[0], failed=True)
    assert found([failed], "a") is None


def test_the_expected_best_of_random_rows_is_what_drawing_them_gives() -> None:
    rng = np.random.default_rng(0)
    final = np.nan_to_num(A.valid[:, -1], nan=np.inf)
    drawn = [rng.choice(150, size=10, replace=False) for _ in range(4000)]
    simulated = [A.final_test[rows[final[rows].argmin()]] for rows in drawn]
    assert A.expected(10) == pytest.approx(
        float(np.mean(simulated)), abs=4 * float(np.std(simulated)) / 4000**0.5
    )
    assert A.expected(150) == pytest.approx(A.truth)


def test_a_small_replay_prints_a_table_with_the_ratio_last() -> None:
    cases = replay(ARMS, repeats=2, budget=6)
    rows = summarise(ARMS, cases)
    assert [r.way for r in rows] == ["joint", "per arm"]
    assert rows[1].share == pytest.approx(0.5)
    assert rows[1].gap >= 0
    assert set(truths(rows)) <= {frozenset(ARMS)}
    table = rates(cases, {frozenset(ARMS): rows[0].better})
    text = report_text(rows, table, table)
    assert text.splitlines()[-1].startswith("right verdicts, truth in the end: joint ")
    assert "joint / per arm" in text.splitlines()[-1]


def test_recorded_tables_are_read_or_made_up_in_their_likeness(tmp_path: Path) -> None:
    for name, file in FILES.items():
        one = load(tmp_path / "absent")[name]
        names = np.array(list(ADAM))
        settings = one.settings.copy()
        settings[:, 1:3] = 1 - settings[:, 1:3]
        np.savez(tmp_path / file, hp=settings, hp_names=names, valid=one.valid * 2, test=one.test)
    for curves in load(tmp_path).values():
        assert isinstance(curves, Curves)
        assert curves.checkpoints == 50
        assert np.nanmax(curves.valid) <= 0.75
        assert np.isnan(curves.valid).any()
        assert all(curves.settings[:, 1] < 1)
        assert set(curves.space) == set(ADAM)
