"""Packing: the candidate layouts of given hardware, and the fastest of those measured."""

import contextlib
import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from bench.timing import processes
from support.plans import AUDIT

from search_spaces import ArmError, Config, ImageSpec, load
from study.execution import choices, meter, profile
from study.execution.measurements import Measurements
from study.execution.meter import Meter
from study.execution.packing import GAIN, Hardware, Way, fastest, fits, speed, ways
from study.execution.rehearsal import Speed
from study.protocol.errors import InputError
from study.protocol.question import Packed
from study.scheduling.spaces import restrict
from study.training.device import device_of

TWO_CORES = Hardware(resource="cpu", units=2, cores=(2,), name="CPU x 2")
EIGHT_CORES = Hardware(resource="cpu", units=8, cores=(8,), name="CPU x 8")
IMAGES = ImageSpec(channels=3, size=32, classes=10)
CARDS = Hardware(resource="gpu", units=2, cores=(16,), name="H200", kind="H200")


def packed(arm: str, images_per_second: float, batch_size: int = 32) -> Packed:
    return Packed(
        arm=arm, trials=2, fraction=1.0, threads=1, batch_size=batch_size, channels_last=True,
        images_per_second=images_per_second, peak_bytes=1,
    )  # fmt: skip


def test_cores_are_never_shared_by_more_threads_than_there_are() -> None:
    cluster = Hardware(resource="cpu", units=14, cores=(8, 6), name="CPU x 14")
    for hardware in (TWO_CORES, cluster):
        for way in ways(hardware, None):
            assert way.machine.slots * way.machine.threads <= hardware.units
            assert way.machine.fraction == way.machine.threads  # it books the cores it uses
            assert way.trials * way.machine.threads <= min(hardware.cores)
    assert [w.machine.threads for w in ways(TWO_CORES, None)] == [1, 2]
    assert [(w.machine.threads, w.machine.slots, w.trials) for w in ways(cluster, None)] == [
        (1, 14, 6), (2, 7, 3), (4, 3, 1),
    ]  # fmt: skip
    many = Hardware(resource="cpu", units=64, cores=(64,), name="CPU x 64")
    assert [w.trials for w in ways(many, None)] == [64, 32, 16, 8, 1]  # one that needs all memory can have it


def test_a_gpu_is_shared_without_being_overbooked() -> None:
    found = ways(CARDS, None)
    assert [w.trials for w in found] == [2, 3, 4, 8]  # one computes while another launches
    small = Hardware(resource="gpu", units=1, cores=(4,), name="T4", kind="T4", per_gpu=4)
    assert [w.trials for w in ways(small, None)] == [2, 3, 4]  # its machine could not run eight processes
    assert [w.trials for w in ways(CARDS, 1.0)] == [1]
    for way in found:
        assert way.machine.fraction * way.trials <= 1
        assert way.machine.fraction * way.trials == pytest.approx(1, abs=1e-3)
        assert way.machine.slots == 2 * way.trials
        assert way.machine.threads * way.machine.slots <= 16
        assert way.machine.kind == "H200"  # trials never share a core


def test_a_given_fraction_is_the_only_way() -> None:
    (way,) = ways(CARDS, 0.3)
    assert (way.trials, way.machine.fraction, way.machine.slots) == (3, 0.3, 6)
    (way,) = ways(TWO_CORES, 2.0)
    assert (way.trials, way.machine.threads, way.machine.slots) == (1, 2, 1)
    with pytest.raises(InputError, match="at most the 2 cores"):
        ways(TWO_CORES, 3.0)


def test_all_arms_and_batch_sizes_weigh_the_same() -> None:
    assert speed([packed("a", 100.0), packed("b", 400.0)]) == pytest.approx(200.0)
    # 100 images at 50/s and 100 at 150/s take 2.67 s
    assert speed([packed("a", 50.0), packed("a", 150.0, 256)]) == pytest.approx(75.0)


