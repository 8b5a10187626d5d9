"""Importance finds the parameter that matters, admits chance, and gives no numbers on few trials."""

import math

import numpy as np
import optuna
import pytest

from analysis.statistics.importance import FLOOR, TOP, _on_rank_scale, importances
from analysis.statistics.intervals import Refused
from study.protocol.records import Config

OPTIONS = ("none", "flip", "flip+crop", "trivial")


def settings(rng: np.random.Generator, trials: int) -> list[Config]:
    """A slice drawn as the arms' recipe is: log ranges, a plain range, choices, one fixed parameter."""
    return [
        {
            "lr": float(10 ** rng.uniform(-3, 0)),
            "weight_decay": float(10 ** rng.uniform(-5, -2)),
            "label_smoothing": float(rng.uniform(0, 0.2)),
            "augment": str(rng.choice(OPTIONS)),
            "batch_size": int(rng.choice([32, 64, 128])),
            "nesterov": True,
        }
        for _ in range(trials)
    ]


def lr_matters(
    configs: list[Config], rng: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    lr = np.array([math.log10(float(c["lr"])) for c in configs])
    return 0.9 - 0.1 * (lr + 1.2) ** 2 + rng.normal(0, 0.005, len(configs))


def test_the_only_parameter_that_matters_ranks_first() -> None:
    rng = np.random.default_rng(0)
    configs = settings(rng, 40)
    table = importances(configs, lr_matters(configs, rng), resamples=30)
    assert set(table["parameter"]) == {"lr", "weight_decay", "label_smoothing", "augment", "batch_size"}
    assert table["importance"].sum() == pytest.approx(1)
    top = table.iloc[0]
    assert (top["parameter"], top["rank"], top["rank_high"]) == ("lr", 1, 1)
    assert top["first"] >= 0.95
    assert top["p_chance"] == pytest.approx(1 / 31)
    assert (table["rank_low"] <= table["rank_high"]).all()


def test_a_choice_that_matters_is_found_and_a_diverged_trial_is_the_worst() -> None:
    rng = np.random.default_rng(1)
    configs = settings(rng, 60)
    good = np.array([c["augment"] in ("flip+crop", "trivial") for c in configs])
    accuracies = np.where(good, 0.9, np.nan) + rng.normal(0, 0.01, 60)
    table = importances(configs, accuracies, resamples=20)
    assert table.loc[0, "parameter"] == "augment"


def test_a_parameter_that_only_some_settings_have_is_no_obstacle() -> None:
    rng = np.random.default_rng(2)
    configs = settings(rng, 40)
    for config in configs[::2]:
        config["momentum"] = float(rng.random())
    table = importances(configs, lr_matters(configs, rng), resamples=10)
    assert "momentum" in set(table["parameter"])
    assert table.loc[0, "parameter"] == "lr"


def test_pure_noise_is_called_chance() -> None:
    rng = np.random.default_rng(3)
    surprising = []
    for _ in range(4):
        table = importances(settings(rng, FLOOR), rng.random(FLOOR), resamples=25)
        surprising += list(table["p_chance"] <= 0.05)
    assert sum(surprising) <= 4  # of 20 tests; one is expected


def test_same_seed_same_table() -> None:
    rng = np.random.default_rng(4)
    configs, accuracies = settings(rng, 30), rng.random(30)
    one, other = (importances(configs, accuracies, resamples=5, seed=1) for _ in range(2))
    assert one.equals(other)


def test_too_few_trials_give_no_numbers() -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(Refused, match="too few trials: 29 trials"):
        importances(settings(rng, 29), rng.random(29))
    with pytest.raises(ValueError, match="every accuracy"):
        importances(settings(rng, 30), rng.random(29))


def test_the_importances_are_those_of_an_optuna_study_of_these_trials() -> None:
    rng = np.random.default_rng(5)
    configs = settings(rng, 40)
    scores = lr_matters(configs, rng)
    names, trials = _on_rank_scale(configs)
    study = optuna.create_study(direction="maximize")
    for trial, score in zip(trials, scores, strict=True):
        trial.value = float(score)
        study.add_trial(trial)
    shares = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP), params=names
    )
    table = importances(configs, scores, resamples=1)
    assert dict(zip(table["parameter"], table["importance"], strict=True)) == pytest.approx(shares)
