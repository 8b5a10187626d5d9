"""Augmentation: parameters drawn per image, in the stated ranges, from the given generator only."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomCrop, RandomHorizontalFlip, RandomResizedCrop, RandomRotation
from torchvision.transforms.v2 import functional as reference

from study.training.augment import (
    MAX_DEGREES,
    POLICIES,
    TRIVIAL,
    augment,
    crop,
    cutout,
    flip,
    normalise,
    resized_crop,
    shift,
    turn,
    warp,
)

RANDOM = [name for name in POLICIES if name != "none"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int = 16, channels: int = 3, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, channels, side, side), generator=generator(9), dtype=torch.uint8)


def copies(n: int, side: int = 32, channels: int = 3) -> Tensor:
    """n copies of one image."""
    return noise(1, channels, side).expand(n, -1, -1, -1).contiguous()


@pytest.mark.parametrize("side", [8, 9, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_keeps_shape_range_and_memory_format(policy: str, channels: int, side: int) -> None:
    images = noise(64, channels, side)
    before = images.clone()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = images.contiguous(memory_format=memory_format)
        out = augment(given, policy, generator())
        assert out.dtype == torch.float32
        assert out.shape == images.shape
        assert out.is_contiguous(memory_format=memory_format)
        assert out.abs().max() <= 1 + 1e-5
        torch.testing.assert_close(out, augment(images, policy, generator()))
    assert torch.equal(images, before)


@pytest.mark.parametrize("policy", POLICIES)
def test_same_generator_state_gives_the_same_bytes(policy: str) -> None:
    state = torch.random.get_rng_state()
    assert torch.equal(augment(noise(), policy, generator(1)), augment(noise(), policy, generator(1)))
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing comes from the global generator


@pytest.mark.parametrize("policy", RANDOM)
def test_every_image_and_every_call_differs(policy: str) -> None:
    random = generator()
    first, second = augment(copies(64), policy, random), augment(copies(64), policy, random)
    assert not torch.equal(first, second)
    distinct = len({image.numpy().tobytes() for image in first})
    assert distinct == 2 if policy == "flip" else distinct > 30


def test_unknown_policy_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="none, flip, flip\\+crop"):
        augment(noise(), "mixup", generator())


def test_normalise_is_the_posts() -> None:
    expected = reference.normalize(noise().float() / 255, [0.5] * 3, [0.5] * 3)
    torch.testing.assert_close(normalise(noise()), expected)
    assert torch.equal(augment(noise(), "none", generator()), normalise(noise()))
    ends = normalise(torch.tensor([0, 255], dtype=torch.uint8))
    assert ends.tolist() == [-1, 1]


def test_flip_mirrors_half_of_them() -> None:
    images = copies(4000, 8)
    out = flip(images, generator())
    mirrored = (out == reference.horizontal_flip(images)).all((1, 2, 3))
    assert torch.equal(out[~mirrored], images[~mirrored])
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.03)


def test_shift_equals_torchvisions_crop() -> None:
    images = noise(81)
    rows, columns = torch.arange(81) // 9, torch.arange(81) % 9
    out = shift(images, rows, columns)
    for i in range(81):
        padded = reference.pad(images[i], [4])
        assert torch.equal(out[i], reference.crop(padded, int(rows[i]), int(columns[i]), 32, 32))


def test_crop_draws_every_shift_evenly() -> None:
    white = torch.full((8100, 1, 32, 32), 255, dtype=torch.uint8)
    out = crop(white, generator())
    for dimension in (2, 3):  # rows and columns left of the white square
        left = 32 - (out.amax(dimension) == 255).sum((1, 2))
        share = torch.bincount(left, minlength=5) / 8100
        torch.testing.assert_close(share, torch.tensor([1, 2, 2, 2, 2]) / 9, atol=0.02, rtol=0)


def places(n: int, side: int = 33) -> Tensor:
    """Pixels that hold their position: x and y from the centre, plus 128."""
    line = (torch.arange(side) - side // 2 + 128).to(torch.uint8).expand(side, side)
    return torch.stack((line, line.T, torch.zeros_like(line))).expand(n, -1, -1, -1).contiguous()


def degrees_of(turned: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation of each of ``places``, from the disc around the centre, and whether it was mirrored."""
    place = (torch.arange(turned.shape[-1]) - turned.shape[-1] // 2).float()
    x, y = torch.meshgrid(place, place, indexing="xy")
    inside = x**2 + y**2 <= place[-1] ** 2
    from_x, from_y = (turned[:, i] - 128 for i in (0, 1))
    sin, cos = ((from_y * part * inside).sum((1, 2)) for part in (x, y))
    return torch.rad2deg(torch.atan2(sin, cos)), (from_x * x * inside).sum((1, 2)) < 0


def test_rotation_is_within_ten_degrees_and_even() -> None:
    degrees, mirrored = degrees_of((augment(places(3000), "flip+rotate", generator()) + 1) * 127.5)
    assert degrees.abs().max() < 10.1
    assert degrees.std() == pytest.approx(20 / math.sqrt(12), rel=0.05)
    assert degrees.mean() == pytest.approx(0, abs=0.4)
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.03)


