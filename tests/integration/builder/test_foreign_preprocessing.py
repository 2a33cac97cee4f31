"""The preprocessing of third-party weights: described, set by options, and taken from torchvision's recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from builder.sources import source_from_state_dict
from tests.fixture_types import Command
from tritonkit.export_options import ForeignModelOptions
from tritonkit.repository.manifest import Manifest

FAMILIES = {
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 64,
    "swin_t": 64,
    "vgg11_bn": 64,
    "efficientnet_v2_s": 64,
    "mnasnet0_5": 64,
    "shufflenet_v2_x0_5": 64,
    "googlenet": 64,
    "vit_b_32": 64,
}


def own_network(name: str, side: int, **more: bool) -> nn.Module:
    """A torchvision network with outputs that vary."""
    torch.manual_seed(0)
    arguments = {"googlenet": {"init_weights": False}, "vit_b_32": {"image_size": side}}
    network = get_model(name, weights=None, num_classes=3, **arguments.get(name, {}), **more)
    # With torchvision's initial weights all images would have nearly the same outputs.
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        # With 1, these 40 blocks multiply the last bits of an image until they decide.
        norm.momentum = 0.9 if name == "efficientnet_v2_s" else 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, 3, side, side))
    last = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    nn.init.normal_(last.weight, std=0.5)
    network.eval()
    if name == "efficientnet_v2_s":  # its features differ little; make probabilities of the differences
        with torch.no_grad():
            last.weight *= 20
            last.bias -= network(torch.randn(4, 3, side, side)).mean(0)
    return network


def normalized(name: str, images: Tensor) -> Tensor:
    preprocess = get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


@pytest.mark.parametrize("name", [*FAMILIES, "googlenet.IMAGENET1K_V1"])
def test_torchvision_state_dict_gives_the_outputs_of_torchvision(name: str, labels: Path, tmp_path: Path) -> None:
    """With named weights, torchvision builds GoogLeNet with a layer that converts mean and std."""
    full_name, (name, _, tag) = name, name.partition(".")
    side = FAMILIES[name]
    network = own_network(name, side, **({"transform_input": True} if tag else {}))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    source = source_from_state_dict(
        tmp_path / "w.pth", ForeignModelOptions(model=f"torchvision/{full_name}", labels=labels, size=(side, side))
    )
    images = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (answers,) = source.module(images)
        expected = network(normalized(name, images)).softmax(dim=1)
    assert answers.std() > 1e-3
    assert torch.allclose(answers, expected, atol=1e-5)


def test_torchvision_weights_are_exported_with_their_recipe(command: Command, labels: Path, tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in own_network("mobilenet_v3_small", 64).state_dict().items()}
    torch.save({"model": state, "model_ema": state, "epoch": 3}, tmp_path / "w.pth")
    arguments = ["--repository", tmp_path / "repository", "--name", "mine", "--max-batch", 4]
    options = ["--model", "torchvision/mobilenet_v3_small", "--labels", labels, "--size", 64, *arguments]
    result = command("builder", "export", tmp_path / "w.pth", *options)
    assert result.exit_code == 0, result.output
    manifest = Manifest.model_validate_json((tmp_path / "repository/mine/1/manifest.json").read_bytes())
    for part in (
        "into torchvision/mobilenet_v3_small: matched by name after stripping 'module.'",
        "'model_ema'",
        "64 x 64 RGB (size: --size), mean 0.485,0.456,0.406, std 0.229,0.224,0.225 (mean and std: torchvision's",
        "images: crop, keeps 0.875, bilinear (torchvision's for mobilenet_v3_small, weights IMAGENET1K_V1)",
    ):
        assert part in manifest.source
