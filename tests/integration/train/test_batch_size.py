"""`batch_size: auto` in a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from train.config.loading import load_config
from train.engine.fit import FitResult, fit
from train.engine.plan import plan_run, with_batch_size


def test_run_stores_the_number_and_keeps_the_network_when_the_batch_size_is_auto(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "config.yaml", folder, batch_size="auto")
    fitted = fit(load_config(config))
    stored = load_config(fitted.run / "config.yaml").batch_size
    assert stored == 16  # the largest power of two up to the 22 images of train
    assert "batch_size: 16 (auto, at most 22)" in capfd.readouterr().err
    again = fit(load_config(config, ["batch_size=16"]))
    assert again.checkpoint.read_bytes()[-4096:] == fitted.checkpoint.read_bytes()[-4096:]


def test_batch_size_is_found_when_images_are_mixed_weights_averaged_and_values_rounded(
    folder: Path, trained: FitResult, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    changes = {"augment": {"mixup": 0.2, "cutmix": 1.0}, "ema": 0.9, "quantization": {}}
    model = {"name": "test_resnet", "weights": str(trained.checkpoint)}
    config = write_config(tmp_path / "config.yaml", folder, batch_size="auto", model=model, devices=2, **changes)
    assert with_batch_size(plan_run(load_config(config))).config.batch_size == 8  # each process has 11 images
