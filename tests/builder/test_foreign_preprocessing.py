"""The preprocessing of third-party weights: described, set by options, and taken from torchvision's recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from typer.testing import Result

from builder.sources import open_source, source_from_state_dict
from tests.errors import raises
from tritonkit.errors import CheckpointError, InputError, SpecError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.backbones import recipe_of
from tritonkit.options import options_from
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
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, 3, side, side))
    last = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    nn.init.normal_(last.weight, std=0.5)
    return network.eval()


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


def test_torchvision_weights_are_exported_with_their_recipe(
    command: Callable[..., Result], labels: Path, tmp_path: Path
) -> None:
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


def foreign_from(**options: Any) -> ForeignModelOptions:
    """Read options of the command line."""
    return options_from(ForeignModelOptions, options)


@pytest.fixture
def weights(net: nn.Module, tmp_path: Path) -> Path:
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def test_fit_crop_and_interpolation_of_the_options_are_used_and_described(weights: Path, labels: Path) -> None:
    foreign = foreign_from(
        model="test_resnet", labels=labels, std="0.1,0.2,0.3", size="32", fit="squash", interpolation="bilinear"
    )
    source = open_source(weights, foreign, None)
    assert source.spec.preprocess == Preprocess(32, 32, "squash", 1.0, "bilinear")
    assert "std 0.1,0.2,0.3 (std: --std; mean: timm's for test_resnet)" in source.description
    assert "images: squash, bilinear (fit: --fit; interpolation: --interpolation)" in source.description
    assert source.spec.lineage.note == source.description


def test_crop_ratio_is_refused_where_nothing_is_cropped(weights: Path, labels: Path) -> None:
    with pytest.raises(InputError, match=r"--crop-ratio 0\.9: --fit squash"):
        foreign_from(fit="squash", crop_ratio=0.9)
    with raises(InputError, "option.crop_ratio") as caught:
        foreign_from(fit="stretch", crop_ratio=1.5)
    assert "--fit stretch" in str(caught.value)
    assert "--crop-ratio 1.5" in str(caught.value)


def test_size_is_refused_when_patches_do_not_divide_it(labels: Path, tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=3, img_size=160).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(SpecError, match=r"--size 31 .* 16 .*test_vit.* 32"):
        open_source(tmp_path / "vit.pth", ForeignModelOptions(model="test_vit", labels=labels, size=(31, 31)), None)
    with pytest.raises(SpecError, match=r"--size 31 .* 32 .*torchvision/vit_b_32.* 32"):
        open_source(
            tmp_path / "vit.pth", ForeignModelOptions(model="torchvision/vit_b_32", labels=labels, size=(31, 31)), None
        )


@pytest.mark.parametrize(
    ("name", "sides", "expected"),
    [
        ("torchvision/vit_b_16", (224, 192), "--size 224x192"),
        ("torchvision/maxvit_t", (256, 256), "--size 256 .*224.*448"),
        ("torchvision/mobilenet_v9", None, "'mobilenet_v9'.*torchvision/mobilenet_v"),
        ("torchvision/resnet50.V7", None, r"'V7'.*torchvision/resnet50\.IMAGENET1K_V1"),
        ("swin_t", None, "'swin_t'.*torchvision/swin_t"),
    ],
)
def test_invalid_torchvision_name_or_size_is_refused_with_a_suggestion(
    name: str, sides: tuple[int, int] | None, expected: str, weights: Path, labels: Path
) -> None:
    with pytest.raises(SpecError, match=expected):
        open_source(weights, ForeignModelOptions(model=name, labels=labels, size=sides), None)


def test_torchvision_name_is_suggested_when_the_weights_fit_no_timm_network(labels: Path, tmp_path: Path) -> None:
    torch.save(get_model("mobilenet_v3_small", num_classes=3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="torchvision/mobilenet_v3_small"):
        open_source(tmp_path / "w.pth", ForeignModelOptions(model="mobilenet_v3_small", labels=labels), None)


def test_recipe_follows_the_named_weights() -> None:
    assert recipe_of("torchvision/resnet50.IMAGENET1K_V1").preprocess.crop_ratio == 224 / 256
    assert recipe_of("torchvision/resnet50").preprocess.crop_ratio == 224 / 232
