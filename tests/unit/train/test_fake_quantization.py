"""Fake quantization: what is rounded, and how."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from train.compression.fake_quantization import FakeQuantizer, QuantizationAware, round_weight
from train.config.sections import QuantizationConfig

UINT8, INT8 = QuantizationConfig(), QuantizationConfig(activations="int8")


def network() -> nn.Sequential:
    """A convolution with a batch norm that has statistics, and a linear layer."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    made(torch.randn(64, 3, 4, 4) * 3 + 1)
    return made.eval()


def rounded(values: Tensor, symmetric: bool = False) -> Tensor:
    """Round to 256 steps between the smallest and the largest value, or to the steps of symmetric int8."""
    if symmetric:
        scale = values.abs().max() / 127.5
        return (values / scale).round().clamp(-128, 127) * scale
    low, high = values.min().clamp(max=0), values.max().clamp(min=0)
    scale = (high - low) / 255
    zero = (-low / scale).round()
    return ((values / scale + zero).round().clamp(0, 255) - zero) * scale


@pytest.mark.parametrize("config", [UINT8, INT8])
def test_network_computes_as_its_folded_int8_graph_when_quantized(config: QuantizationConfig) -> None:
    made, images = network(), torch.randn(8, 3, 4, 4)
    with torch.no_grad(), FakeQuantizer(made, config):
        answers = made(images)
    symmetric = config == INT8
    folded, last = fuse_conv_bn_eval(made[0], made[1]), made[4]
    with torch.no_grad():
        weight = round_weight(folded.weight, 0)
        features = rounded(nn.functional.conv2d(rounded(images, symmetric), weight, folded.bias), symmetric).relu()
        inputs = rounded(features.flatten(1), symmetric)
        expected = rounded(nn.functional.linear(inputs, round_weight(last.weight, 0), last.bias), symmetric)
    assert torch.allclose(answers, expected, atol=1e-5)
    assert not torch.allclose(answers, made(images), atol=1e-4)


def test_weight_has_255_steps_by_channel_and_passes_gradients_when_rounded() -> None:
    weight = (torch.randn(6, 5, 3, 3) * torch.logspace(-3, 2, 5)[:, None, None]).requires_grad_()
    result = round_weight(weight, axis=1)
    largest = weight.detach().abs().amax((0, 2, 3))
    steps = result.detach().transpose(0, 1).flatten(1) / (largest / 127)[:, None]
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert steps.abs().max() == pytest.approx(127, abs=1e-3)
    result.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))  # type: ignore[arg-type]


def test_layers_of_the_loss_and_the_keys_of_weights_stay_when_quantized() -> None:
    made, images = network(), torch.randn(8, 3, 4, 4)
    keys, loss, features = list(made.state_dict()), nn.Linear(2, 2), torch.randn(8, 2)
    with torch.no_grad(), FakeQuantizer(made, UINT8) as quantizer:
        made(images)
        assert torch.equal(loss(features), features @ loss.weight.T + loss.bias)
    assert list(made.state_dict()) == keys
    assert set(quantizer.ranges) == {f"{name}.weight.{side}" for name in "04" for side in ("input", "output")}


def test_callback_continues_with_its_ranges_when_resumed() -> None:
    made, images = network(), torch.randn(8, 3, 4, 4)
    module: Any = SimpleNamespace(network=made)
    trained, resumed = QuantizationAware(UINT8), QuantizationAware(UINT8)
    for callback in (trained, resumed):
        callback.setup(None, module, "fit")  # type: ignore[arg-type]
    trained.on_train_batch_start()
    made(images)
    trained.on_train_batch_end()
    resumed.load_state_dict(trained.state_dict())
    answers = []
    for callback in (trained, resumed):
        callback.on_validation_batch_start()
        answers.append(made(images * 2))  # clipped to the ranges of the training
        callback.on_validation_batch_end()
    assert torch.equal(*answers)
    assert not torch.allclose(answers[0], made(images * 2), atol=1e-2)


@pytest.mark.parametrize("config", [UINT8, INT8])
def test_int8_errs_less_when_trained_with_fake_quantization(config: QuantizationConfig) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    images = torch.randn(99, 3, 4, 4)
    with torch.no_grad():  # 50 times the range in one channel: int8 has few steps for the others
        for values, factor in ((network[0].weight[0], 50), (network[0].bias[0], 50), (network[3].weight[:, :4], 0.02)):
            values *= factor
        expected = network(images)
    optimizer, quantizer, errors = torch.optim.Adam(network.parameters(), lr=0.002), FakeQuantizer(network, config), []
    for _ in range(300):
        with quantizer:
            error = (network(images) - expected).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.6 * errors[0]
