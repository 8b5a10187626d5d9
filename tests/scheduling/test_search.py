"""An arm's search proposes reproducibly, stops like Ray's ASHA, and reports the true states to Optuna."""

import numpy as np
import pytest
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers.async_hyperband import _Bracket

from search_spaces import Choice, Config, Float, Int, Space, default, load, load_recipe
from study.protocol.records import Epoch, Outcome, Trial
from study.scheduling.asha import Rungs
from study.scheduling.sampler import ArmSearch, proposal_seed
from study.scheduling.spaces import (
    RESIZED_CROPS,
    describe,
    known,
    of_photographs,
    random_config,
    restrict,
    searched,
    widen,
)
from study.training.augment import POLICIES

SPACE: Space = {
    "lr": Float(low=1e-3, high=1.0, default=0.1, log=True),
    "depth": Int(low=1, high=4, default=2),
    "policy": Choice(options=("a", "b"), default="a"),
    "strength": Float(low=0.0, high=1.0, default=0.5, when={"policy": ("b",)}),
    "batch_size": Choice(options=(32, 64, 128), default=32),
}
DEFAULT: Config = {"lr": 0.1, "depth": 2, "policy": "a", "batch_size": 32}


KNOWN: Config = {"lr": 0.05, "depth": 3, "policy": "a", "batch_size": 64}


def a_search(seed: int, space: Space = SPACE) -> ArmSearch:
    """A search whose first trial is the default, paid for by the baseline."""
    search = ArmSearch(space, (2,), seed=seed, known=[KNOWN])
    default = Trial(
        id="a-baseline-0000", arm="a", phase="baseline", index=0, pair=0, config=DEFAULT, seed=0, fold=0, epochs=6
    )  # fmt: skip
    ended = Outcome(trial=default.id, state="finished", reason="full length", epochs=6, cost=6.0)
    search.restore(default, [an_epoch(default.id, epoch, 0.05 * epoch) for epoch in range(1, 7)], ended)
    return search


def an_epoch(trial: str, epoch: int, accuracy: float) -> Epoch:
    return Epoch(
        trial=trial, epoch=epoch, train_loss=1.0, train_accuracy=accuracy, val_loss=1.0, val_accuracy=accuracy,
        train_seconds=1.0, eval_seconds=1.0,
    )  # fmt: skip


def play(search: ArmSearch, trials: int, *, seed: int = 0) -> list[Config]:
    """Run a search of six-epoch trials on synthetic curves, one at a time."""
    rng = np.random.default_rng(seed)
    configs = []
    for number in range(trials):
        name = f"t{number}"
        config = search.ask(name)
        configs.append(config)
        accuracy = 1 / (1 + abs(np.log10(float(config["lr"])) + 1)) + 0.01 * float(rng.standard_normal())
        outcome = Outcome(trial=name, state="finished", reason="full length", epochs=6, cost=6.0)
        for epoch in range(1, 7):
            if not search.report(an_epoch(name, epoch, accuracy * epoch / 6)) and epoch < 6:
                outcome = Outcome(trial=name, state="stopped", reason="asha: here", epochs=epoch, cost=epoch)
                break
        search.tell(outcome, accuracy)
    return configs


def test_known_settings_follow_the_default_and_all_lie_in_the_space() -> None:
    configs = play(a_search(1), 20)
    assert configs[0] == KNOWN
    assert DEFAULT not in configs
    for config in configs:
        assert 1e-3 <= float(config["lr"]) <= 1.0
        assert config["depth"] in (1, 2, 3, 4)
        assert ("strength" in config) == (config["policy"] == "b")


def test_the_same_seed_proposes_the_same_configs() -> None:
    first, again, other = (play(a_search(s), 20) for s in (1, 1, 2))
    assert first == again
    assert first[1:] != other[1:]


def test_arms_of_a_pair_begin_with_the_same_values_of_shared_axes() -> None:
    """Independent of an arm's other axes and of earlier trials."""
    wider: Space = {"groups": Choice(options=(2, 4, 8), default=2), **SPACE}
    one, other, elsewhere = a_search(1), a_search(1, wider), a_search(2)
    asked = [[search.ask(f"t{i}") for i in range(9)] for search in (one, other, elsewhere)]
    assert asked[0] == [{k: v for k, v in config.items() if k in SPACE} for config in asked[1]][:1] + [
        {k: v for k, v in config.items() if k != "groups"} for config in asked[1][1:]
    ]
    assert asked[0][1:] != asked[2][1:]
    assert random_config(SPACE, seed=proposal_seed(1, 2)) == asked[0][1]


def test_the_recipes_known_settings_are_fitted_to_the_studys_batch_sizes() -> None:
    space = load("tiny_resnext").space
    settings = load_recipe("sgd").known
    found = known(space, settings)
    assert len(found) == len(settings)
    for config, recipe in zip(found, settings, strict=True):
        assert config == {**default(space), **recipe.config}
        assert recipe.source
    small = known(restrict(space, (32, 64)), settings)
    assert {config["batch_size"] for config in small} == {64}
    assert [config["lr"] for config in small] == pytest.approx([0.05, 0.05, 0.025])
    assert all(
        config.keys() == DEFAULT.keys() for config in known(SPACE, settings)
    )  # and no axis that the arm lacks