def test_warp_is_torchvisions_rotation() -> None:
    images = noise().float()
    angle = math.radians(7)
    rows = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    out = warp(images, torch.tensor(rows).expand(16, -1, -1))
    expected = reference.rotate(images, 7, interpolation=reference.InterpolationMode.BILINEAR)
    inside = slice(5, -5)  # at the corners torchvision mixes with its fill in another way
    torch.testing.assert_close(out[..., inside, inside], expected[..., inside, inside], atol=0.05, rtol=1e-3)


def test_angles_shifts_and_flips_are_drawn_as_torchvision_draws_them() -> None:
    """Kolmogorov-Smirnov tests against torchvision's per-image transforms, sensitive to range and shape."""
    n = 3000
    torch.manual_seed(6)
    # large images: the nearest pixel is the same one until a turn moves the edge by half a pixel
    ours = degrees_of(turn(places(600, 129), generator()))[0].numpy()
    theirs = [RandomRotation.get_params([-MAX_DEGREES, MAX_DEGREES]) for _ in range(n)]
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01

    marked = torch.arange(40 * 40).view(1, 40, 40)  # a padded image whose pixels hold their position
    corners = [RandomCrop.get_params(marked, (32, 32))[:2] for _ in range(n)]
    white = torch.full((n, 1, 32, 32), 255, dtype=torch.uint8)
    out = crop(white, generator(1))[:, 0] == 255
    for axis in (0, 1):
        rows = out.any(2 - axis)
        first, last = rows.int().argmax(1), 31 - rows.flip(1).int().argmax(1)
        moved = torch.where(first > 0, 4 - first, 4 + (31 - last))
        counts = [
            torch.bincount(moved, minlength=9),
            torch.bincount(torch.tensor([c[axis] for c in corners]), minlength=9),
        ]
        assert stats.chi2_contingency(torch.stack(counts).numpy()).pvalue > 0.01

    pair = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    theirs_flipped = sum(int(RandomHorizontalFlip()(pair)[0, 0, 0]) for _ in range(n))
    ours_flipped = int(flip(pair.expand(n, -1, -1, -1).contiguous(), generator())[:, 0, 0, 0].sum())
    table = [[ours_flipped, n - ours_flipped], [theirs_flipped, n - theirs_flipped]]
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_nearest_warp_is_torchvisions_default_rotation() -> None:
    images = noise().float()
    for degrees in (-9.7, -3.1, 0.0, 5.3):
        angle = math.radians(degrees)
        rows = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
        out = warp(images, torch.tensor(rows).expand(16, -1, -1), "nearest")
        same = out == reference.rotate(images, degrees)
        assert same.float().mean() > 0.99, degrees  # half-way positions round either way


def test_warp_is_exact_where_pixels_meet_pixels() -> None:
    """Quarter turns, mirrors and whole-pixel shifts move pixels without mixing them, as nearest sampling would."""
    images = noise().float()

    def mapped(*rows: list[float]) -> Tensor:
        return warp(images, torch.tensor(rows).expand(16, -1, -1))

    mirrored, turned = mapped([-1.0, 0, 0], [0, 1.0, 0]), mapped([0, -1.0, 0], [1.0, 0, 0])
    moved = mapped([1.0, 0, 3 * 2 / 32], [0, 1.0, -2 * 2 / 32])
    padded = reference.pad(images, [4])
    for found, expected in (
        (mirrored, reference.horizontal_flip(images)),
        (turned, torch.rot90(images, 1, (2, 3))),
        (moved, reference.crop(padded, 4 - 2, 4 + 3, 32, 32)),
    ):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # of 255: positions are float32


def test_turn_shifts_within_its_border_only() -> None:
    white = torch.full((2000, 1, 32, 32), 255, dtype=torch.uint8)
    centre = torch.arange(32.0) - 15.5
    still, moved = (turn(white, generator(3), border=border)[:, 0] for border in (0, 4))
    assert (still.sum(1) * centre).sum(1).abs().max() / still.sum((1, 2)).min() < 0.05
    means = (moved.sum(1) * centre).sum(1) / moved.sum(
        (1, 2)
    )  # half of the shift: the rest is cut at an edge
    assert 1.5 < means.abs().max() < 2.6
    assert means.mean() == pytest.approx(0, abs=0.1)


def test_positions_are_exact_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = augment(noise(), "flip+rotate", generator())
    torch.testing.assert_close(out, augment(noise(), "flip+rotate", generator()))


