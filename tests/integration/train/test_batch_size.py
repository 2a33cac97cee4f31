"""`batch_size: auto` in a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from train.config.loading import load_config
from train.engine.fit import fit


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
