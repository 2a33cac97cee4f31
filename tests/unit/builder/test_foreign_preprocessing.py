"""The preprocessing of third-party weights: described, set by options, and taken from torchvision's recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision.models import get_model

from builder.sources import open_source
from tests.errors import raises
from tritonkit.errors import CheckpointError, InputError, SpecError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.backbones import recipe_of
from tritonkit.options import options_from


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
    with raises(InputError, "option.crop_ratio", "--fit stretch", "--crop-ratio 1.5"):
        foreign_from(fit="stretch", crop_ratio=1.5)


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
