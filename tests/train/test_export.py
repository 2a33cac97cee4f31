"""A run that exports when training ends, by the builder's own command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import ConfigError, RefusedError
from model.files import sha256_of
from train import export
from train.config import load_config
from train.fit import Fitted, fit
from train.sections import ExportConfig


def test_run_publishes_its_best_checkpoint_when_asked(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    asked = {"repository": str(tmp_path / "repository"), "max_batch": 4}
    fitted = fit(load_config(write_config(tmp_path / "config.yaml", folder, export=asked)))
    assert fitted.exported == tmp_path / "repository" / "tiny" / "1" / "model.onnx"
    verdict = json.loads((fitted.exported.parent / "verdict.json").read_text())
    assert (verdict["passed"], verdict["max_batch"]) == (True, 4)
    manifest = json.loads((fitted.exported.parent / "manifest.json").read_text())
    assert sha256_of(fitted.checkpoint) in json.dumps(manifest)


def test_training_is_kept_when_the_export_is_refused(trained: Fitted, tmp_path: Path) -> None:
    changed = tmp_path / "best.safetensors"
    changed.write_bytes(trained.checkpoint.read_bytes()[:-4] + b"\0\0\x80\x7f")  # one weight is infinite
    with pytest.raises(RefusedError, match=r"trained, but its export was refused .*builder export"):
        export.export_checkpoint(changed, ExportConfig(repository=tmp_path / "repository"))
    assert not list(tmp_path.rglob("model.onnx"))


def test_run_is_refused_before_training_when_there_is_no_builder(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no `builder` command; install it"):
        fit(load_config(write_config(tmp_path / "config.yaml", folder, export={"onnx": "fp32"})))
    assert not (tmp_path / "runs").exists()
