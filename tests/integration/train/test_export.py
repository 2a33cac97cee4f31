"""Export after the training, by the `builder` command."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.errors import raises
from train.config.loading import load_config
from train.engine.fit import FitResult, fit
from train.export import export_checkpoint
from tritonkit.errors import CheckFailedError, ConfigError, ExternalError, TritonkitError
from tritonkit.export_options import ExportOptions
from tritonkit.system.files import file_sha256


def test_run_publishes_its_best_checkpoint_when_configured(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    options = {"repository": str(tmp_path / "repository"), "max_batch": 4, "kind": "cpu", "instances": 2, "keep": 1}
    fitted = fit(load_config(write_config(tmp_path / "config.yaml", folder, export=options)))
    assert fitted.exported == tmp_path / "repository" / "tiny" / "1" / "model.onnx"
    verdict = json.loads((fitted.exported.parent / "verdict.json").read_text())
    assert (verdict["passed"], verdict["max_batch"]) == (True, 4)
    manifest = json.loads((fitted.exported.parent / "manifest.json").read_text())
    assert file_sha256(fitted.checkpoint) in json.dumps(manifest)
    config = (fitted.run / "served" / "config.pbtxt").read_text()
    assert config == (fitted.exported.parents[1] / "config.pbtxt").read_text()
    for name in ("verdict.json", "verdict.html"):
        assert (fitted.run / "served" / name).read_bytes() == (fitted.exported.parent / name).read_bytes()
    assert "kind: KIND_CPU" in config
    assert "count: 2" in config
    published = json.loads((fitted.run / "served" / "published.json").read_text())
    assert published["artifact"] == str(fitted.exported)
    assert published["verdict"]["passed"]
    assert published["command"].startswith(f"builder export {fitted.checkpoint} --repository ")
    assert fitted.report is not None
    page = fitted.report.read_text()
    assert f"server up --repository {tmp_path / 'repository'}" in page
    assert "/v2/models/tiny/versions/1/infer" in page
    (link,) = re.findall(r'href="([^"]+)"', page)
    assert (fitted.run / link).resolve() == fitted.exported.parent / "verdict.html"


def test_run_gives_another_format_and_way_of_serving_when_named(trained: FitResult, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copy(trained.checkpoint, tmp_path))
    export = ExportOptions(torchscript=True, gpus=(0, 1), dynamic_batching=False, repository=tmp_path / "repository")
    artifact = export_checkpoint(checkpoint, export)
    assert artifact.name == "model.pt"
    config = (tmp_path / "served" / "config.pbtxt").read_text()
    assert 'backend: "pytorch"' in config
    assert re.search(r"gpus: 0\s+gpus: 1", config)
    assert "dynamic_batching" not in config


@pytest.fixture
def put_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a fake `builder` command that prints a document and exits with a code."""

    def put(document: object, code: int = 0) -> None:
        script = tmp_path / "bin" / "builder"
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(document)}\nEND\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script.with_name("python")))

    return put


def test_export_warns_when_another_precision_was_published(
    tmp_path: Path, put_builder: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.pbtxt").write_text('name: "m"')
    artifact = tmp_path / "1" / "model.onnx"
    instead = "int8 failed (error 0.4, limit 0.3, at batch 1; all decisions kept); published in fp16"
    document = {"instead": instead, "warnings": ["Triton does not load version 1"]}
    put_builder({"artifact": str(artifact), "verdict": {"precision": "fp16"}, **document})
    assert export_checkpoint(tmp_path / "run" / "best.safetensors", ExportOptions(onnx="int8")) == artifact
    output = capfd.readouterr().err
    assert f"export: {instead}" in output
    assert "export: Triton does not load version 1" in output


@pytest.mark.parametrize(
    ("exit_code", "error", "code"),
    [
        (1, CheckFailedError, "export.verdict_failed"),
        (2, ConfigError, "export.options"),
        (3, ExternalError, "export.failed"),
    ],
)
def test_export_error_names_the_command_when_the_builder_fails(
    tmp_path: Path, put_builder: Callable[..., None], exit_code: int, error: type[TritonkitError], code: str
) -> None:
    put_builder({}, exit_code)
    command = "builder export best.safetensors --openvino bf16 --keep 2"
    with raises(error, code) as caught:
        export_checkpoint(Path("best.safetensors"), ExportOptions(openvino="bf16", keep=2))
    assert str(caught.value).startswith("best.safetensors: ")
    assert command in str(caught.value)


def test_training_is_kept_when_the_export_is_refused(trained: FitResult, tmp_path: Path) -> None:
    changed = tmp_path / "best.safetensors"
    changed.write_bytes(trained.checkpoint.read_bytes()[:-4] + b"\0\0\x80\x7f")  # one weight is infinite
    with raises(CheckFailedError, "export.verdict_failed", f"builder export {changed} --repository"):
        export_checkpoint(changed, ExportOptions(repository=tmp_path / "repository"))
    assert not list(tmp_path.rglob("model.onnx"))
    assert not (tmp_path / "served").exists()


def test_run_is_refused_before_training_when_there_is_no_builder(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with raises(ConfigError, "export.no_builder"):
        fit(load_config(write_config(tmp_path / "config.yaml", folder, export={"onnx": "fp32"})))
    assert not (tmp_path / "runs").exists()
