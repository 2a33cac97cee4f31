"""Training from a checkpoint of tritonkit or of a third party, also with other classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from train.config.loading import load_config
from train.engine.fit import FitResult, fit
from tritonkit.checkpoint import read_spec, read_weights

WriteConfig = Callable[..., Path]


@pytest.fixture
def four_digits(copy_digits: Callable[..., Path], tmp_path: Path) -> Path:
    """Images of 2, 3, 4 and 5, with more images of 2 and 3."""
    copy_digits(tmp_path / "data", labels="45", count=12)
    return copy_digits(tmp_path / "data", labels="23", count=20)


def test_frozen_stage_keeps_the_backbone_and_says_what_was_loaded_when_classes_differ(
    trained: FitResult,
    four_digits: Path,
    tmp_path: Path,
    write_config: WriteConfig,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = {"name": "test_resnet", "weights": str(trained.checkpoint)}
    changes = {"model": model, "frozen_epochs": 1, "epochs": 1, "optimizer": {"lr": 1e-12}}
    fitted = fit(load_config(write_config(tmp_path / "config.yaml", four_digits, **changes, frozen_lr=0.01)))
    output = capfd.readouterr().err
    assert "2 skipped, 2 initialised" in output
    assert "initialised: backbone.fc.weight, backbone.fc.bias" in output
    assert len(read_spec(fitted.checkpoint).labels) == 4
    before, after = read_weights(trained.checkpoint), read_weights(fitted.checkpoint)
    assert np.allclose(before["backbone.conv1.0.weight"], after["backbone.conv1.0.weight"], atol=1e-6)
    assert before["backbone.fc.weight"].shape != after["backbone.fc.weight"].shape


def test_a_vision_transformer_is_fine_tuned_on_the_most_common_classes_when_configured(
    four_digits: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    torch.manual_seed(0)
    foreign = timm.create_model("test_vit", num_classes=1000, img_size=32)
    torch.save(foreign.state_dict(), tmp_path / "vit.pth")
    model = {"name": "test_vit", "weights": str(tmp_path / "vit.pth")}
    data = {"path": str(four_digits), "top_classes": 2, "val_ratio": 0.16, "test_ratio": 0.2}
    config = write_config(tmp_path / "config.yaml", four_digits, model=model, optimizer={"lr": 1e-9})
    fitted = fit(load_config(config, [f"data={data}"]))
    assert read_spec(fitted.checkpoint).labels == ("2", "3")
    name = "blocks.0.attn.qkv.weight"
    after = read_weights(fitted.checkpoint)[f"backbone.{name}"]
    assert np.allclose(after, foreign.state_dict()[name].numpy(), atol=1e-6)
    counts = [len((fitted.run / "splits" / f"{part}.csv").read_text().splitlines()) - 1 for part in ("val", "test")]
    assert counts == [6, 8]
