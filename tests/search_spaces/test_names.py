"""How arms are written, what their names become in files, and arms that differ in one choice."""

import pytest

import search_spaces
from search_spaces import Arm, ArmError, Choice, Float, Int
from search_spaces._names import LONGEST, in_files, parse
from search_spaces._pins import pinned, spelled
from study.protocol import question
from study.scheduling.spaces import describe


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("resnet50", ("", "resnet50", "", ())),
        ("timm/resnet50.a1_in1k", ("timm", "resnet50.a1_in1k", "", ())),
        ("resnext50:cardinality=32", ("", "resnext50", "", (("cardinality", "32"),))),
        ("a:augment=flip+crop+lr=0.1", ("", "a", "", (("augment", "flip+crop"), ("lr", "0.1")))),
        ("a@/x y/b.safetensors:lr=0.1", ("", "a", "/x y/b.safetensors", (("lr", "0.1"),))),
        ("timm/a.b@0123abcd", ("timm", "a.b", "0123abcd", ())),
    ],
)
def test_a_name_is_read_and_written_alike(text: str, parts: tuple[object, ...]) -> None:
    arm = parse(text)
    assert (arm.family, arm.name, arm.weights, arm.pins) == parts
    assert str(arm) == text


@pytest.mark.parametrize(
    "text",
    ["", "a b", "../a", "a/b/c", "a:", "a:lr", "a:lr=", "a@b.pt", "a@", "a:lr=1+lr=2", "a@x.safetensors:"],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ArmError):
        parse(text)


def test_names_in_files_are_safe_short_and_different() -> None:
    arms = [
        "resnet50", "timm/resnet50", "timm/resnet50.a1_in1k", "torchvision/resnet50", "resnext50:cardinality=2",
        "resnext50:cardinality=32", "a:augment=flip+crop+lr=0.1", "resnet50@0123abcd", "a:way=x/y", "a:way=x.y",
        "a:" + "+".join(f"axis{i}=value{i}" for i in range(20)), "a:" + "+".join(f"axis{i}=value{i}" for i in range(21)),
    ]  # fmt: skip
    names = [in_files(arm) for arm in arms]
    assert len({name.lower() for name in names}) == len(arms)
    for name in names:
        assert len(name) <= LONGEST
        assert not set(name) & set('/\\:*?"<>| ')
    assert names[0] == "resnet50"


def an_arm() -> Arm:
    return Arm(
        lambda _config, _images: None,  # type: ignore[arg-type,return-value]
        space={
            "lr": Float(low=0.01, high=1.0, default=0.1, log=True),
            "depth": Int(low=1, high=4, default=2),
            "block": Choice(options=("basic", "wide+se"), default="basic"),
            "squeeze": Float(low=0.1, high=0.5, default=0.25, when={"block": ("wide+se",)}),
        },
    )


@pytest.mark.parametrize(
    ("pins", "default"),
    [
        ({"lr": "0.50"}, {"lr": 0.5, "depth": 2, "block": "basic"}),
        ({"depth": "4"}, {"lr": 0.1, "depth": 4, "block": "basic"}),
        ({"block": "wide+se"}, {"lr": 0.1, "depth": 2, "block": "wide+se", "squeeze": 0.25}),
        (
            {"block": "wide+se", "squeeze": "0.5"},
            {"lr": 0.1, "depth": 2, "block": "wide+se", "squeeze": 0.5},
        ),
    ],
)
def test_a_pinned_axis_has_one_value(pins: dict[str, str], default: dict[str, object]) -> None:
    arm = pinned(an_arm(), pins.items(), "arm")
    assert arm.default() == default
    for axis in pins:
        own = arm.space[axis]
        assert isinstance(own, Choice)
        assert own.options == (default[axis],)
    assert dict(spelled(arm, pins.items())) == {axis: str(default[axis]) for axis in pins}


def test_an_axis_that_can_take_no_part_any_more_is_gone() -> None:
    assert "squeeze" not in pinned(an_arm(), [("block", "basic")], "arm").space


@pytest.mark.parametrize(
    ("axis", "value", "says"),
    [
        ("depht", "1", "depth"),
        ("depth", "5", "from 1 to 4"),
        ("depth", "1.5", "from 1 to 4"),
        ("lr", "2", "from 0.01 to 1"),
        ("lr", "nan", "from 0.01 to 1"),
        ("block", "deep", "one of basic, wide"),
    ],
)
def test_a_bad_pin_says_what_is_allowed(axis: str, value: str, says: str) -> None:
    with pytest.raises(ArmError, match=says):
        pinned(an_arm(), [(axis, value)], f"arm:{axis}={value}")


@pytest.mark.parametrize("others", [[], [("block", "basic")]])
def test_a_pin_that_some_trials_would_not_use_is_refused_in_any_order(others: list[tuple[str, str]]) -> None:
    for pins in ([*others, ("squeeze", "0.5")], [("squeeze", "0.5"), *others]):
        with pytest.raises(ArmError, match=r"squeeze is used only with block=wide\+se"):
            pinned(an_arm(), pins, "arm")


def test_pins_are_the_same_in_any_order() -> None:
    pins = [("block", "wide+se"), ("squeeze", "0.5")]
    assert pinned(an_arm(), pins, "arm").space == pinned(an_arm(), pins[::-1], "arm").space


def test_an_axis_that_only_one_arm_searches_is_said() -> None:
    searched, fixed = an_arm(), pinned(an_arm(), [("lr", "0.5")], "arm")
    spaces = {name: describe(arm.space) for name, arm in (("a", searched), ("a:lr=0.5", fixed))}
    (said,) = question.pinned(spaces)
    assert said.startswith("lr is 0.5 for a:lr=0.5 and searched for a")
    assert question.pinned({"a": spaces["a"], "b": spaces["a"]}) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet51", "resnet50, resnext50"),
        ("tim/resnet50", "timm, torchvision"),
        ("timm/resnet5", "resnet50"),
        ("timm/resnet50.a9_in1k", r"resnet50\.\w+_in1k"),
        ("torchvision/resnet17", "resnet18"),
        ("resnext50:cardinality=3", "2, 4, 8"),
    ],
)
def test_what_there_is_not_gets_the_nearest(name: str, says: str) -> None:
    with pytest.raises(ArmError, match=says):
        search_spaces.load(name)


@pytest.mark.parametrize("text", ["timm/resnet50.", "timm/resnet5.a1_in1k", "timm/."])
def test_a_tag_that_is_empty_is_no_tag(text: str) -> None:
    with pytest.raises(ArmError, match="timm has no"):
        search_spaces.load(text)