@pytest.mark.parametrize(
    ("speeds", "best", "asked"),
    [
        ([100.0, 90.0, 300.0], 0, 2),  # a trial that fills the card runs alone, and nothing tighter is tried
        ([100.0, 160.0, 200.0, 400.0], 3, 4),
        ([100.0, 100.0 * GAIN - 1, 100.0 * GAIN - 2], 0, 3),  # noise
        ([100.0, 150.0, None, 999.0], 1, 3),  # out of memory, or out of budget
        ([100.0], 0, 1),
    ],
)
def test_the_fastest_way(speeds: list[float | None], best: int, asked: int) -> None:
    found = ways(CARDS, None)[: len(speeds)]
    measured: list[Way] = []

    def speed_of(way: Way) -> float | None:
        measured.append(way)
        return speeds[found.index(way)]

    assert fastest(found, speed_of) is found[best]
    assert len(measured) == asked


def test_fitting_leaves_room_to_grow() -> None:
    two = ways(CARDS, None)[0]
    assert fits(two, 0.41)
    assert not fits(two, 0.42)


@pytest.mark.parametrize(
    ("found", "batches", "trials", "said"),
    [
        ({"one": (256, 0.1), "other": (256, 0.09)}, (32, 256), [8, 4, 2, 1], []),
        ({"one": (256, 0.05), "other": (256, 0.2)}, (32, 256), [4, 2, 1], ["8 trials do not fit"]),
        ({"one": (256, 0.3), "other": (32, 2.0)}, (32,), [1], ["more than 32", "2 trials do not fit"]),
    ],
)
def test_trials_that_do_not_fit_into_the_machine_are_not_tried(
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, tuple[int, float]],
    batches: tuple[int, ...],
    trials: list[int],
    said: list[str],
) -> None:
    """Measuring eight trials where four fit would kill them, and the study with them."""
    asked: list[Any] = []

    def timed(
        _: object, arm: str, meters: list[Any], method: str, *arguments: Any
    ) -> list[tuple[int, float]]:
        assert (len(meters), method) == (1, "largest_batch")
        asked.append(arguments[2:-1])
        return [found[arm]]

    monkeypatch.setattr(Measurements, "timed", timed)
    arms = {name: load("tiny_resnet") for name in found}
    rounds = Measurements(some_meters(), arms, IMAGES, (32, 256))
    kept = choices.fitting(rounds, ways(EIGHT_CORES, None), 5)
    assert rounds.batch_sizes == batches
    assert [way.trials for way in kept] == trials
    assert asked == [(kept[-1], (32, 256), 5)] * 2  # a batch size that fails alone is dropped
    assert len(rounds.notes) == len(said)
    assert all(words in note for words, note in zip(said, rounds.notes, strict=True))


@pytest.mark.parametrize(
    ("way", "to_come", "batch", "share"),
    [  # 9 of 10 GiB are free, 1 is Ray's; a batch of 32 takes 0.5 GiB on top of the process
        (-1, 0, 256, 4 / 9),
        (-1, 4 * 2**30, 256, 4 / 5),
        (-1, 5 * 2**30, 128, 2 / 4),
        (1, 0, 64, 1 / 9),  # four of them
        (0, 0, 32, 0.5 / 9),  # eight
    ],
)
def test_the_largest_batch_on_cores_is_extrapolated_from_the_smallest(
    monkeypatch: pytest.MonkeyPatch, way: int, to_come: int, batch: int, share: float
) -> None:
    _with_memory(monkeypatch)
    found = ways(EIGHT_CORES, None)[way]
    sizes = (32, 64, 128, 256)
    fits, takes = Meter().largest_batch("small_resnet", {}, IMAGES, found, sizes, to_come, False)
    assert fits == batch
    assert takes == pytest.approx(share)


def test_trials_too_large_at_every_batch_size_run_alone_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _with_memory(monkeypatch)
    *_, one = ways(EIGHT_CORES, None)
    (eight,) = ways(EIGHT_CORES, 1.0)
    little = 5 * 2**30
    with pytest.raises(
        InputError, match=r"no room for 8 trials of 1 CPU each: of the 4\.0 GiB .* Give a larger"
    ):
        Meter().largest_batch("small_resnet", {}, IMAGES, eight, (32, 64), little, False)
    # already measured
    assert Meter().largest_batch("small_resnet", {}, IMAGES, one, (32, 64), 9 * 2**30, False)[0] == 32