def test_unfinished_trials_reach_optuna_as_pruned_failed_or_running() -> None:
    search = a_search(3)
    play(search, 20)
    ends = {
        "bad": ("failed", "diverged: nan"),
        "killed": ("failed", "worker died: node lost (3 times)"),
        "late": ("stopped", "budget: spent"),
    }
    for name, (state, reason) in ends.items():
        search.ask(name)
        search.report(an_epoch(name, 1, 0.9))
        search.tell(Outcome(trial=name, state=state, reason=reason, epochs=1, cost=1.0), 0.9)  # type: ignore[arg-type]
    trials = search.trials
    assert trials[0].state.name == "COMPLETE"
    assert [(t.state.name, t.intermediate_values) for t in trials[-3:]] == [
        ("PRUNED", {}), ("FAIL", {}), ("RUNNING", {}),
    ]  # fmt: skip
    pruned = [t for t in trials[:-3] if t.state.name == "PRUNED"]
    assert pruned
    assert all(list(t.intermediate_values) == [2] for t in pruned)


@pytest.mark.parametrize("seed", range(3))
def test_failing_settings_are_seldom_proposed_again(seed: int) -> None:
    """The best learning rates border on failing ones; a search must not mistake failures for unexplored space."""
    search, failed = a_search(seed), 0
    for number in range(100):
        name = f"t{number}"
        lr = float(search.ask(name)["lr"])
        if lr > 0.12:  # 31 % of the range
            failed += 1
            outcome = Outcome(trial=name, state="failed", reason="diverged: nan", epochs=0, cost=1.0)
            search.tell(outcome, None)
        else:
            search.report(an_epoch(name, 2, lr))
            outcome = Outcome(trial=name, state="finished", reason="full length", epochs=6, cost=6.0)
            search.tell(outcome, lr)
    assert failed < 60  # 88 without the penalty for failures


@pytest.mark.parametrize("seed", range(5))
def test_rungs_decide_as_rays_asha_bracket(seed: int) -> None:
    ours = Rungs((1, 3, 9), reduction=3)
    rays = _Bracket(min_t=1, max_t=27, reduction_factor=3, s=0)

    rng = np.random.default_rng(seed)
    alive = [(RayTrial("unused", trial_id=f"t{i}", stub=True), float(rng.uniform())) for i in range(60)]
    for rung in (1, 3, 9):
        passed = []
        for trial, quality in alive:
            accuracy = quality + 0.1 * float(rng.standard_normal())
            mine = ours.passes(trial.trial_id, rung, accuracy)
            assert mine == (rays.on_result(trial, rung, accuracy) == "CONTINUE")
            if mine:
                passed.append((trial, quality))
        alive = passed
    assert 0 < len(alive) < 30


def test_of_equal_scores_at_a_rung_the_lower_loss_goes_on() -> None:
    rungs = Rungs((1,), reduction=3)
    rungs.passes("first", 1, 0.5, 0.7)
    for number in range(6):
        rungs.remember(f"t{number}", 1, 0.5, 0.6 + 0.02 * number)
    assert rungs.passes("better", 1, 0.5, 0.61)
    assert not rungs.passes("worse", 1, 0.5, 0.71)
    assert not rungs.passes("lower score", 1, 0.4, 0.1)
    assert rungs.passes("higher score", 1, 0.6, 2.0)


def test_batch_sizes_that_do_not_fit_leave_the_space() -> None:
    axis = restrict(SPACE, (64, 128))["batch_size"]
    assert axis == Choice(options=(64, 128), default=128)
    assert restrict(SPACE, (32, 64))["batch_size"] == Choice(options=(32, 64), default=32)


def test_photographs_are_also_searched_with_resized_crops_and_nothing_else_changes() -> None:
    space = load("tiny_resnet").space
    usual, more = (searched(space, (32, 64), (), photographs=photographs) for photographs in (False, True))
    axis = more["augment"]
    assert isinstance(axis, Choice)
    assert axis.options[-2:] == RESIZED_CROPS
    assert {**more, "augment": usual["augment"]} == usual
    assert [of_photographs({"arm": describe(s)}) for s in (usual, more)] == [False, True]
    assert set(RESIZED_CROPS) <= set(POLICIES)


def test_random_configs_are_uniform_on_their_scales_and_shared_by_name() -> None:
    draws = [random_config(SPACE, seed=s) for s in range(400)]
    exponents = np.log10([float(c["lr"]) for c in draws])
    assert (exponents.min(), exponents.max()) == pytest.approx((-3, 0), abs=0.05)
    assert float(np.mean(exponents)) == pytest.approx(-1.5, abs=0.15)
    assert {c["depth"] for c in draws} == {1, 2, 3, 4}
    assert all(("strength" in c) == (c["policy"] == "b") for c in draws)
    other: Space = {"lr": SPACE["lr"], "width": Int(low=8, high=64, default=16, log=True)}
    for seed in range(20):
        assert random_config(other, seed=seed)["lr"] == random_config(SPACE, seed=seed)["lr"]


def test_widened_axes_reach_three_times_as_far() -> None:
    wide = widen(SPACE, ["lr", "depth", "strength", "no_axis_of_this_arm"])
    assert wide["lr"] == Float(low=1e-3 / 3, high=3.0, default=0.1, log=True)
    assert wide["depth"] == Int(low=1, high=12, default=2)
    strength = wide["strength"]
    assert isinstance(strength, Float)
    assert (strength.low, strength.high) == (0.0, 3.0)
    assert widen(SPACE, []) == SPACE
    described = describe(wide)
    assert described["lr"] == {"low": 1e-3 / 3, "high": 3.0, "default": 0.1, "log": True}
    assert described["policy"] == {"options": ("a", "b"), "default": "a"}


@pytest.mark.parametrize("pin", ["lr=0.02", "batch_size=32", "augment=none", "lr=0.02+batch_size=256"])
def test_the_known_settings_of_a_pinned_arm_keep_its_pins(pin: str) -> None:
    space = restrict(load(f"tiny_resnet:{pin}").space, (32, 64))
    for config in known(space, load_recipe("sgd").known):
        for name, axis in space.items():
            assert not isinstance(axis, Choice) or config[name] in axis.options
