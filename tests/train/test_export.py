"""Export after the training, by the `builder` command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml

from tests.errors import raises
from train import export
from train.config.example import example_config
from train.config.loading import load_config
from train.engine.fit import FitResult, fit
from train.export import check_can_export, export_checkpoint
from tritonkit.errors import CheckFailedError, ConfigError, ExternalError, InputError, TritonkitError
from tritonkit.export_options import FORMATS, ExportOptions
from tritonkit.runtimes.formats import BUILT_IN, TORCHSCRIPT
from tritonkit.system.files import file_sha256
from tritonkit.system.gpu import find_gpu

TINY = """\
name: tiny
data: {path: data}
model: {name: test_resnet}
image: {size: 32}
export:
"""


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
    assert "kind: KIND_CPU" in config
    assert "count: 2" in config
    published = json.loads((fitted.run / "served" / "published.json").read_text())
    assert published["artifact"] == str(fitted.exported)
    assert published["verdict"]["passed"]
    assert published["command"].startswith(f"builder export {fitted.checkpoint} --repository ")


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
        monkeypatch.setattr(export.sys, "executable", str(script.with_name("python")))

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
    with raises(CheckFailedError, "export.verdict_failed") as caught:
        export_checkpoint(changed, ExportOptions(repository=tmp_path / "repository"))
    assert f"builder export {changed} --repository" in str(caught.value)
    assert not list(tmp_path.rglob("model.onnx"))
    assert not (tmp_path / "served").exists()


def test_run_is_refused_before_training_when_there_is_no_builder(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with raises(ConfigError, "export.no_builder"):
        fit(load_config(write_config(tmp_path / "config.yaml", folder, export={"onnx": "fp32"})))
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(find_gpu() is not None, reason="this machine may build plans")
def test_run_is_refused_with_all_that_is_missing_when_its_export_is_not_possible(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    export = ExportOptions(trt="fp16", config=tmp_path / "config.pbtxt", repository=tmp_path / "file" / "repository")
    with pytest.raises(InputError) as refused:
        check_can_export(export)
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("export: ") for line in lines)
    assert "file/repository/config.pbtxt: " in lines[0]
    assert "an NVIDIA GPU" in lines[1]
    assert "`in_container: true`" in lines[1]
    assert "config.pbtxt: " in lines[2]
    assert refused.value.problems[2].code == "export.config_not_found"


def test_all_problems_of_the_section_are_listed_when_it_contradicts_itself(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    section = ["onnx: fp15", "trt: fp16", "openvino: bf16", "kind: cpu", "gpus: [0]", "accelerator: tensorrt:x"]
    path.write_text(TINY + "".join(f"  {line}\n" for line in [*section, "in_container: true", "keep: 0"]))
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    expected = (
        ("config.value", "line 6, export.onnx: "),
        ("config.rule", "line 8, export.openvino: "),
        ("config.rule", "line 9, export.kind: "),
        ("config.rule", "line 11, export.accelerator.0: "),
        ("config.value", "line 13, export.keep: "),
    )
    problems = sorted(refused.value.problems, key=lambda problem: int(problem.message.split(",")[0].split()[1]))
    for problem, (code, place) in zip(problems, expected, strict=True):
        assert problem.code == code
        assert problem.message.startswith(place)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"in_container": True}, "in_container\n.*TensorRT"),
        ({"kind": "cpu", "gpus": [0, 1]}, "gpus\n.*cpu"),
        ({"kind": "cpu", "accelerator": "cuda"}, "accelerator\n.*cuda .*cpu"),
        ({"torchscript": True, "accelerator": ["tensorrt"]}, "accelerator\n.*torchscript"),
        ({"accelerator": ["none", "openvino"]}, "accelerator\n.*none"),
        ({"onnx": "bf16", "accelerator": "cuda"}, "ONNX Runtime .*bf16"),
    ],
)
def test_section_is_refused_when_its_keys_exclude_each_other(section: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ExportOptions.model_validate(section)


def test_options_know_the_formats_and_precisions() -> None:
    fields = {name: ExportOptions.model_fields[name] for name in FORMATS[:-1] if name != "torchscript"}
    assert {name: get_args(get_args(field.annotation)[0]) for name, field in fields.items()} == {
        known.name: known.precisions for known in BUILT_IN if known is not TORCHSCRIPT
    }
    assert set(FORMATS) == {"format", *(known.name for known in BUILT_IN)}


def test_example_can_be_uncommented_to_enable_the_export() -> None:
    text = example_config("multiclass")
    section = text[text.index("# export:") :].replace("\n# ", "\n").removeprefix("# ")
    assert ExportOptions.model_validate(yaml.safe_load(section)["export"]) == ExportOptions(onnx="fp32")
