"""The network: it contains every step from uint8 pixels to outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.fixture_types import MakeNetwork
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.backbones import (
    architecture_of,
    build_backbone,
    head_of,
)
from tritonkit.spec import Normalize


def test_network_normalises_inside_when_it_gets_raw_pixels(make_network: MakeNetwork, batch: ImageArray) -> None:
    network = make_network("test_resnet")
    scaled = (batch.astype(np.float64) / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.25, 0.3)
    with torch.inference_mode():
        raw = network.backbone(torch.from_numpy(scaled.astype(np.float32)).permute(0, 3, 1, 2))
        (answers,) = network(torch.from_numpy(batch))
    assert torch.allclose(answers, raw.softmax(dim=1), atol=1e-5)
    assert torch.allclose(answers.sum(dim=1), torch.ones(len(batch)))


def test_network_keeps_its_own_normalisation_when_another_is_tried(
    make_network: MakeNetwork, batch: ImageArray
) -> None:
    network, images = make_network("test_resnet"), torch.from_numpy(batch)
    halved = Normalize(mean=(0.25, 0.2, 0.15), std=(0.1, 0.125, 0.15))
    with torch.inference_mode():
        (before,) = network(images)
        other = network.with_normalize(halved)
        assert torch.allclose(other(images // 2)[0], network(images // 2 * 2)[0], atol=1e-4)
        assert torch.equal(network(images)[0], before)
    assert other.spec.normalize == halved
    assert network.spec.normalize != halved


def test_network_answers_alike_when_an_image_is_alone_or_in_a_batch(
    make_network: MakeNetwork, batch: ImageArray
) -> None:
    network, images = make_network("test_vit"), torch.from_numpy(batch)
    with torch.inference_mode():
        alone = torch.cat([network(image[None])[0] for image in images])
        assert torch.allclose(alone, network(images)[0], atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet"])
def test_last_layer_of_torchvision_is_the_head_and_can_be_left_out(name: str) -> None:
    built = build_backbone(architecture_of(f"torchvision/{name}", 64, 64), 5, pretrained=False).eval()
    features = build_backbone(architecture_of(f"torchvision/{name}", 64, 64), 0, pretrained=False).eval()
    pixels = torch.zeros(1, 3, 64, 64)
    assert built(pixels).shape == (1, 5)
    assert features(pixels).shape == (1, 1024 if name == "googlenet" else 512)
    assert [weight.shape[0] for weight in head_of(built).parameters()] == [5, 5]