def _with_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gib, had = 2**30, 2**30

    def prepared(_: object, name: str, config: Config, *_more: Any) -> bool:
        assert (name, config) == ("small_resnet", {"batch_size": 32})
        return True

    def measured(_: object, name: str, seconds: float) -> Speed:
        assert (name, seconds) == ("small_resnet", 0.0)
        return Speed(images_per_second=1, eval_images_per_second=1, peak_bytes=had + gib // 2)

    monkeypatch.setattr(meter, "device_of", lambda _: None)
    monkeypatch.setattr(meter, "free_memory", lambda: 10 * gib)
    monkeypatch.setattr(meter, "all_memory", lambda: 20 * gib)
    monkeypatch.setattr("psutil.Process.memory_info", lambda _: SimpleNamespace(rss=had))
    monkeypatch.setattr(Meter, "prepare", prepared)
    monkeypatch.setattr(Meter, "speed", measured)


def some_meters() -> Any:
    return SimpleNamespace(first=lambda count: [None] * count)


def test_memory_of_a_large_batch_is_estimated_from_a_small_one() -> None:
    """Filling the machine's memory would get processes killed."""
    with processes(1) as (apart,):
        estimated, measured = apart.submit(_grown).result()
    assert 0.8 * measured < estimated < 2 * measured


def _grown() -> tuple[float, float]:
    """Estimated and real memory of a batch of 256, as shares of the free memory."""
    whole = 64 * 2**30
    for name, size in (("free_memory", whole), ("all_memory", 0)):
        setattr(meter, name, lambda size=size: size)
    process, (one, *_) = Meter(), ways(TWO_CORES, 2.0)
    process.begin(None)
    config, images = load("small_resnet").default(), ImageSpec(channels=3, size=64, classes=10)
    batch, estimated = process.largest_batch("small_resnet", config, images, one, (32, 256), 0, False)
    assert batch == 256
    device_of(one.machine)
    before = psutil.Process().memory_info().rss
    config = {**config, "batch_size": 256}
    assert process.prepare("small_resnet", config, images, one.machine, True)
    speed = process.speed("small_resnet", 0.0)
    assert speed is not None
    return estimated, (speed.peak_bytes - before) / whole


def contiguous_is_faster(monkeypatch: pytest.MonkeyPatch, axis: str, value: int) -> None:
    """Measure twice the speed for contiguous layouts at this value of the axis."""
    now: list[bool] = []

    def measured(_: object, arm: str, meters: object, method: str, *asked: Any) -> list[Any]:
        del arm, meters
        if method == "prepare":
            config, _images, _machine, channels_last, _graphed = asked
            now.append(config[axis] == value and not channels_last)
            return [True]
        return [Speed(images_per_second=200 if now[-1] else 100, eval_images_per_second=100, peak_bytes=1)]

    monkeypatch.setattr(Measurements, "timed", measured)


def test_layouts_are_compared_by_the_largest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small batch leaves a GPU waiting for launches, and both layouts look alike."""
    contiguous_is_faster(monkeypatch, "batch_size", 256)
    rounds = Measurements(some_meters(), {"one": load("tiny_resnet")}, IMAGES, (32, 256))
    usual, *_ = ways(CARDS, None)
    assert choices.choose_way(rounds, [usual], lambda: 1e9) is usual
    assert rounds.channels_last == {"one": False}
    assert rounds.measured("one", usual, rounds.batch, False)  # the audit uses this measurement


def test_a_batch_size_needs_enough_steps_per_epoch() -> None:
    arms = {"one": load("tiny_resnet")}
    assert profile.shared_batch_sizes(arms, 256 * profile.STEPS_FLOOR) == (32, 64, 128, 256)
    assert profile.shared_batch_sizes(arms, 256 * profile.STEPS_FLOOR - 1) == (32, 64, 128)
    assert profile.shared_batch_sizes(arms, 1) == (32,)


def test_pinned_batch_sizes_are_kept_beside_the_shared_ones() -> None:
    names = ("tiny_resnet:batch_size=256", "tiny_resnet:batch_size=32", "tiny_resnext")
    arms = {name: load(name) for name in names}
    assert profile.shared_batch_sizes(arms, 256 * profile.STEPS_FLOOR) == (32, 64, 128, 256)
    pinned = {name: arms[name] for name in names[:2]}
    assert profile.shared_batch_sizes(pinned, 256 * profile.STEPS_FLOOR) == (32, 256)
    assert restrict(arms[names[0]].space, (32,)) == arms[names[0]].space


def test_an_arm_with_a_wrong_graph_trains_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process tries the arms until one fails; a failure ruins it, and the next arm gets a new one."""
    started: list[list[str]] = []

    @contextlib.contextmanager
    def apart() -> Iterator[object]:
        started.append([])
        yield None

    def tried(_: object, arm: str, meters: object, method: str, *asked: Any) -> list[str]:
        del meters, asked
        assert method == "graph_fault"
        started[-1].append(arm)
        return ["it gives other digits than step by step" if arm == "b" else ""]

    monkeypatch.setattr(Measurements, "timed", tried)
    meters: Any = SimpleNamespace(first=lambda count: [None] * count, apart=apart)
    rounds = Measurements(meters, {name: load("tiny_resnet") for name in "abc"}, IMAGES, (32,))
    choices.try_graphs(rounds, ways(CARDS, None)[0])
    assert started == [["a", "b"], ["c"]]
    assert rounds.graphed == {"a": True, "b": False, "c": True}
    assert "b trains step by step" in rounds.notes[-1]


def test_a_trial_that_needs_more_than_half_of_a_gpu_has_it_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []

    def measured(_: object, arm: str, meters: object, method: str, *given: Any) -> list[Any]:
        del arm, meters
        fraction = given[2].fraction if method == "graph_fault" else given[2].machine.fraction
        asked.append((method, fraction))
        if method == "graph_fault":
            return [""]
        if fraction < 1:
            raise ArmError("arm one does not fit into the memory even with batches of 32")
        return [(32, 0.7)]

    monkeypatch.setattr(Measurements, "timed", measured)
    monkeypatch.setattr(choices, "with_gpu", lambda _, ways: list(ways))
    meters: Any = SimpleNamespace(first=lambda count: [None] * count, apart=lambda: contextlib.nullcontext())
    for alone, trials in ((ways(CARDS, 1.0), 1), (None, 0)):
        rounds = Measurements(meters, {"one": load("tiny_resnet")}, IMAGES, (32, 256))
        with contextlib.nullcontext() if trials else pytest.raises(ArmError, match="even with batches of 32"):
            (way,) = choices.fitting_on_a_gpu(rounds, ways(CARDS, None), alone)
            assert way.trials == trials
            assert rounds.batch_sizes == (32,)
            assert "Two trials do not fit on one GPU." in rounds.notes
    assert asked[:4] == [
        ("graph_fault", 0.5),
        ("largest_batch", 0.5),
        ("graph_fault", 1.0),
        ("largest_batch", 1.0),
    ]


def test_every_cardinality_trains_in_its_own_faster_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    contiguous_is_faster(monkeypatch, "cardinality", 2)
    arm = load("tiny_resnext")
    rounds = Measurements(some_meters(), {"one": arm}, IMAGES, (32, 256))
    (usual, *_) = ways(CARDS, None)
    choices.choose_way(rounds, [usual], lambda: 1e9)
    assert rounds.channels_last == {"one": True}
    assert rounds.layouts == {"one": {"2": False}}
    assert "contiguously at cardinality 2" in rounds.notes[-1]
    kept = dataclasses.replace(AUDIT, layouts={"2": False})
    assert not kept.layout({**arm.default(), "cardinality": 2})
    assert kept.layout({**arm.default(), "cardinality": 4})
    poor = Measurements(some_meters(), {"one": arm}, IMAGES, (32, 256))
    times = iter([10.0, 9.0, 9.0])  # enough for the arm's own layouts, not for every option's
    choices.choose_way(poor, [usual], lambda: next(times, 0.0))
    assert poor.layouts == {"one": {}}


def test_the_walls_around_packed_trials_leave_room_for_what_cuda_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, walls = 24 * 2**30, list[float]()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=whole))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", walls.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for way in ways(CARDS, None):
        assert device_of(way.machine).type == "cuda"
        assert way.trials * (walls[-1] * whole + way.machine.context_bytes) <= whole
    device_of(way.machine, 1.0)  # after running out of memory it has the card to itself
    assert walls[-1] > 0.95
    device_of(way.machine, 0.01)
    assert walls[-1] == 0