def test_a_resized_crop_stays_inside_the_image_and_its_range() -> None:
    side, n = 65, 400
    for least in (0.08, 0.35):
        out = resized_crop(places(n, side), generator(4), least=least)
        row, column = out[:, 1, :, side // 2] - 128 + side // 2, out[:, 0, side // 2] - 128 + side // 2
        height, width = ((line[:, -1] - line[:, 0]).abs() / (side - 1) for line in (row, column))
        assert (height * width).min() > least - 0.01
        assert (height * width).min() < least + 0.1
        assert (width / height).log().abs().max() < math.log(4 / 3) + 0.01
        assert min(row.min(), column.min()) >= -0.01
        assert max(row.max(), column.max()) <= side - 0.99
    grey = torch.full((50, 3, 16, 16), 77, dtype=torch.uint8)
    torch.testing.assert_close(resized_crop(grey, generator(), least=0.08), grey.float())  # no black comes in


def test_resized_crops_are_drawn_as_torchvision_draws_them() -> None:
    """Areas, shapes and places from the corners of pixels that hold their position: Kolmogorov-Smirnov tests."""
    side, n = 129, 1500
    torch.manual_seed(5)
    marked = torch.zeros(1, side, side)
    draws = (RandomResizedCrop.get_params(marked, [0.5, 1.0], [3 / 4, 4 / 3]) for _ in range(n))
    theirs = torch.tensor([(t, left, h, w) for t, left, h, w in draws]).double() / side
    out = resized_crop(places(n, side), generator(2), least=0.5)
    row, column = out[:, 1, :, side // 2] - 128 + side // 2, out[:, 0, side // 2] - 128 + side // 2
    height, width = (((line[:, -1] - line[:, 0]).abs() / (side - 1)) for line in (row, column))
    mirrored = column[:, 0] > column[:, -1]
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.05)
    inside = (height < 0.97) & (width < 0.97)  # torchvision draws a part again that is too long
    others = (theirs[:, 2] < 0.97) & (theirs[:, 3] < 0.97)
    for ours, other in (
        (height[inside] * width[inside], theirs[others, 2] * theirs[others, 3]),
        (width[inside] / height[inside], theirs[others, 3] / theirs[others, 2]),
        (row[inside, 0] / side / (1 - height[inside]), theirs[others, 0] / (1 - theirs[others, 2])),
    ):
        assert stats.ks_2samp(ours.numpy(), other.numpy()).statistic < 0.08


def test_cutout_is_a_grey_square_of_half_the_side() -> None:
    out = cutout(torch.ones(4000, 2, 16, 16), generator())
    hole = out[:, 0] == 0
    assert torch.equal(out[:, 0], out[:, 1])
    high, wide = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.sum((1, 2)), high * wide)  # a rectangle, without gaps
    assert [int(high.max()), int(wide.max())] == [8, 8]
    assert [int(high.min()), int(wide.min())] == [4, 4]  # the centre lies inside, at the edge at worst
    assert hole.float().mean() == pytest.approx((7 / 16) ** 2, rel=0.03)
    assert ((out == 0) | (out == 1)).all()


def test_trivial_leaves_an_even_share_unharmed() -> None:
    """Images of one colour, which crop and flip leave unchanged."""
    n = 6000
    images = torch.full((n, 3, 8, 8), 100, dtype=torch.uint8)
    out = (augment(images, "trivial", generator())[:, 0, 4, 4] + 1) * 127.5
    share = ((out - 100).abs() < 0.5).float().mean()
    # brightness always changes the image, posterize and solarize mostly; some geometry moves black in
    assert 6 / len(TRIVIAL) < share < 11 / len(TRIVIAL)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_trivial_operation_occurs_and_has_its_effect(channels: int) -> None:
    """Every operation occurs; its effect on a two-toned image identifies it."""
    n, side = 3000, 16
    images = torch.full((n, channels, side, side), 60, dtype=torch.uint8)
    images[..., side // 2 :, :] = 180
    out = (augment(images, "trivial", generator()) + 1) * 127.5
    top, bottom = out[:, 0, 5, side // 2], out[:, 0, -5, side // 2]
    count = len(TRIVIAL) - (channels == 1)
    solarized = (top - 60).abs().lt(0.5) & (bottom - 75).abs().lt(0.5)
    assert solarized.float().mean() == pytest.approx(120 / 255 / count, rel=0.35)
    brightened = (bottom / top - 3).abs().lt(0.01) & (bottom - 180).abs().gt(1) & bottom.lt(254)
    assert 0.3 / count < brightened.float().mean() < 1.2 / count
    stretched = bottom.sub(255).abs().lt(0.5) & top.lt(110)
    assert stretched.float().mean() > 0.5 / count
    if channels == 3:
        assert torch.equal(out[:, 0], out[:, 1])  # colour has nothing to change in a grey image
