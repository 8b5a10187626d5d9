"""The fused kernels, under Triton's interpreter on a CPU, against torch's operations in double precision."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

fused = pytest.importorskip("study.training.fused", reason="Triton comes with torch on Linux only")

ROUNDING = 0.005
"""Relative error of one rounding to bfloat16, over many values, with room."""


def half(draw: torch.Generator, *shape: int) -> Tensor:
    values = torch.randn(*shape, generator=draw).bfloat16()
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


def off(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    with torch.no_grad():
        return float((found.double() - expected).norm() / expected.norm().clamp_min(1e-12))


@pytest.mark.parametrize(("add", "relu"), list(itertools.product((False, True), (True, False))))
@pytest.mark.parametrize("shape", [(2, 64, 8, 8), (3, 40, 5, 7), (4, 128, 16, 16)])
def test_values_gradients_and_running_averages_are_torchs(
    shape: tuple[int, ...], add: bool, relu: bool
) -> None:
    draw = torch.Generator().manual_seed(1)
    x, shortcut, gradient = half(draw, *shape) * 2 + 3, half(draw, *shape), half(draw, *shape)
    channels = shape[1]
    norm, exact = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels).double()
    with torch.no_grad():
        norm.weight.copy_(torch.rand(channels, generator=draw) + 0.5)
        norm.bias.copy_(torch.randn(channels, generator=draw))
    exact.load_state_dict(norm.state_dict())
    inputs = [t.detach().clone().requires_grad_() for t in (x, shortcut)]
    doubles = [t.detach().double().requires_grad_() for t in (x, shortcut)]
    found = fused.norm_add_relu(inputs[0], norm, inputs[1] if add else None, relu=relu)
    expected = exact(doubles[0]) + (doubles[1] if add else 0)
    expected = expected.relu() if relu else expected
    assert off(found, expected) < ROUNDING
    found.backward(gradient)
    expected.backward(gradient.double())
    assert off(inputs[0].grad, doubles[0].grad) < ROUNDING
    assert not add or off(inputs[1].grad, doubles[1].grad) < ROUNDING
    assert off(norm.weight.grad, exact.weight.grad) < 1e-5
    assert off(norm.bias.grad, exact.bias.grad) < 1e-5
    assert off(norm.running_mean, exact.running_mean) < 1e-5
    assert off(norm.running_var, exact.running_var) < 1e-5
    assert int(norm.num_batches_tracked or 0) == 1


@pytest.mark.parametrize(("kind", "planes"), [(Bottleneck, 8), (BasicBlock, 16)])
def test_a_fused_block_trains_as_torchvisions_and_evaluates_by_the_same_operations(
    kind: Any, planes: int
) -> None:
    draw = torch.Generator().manual_seed(2)
    down = nn.Sequential(
        nn.Conv2d(16, planes * kind.expansion, 1, stride=2), nn.BatchNorm2d(planes * kind.expansion)
    )
    plain = kind(16, planes, 2, down).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for value in plain.parameters():
            value.copy_(torch.randn(value.shape, generator=draw) * 0.2 + (value.dim() == 1))
    other = kind(
        16,
        planes,
        2,
        nn.Sequential(
            nn.Conv2d(16, planes * kind.expansion, 1, stride=2), nn.BatchNorm2d(planes * kind.expansion)
        ),
    ).to(memory_format=torch.channels_last)
    other.load_state_dict(plain.state_dict())
    assert fused.fuse(other) == 1
    x = half(draw, 4, 16, 8, 8)
    outputs, gradients = [], []
    for block in (plain, other):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = block(x)
        out.float().square().sum().backward()
        outputs.append(out.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in block.parameters()]))
    assert (
        off(outputs[1], outputs[0].double()) < 4 * ROUNDING
    )  # three normalisations, each rounded differently
    assert off(gradients[1], gradients[0].double()) < 8 * ROUNDING
    other.load_state_dict(plain.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert torch.equal(plain.eval()(x), other.eval()(x))


def test_blocks_of_other_kinds_are_skipped() -> None:
    class Own(Bottleneck):  # type: ignore[misc]
        pass

    net = nn.Sequential(
        Own(32, 8), Bottleneck(32, 8, norm_layer=lambda width: nn.GroupNorm(4, width)), nn.ReLU()
    )
    assert fused.fuse(net) == 0


def test_float32_and_other_layouts_keep_torchs_operations() -> None:
    draw, norm = torch.Generator().manual_seed(3), nn.BatchNorm2d(8)
    for x in (torch.randn(2, 8, 4, 4, generator=draw), half(draw, 2, 8, 4, 4).contiguous()):
        expected = torch.relu(nn.BatchNorm2d(8)(x))
        assert torch.equal(fused.norm_add_relu(x, norm), expected)
