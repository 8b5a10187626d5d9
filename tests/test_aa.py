"""The bench of whole studies is valid: known truths, the same study for the same seed."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from bench import aa, worlds
from bench.aa import Study

from study.protocol.levels import FEWEST_PAIRS


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    name = "tuning gains 2 pt"
    return [aa.play(aa.families()[name], budget=26, seed=seed) for seed in aa.seeds(name, 26, 4)]


def test_the_same_seed_plays_the_same_study_and_pairs_share_their_first_proposals(
    studies: list[Study],
) -> None:
    family = aa.families()[studies[0].family]
    assert aa.play(family, budget=26, seed=studies[0].seed) == studies[0]
    plan = worlds.question(family, budget=26, seed=1)
    history = worlds.Play(plan, worlds.worlds(family), dict.fromkeys(worlds.NAMES, 1.0)).run()
    first = [
        next(t.config for t in history.of(arm, "search") if t.pair == pair)
        for arm in worlds.NAMES
        for pair in range(plan.pairs)
    ]
    assert plan.pairs == FEWEST_PAIRS
    assert first[:3] == first[3:]
    assert first[0] != first[1]


def test_truths_are_without_noise_and_the_default_lies_as_far_below_as_stated() -> None:
    for name, family in aa.gains().items():
        plan = worlds.question(family, budget=50, seed=3)
        assert f"{plan.val_images} val" in name
        world = worlds.worlds(family)["one"]
        study = aa.play(family, budget=50, seed=3)
        best = family.worlds[0].best  # type: ignore[union-attr]
        gain = family.worlds[0].gain  # type: ignore[union-attr]
        assert list(study.default) == pytest.approx([best - gain] * 2)
        assert all(len(own) == plan.pairs for own in study.found)
        assert set(world.space) == {"learning_rate", "decay", "smoothing", "augment", "batch_size"}


def test_the_table_and_the_looks_are_read_from_the_file(
    studies: list[Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "studies.jsonl"
    gain = [dataclasses.replace(s, family=list(aa.gains())[-1]) for s in studies]
    path.write_text("".join(json.dumps(vars(s)) + "\n" for s in [*studies, *gain]) + '{"torn')
    assert aa.read(path) == [*studies, *gain]
    aa.main(["table", str(path)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == aa.HEAD
    assert shown[1].startswith("tuning gains 2 pt            26  3     4")
    assert shown[3].startswith("gain 2 pt, 5000 val          26  3     4")
    assert "nets (old)" in shown[2]
    aa.main(["looks", str(path)])
    assert "  3, 6     2" in capsys.readouterr().out


def test_rates_shift_every_interval_by_the_gap() -> None:
    intervals = np.array([[0.0, -0.01, 0.01], [0.02, 0.005, 0.035]])
    claims = np.array([True, True])
    found = aa.rates(intervals, claims, 0.0, 0.01)
    assert (found.coverage, found.named) == (0.5, 0.5)
    assert found.power[1] == pytest.approx(
        (1 + 0) / 4
    )  # at a gap of 0.01, either way: two of four excluded, one rightly
    assert aa.rates(intervals, np.array([True, False]), 0.0, 0.01).named == 0.0


def test_the_first_versions_rule_takes_no_default(studies: list[Study]) -> None:
    for study in studies:
        assert aa.first_version(study, 0) in study.found[0]
    sure = dataclasses.replace(studies[0], val_images=10**9)
    assert aa.first_version(sure, 0, run_sd=0.0) == max(sure.found[0])
