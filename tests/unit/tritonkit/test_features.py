"""The features of a network, compared with what the libraries themselves return."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.errors import raises
from tests.fixture_types import MakeNetwork, NetworkOf
from tests.task_specs import TASK_SPECS
from tritonkit.errors import SpecError
from tritonkit.networks.backbones import architecture_of
from tritonkit.networks.features import FeatureExtractor
from tritonkit.networks.network import Network
from tritonkit.plugins import register
from tritonkit.spec import ModelSpec


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8))


def normalised(network: Network, images: torch.Tensor) -> torch.Tensor:
    return (images.permute(0, 3, 1, 2) - network.mean) / network.std


# A linear head after pooling, one after a norm, and two heads on two tokens.
@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "deit_tiny_distilled_patch16_224"])
def test_features_are_what_timm_returns_before_the_head(
    name: str, make_network: MakeNetwork, images: torch.Tensor
) -> None:
    network = make_network(name)
    with torch.inference_mode():
        before = network.backbone.forward_features(normalised(network, images))  # type: ignore[operator]
        expected = network.backbone.forward_head(before, pre_logits=True)  # type: ignore[operator]
        answers = network(images)
    features, outputs = FeatureExtractor(network)(images)
    assert torch.allclose(features, expected, atol=1e-5)
    assert torch.equal(outputs[0], answers[0])


def test_features_are_averaged_when_the_head_is_a_convolution(spec: ModelSpec, images: torch.Tensor) -> None:
    architecture = architecture_of("torchvision/squeezenet1_1", 32, 32)
    network = Network(spec.model_copy(update={"architecture": architecture})).eval()
    with torch.inference_mode():
        maps = network.backbone.features(normalised(network, images))  # type: ignore[operator]
    features, _ = FeatureExtractor(network)(images)
    assert features.shape == (3, 512)
    assert torch.allclose(features, maps.mean((2, 3)), atol=1e-6)


def test_features_are_the_backbone_of_several_heads(network_of: NetworkOf, images: torch.Tensor) -> None:
    network = network_of(TASK_SPECS["heads"])
    with torch.inference_mode():
        expected = network.backbone(normalised(network, images))
    features, outputs = FeatureExtractor(network)(images)
    assert torch.equal(features, expected)
    assert len(outputs) == 2


def test_features_are_the_pooled_encoder_when_segmenting(network_of: NetworkOf) -> None:
    network = network_of(TASK_SPECS["segmentation"])
    images = torch.zeros((2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        maps = network.backbone.encoder(normalised(network, images))[-1]  # type: ignore[operator]
    features, (mask,) = FeatureExtractor(network)(images)
    assert torch.allclose(features, maps.mean((2, 3)))
    assert mask.shape == (2, 64, 64)


@register("model", "nameless_head")
def _nameless_head(num_classes: int) -> torch.nn.Module:
    """A network of which nobody knows the head."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 32 * 3, num_classes))


@register("model", "head_of_rows")
class HeadOfRows(torch.nn.Module):
    """A network whose head takes every row of an image on its own."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(32 * 3, num_classes)

    def get_classifier(self) -> torch.nn.Module:
        return self.head

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.Tensor(self.head(pixels.permute(0, 2, 1, 3).flatten(2)).mean(1))


@pytest.mark.parametrize(
    ("name", "code"), [("nameless_head", "architecture.head"), ("head_of_rows", "architecture.no_features")]
)
def test_features_are_refused_when_the_head_takes_no_vector(
    name: str, code: str, spec: ModelSpec, images: torch.Tensor
) -> None:
    network = Network(spec.model_copy(update={"architecture": architecture_of(name, 32, 32)}))
    with raises(SpecError, code):
        FeatureExtractor(network)(images)
