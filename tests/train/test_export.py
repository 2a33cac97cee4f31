"""A run that exports when training ends, by the builder's own command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml

from builder.config.serving import ACCELERATORS as ACCELERATORS_OF_THE_BUILDER
from builder.targets import PRECISIONS
from model.errors import CheckFailedError, ConfigError, ExternalError, InputError
from model.files import sha256_of
from model.gpu import find_gpu
from train import export
from train.config import load_config
from train.example import example_config
from train.export import check_can_export, export_checkpoint
from train.export_rules import ACCELERATORS, FORMATS
from train.fit import FitResult, fit
from train.sections import ExportConfig

TINY = """\
name: tiny
data: {path: data}
model: {name: test_resnet}
image: {size: 32}
export:
"""


def test_run_publishes_its_best_checkpoint_when_asked(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    asked = {"repository": str(tmp_path / "repository"), "max_batch": 4, "kind": "cpu", "instances": 2, "keep": 1}
    fitted = fit(load_config(write_config(tmp_path / "config.yaml", folder, export=asked)))
    assert fitted.exported == tmp_path / "repository" / "tiny" / "1" / "model.onnx"
    verdict = json.loads((fitted.exported.parent / "verdict.json").read_text())
    assert (verdict["passed"], verdict["max_batch"]) == (True, 4)
    manifest = json.loads((fitted.exported.parent / "manifest.json").read_text())
    assert sha256_of(fitted.checkpoint) in json.dumps(manifest)
    config = (fitted.run / "served" / "config.pbtxt").read_text()
    assert config == (fitted.exported.parents[1] / "config.pbtxt").read_text()
    assert "kind: KIND_CPU" in config
    assert "count: 2" in config
    published = json.loads((fitted.run / "served" / "published.json").read_text())
    assert published["artifact"] == str(fitted.exported)
    assert published["verdict"]["passed"]
    assert published["command"].startswith(f"builder export {fitted.checkpoint} --onnx fp32 --repository ")


def test_run_gives_another_format_and_way_of_serving_when_named(trained: FitResult, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copy(trained.checkpoint, tmp_path))
    how = ExportConfig(torchscript=True, gpus=(0, 1), dynamic_batching=False, repository=tmp_path / "repository")
    artifact = export_checkpoint(checkpoint, how)
    assert artifact.name == "model.pt"
    config = (tmp_path / "served" / "config.pbtxt").read_text()
    assert 'backend: "pytorch"' in config
    assert re.search(r"gpus: 0\s+gpus: 1", config)
    assert "dynamic_batching" not in config


@pytest.fixture
def builder_that_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put another `builder` beside Python, one that prints a document and ends with a code."""

    def put(document: object, code: int = 0) -> None:
        script = tmp_path / "bin" / "builder"
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(document)}\nEND\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setattr(export.sys, "executable", str(script.with_name("python")))

    return put


def test_run_says_so_when_the_precision_asked_for_does_not_keep_the_answers(
    tmp_path: Path, builder_that_says: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.pbtxt").write_text('name: "m"')
    artifact = tmp_path / "1" / "model.onnx"
    instead = "int8 failed (error 0.4, limit 0.3, at batch 1; all decisions kept); published in fp16"
    document = {"instead": instead, "warnings": ["Triton does not load version 1"]}
    builder_that_says({"artifact": str(artifact), "verdict": {"precision": "fp16"}, **document})
    assert export_checkpoint(tmp_path / "run" / "best.safetensors", ExportConfig(onnx="int8")) == artifact
    said = capfd.readouterr().err
    assert f"export: {instead}" in said
    assert "export: Triton does not load version 1" in said


@pytest.mark.parametrize(("code", "error"), [(1, CheckFailedError), (2, ConfigError), (3, ExternalError)])
def test_run_tells_how_to_export_again_when_the_builder_fails(
    tmp_path: Path, builder_that_says: Callable[..., None], code: int, error: type[Exception]
) -> None:
    builder_that_says({}, code)
    again = "builder export best.safetensors --openvino bf16 --repository model_repository --keep 2"
    with pytest.raises(error, match=f"best.safetensors: trained, but .*: {again}"):
        export_checkpoint(Path("best.safetensors"), ExportConfig(openvino="bf16", keep=2))


def test_training_is_kept_when_the_export_is_refused(trained: FitResult, tmp_path: Path) -> None:
    changed = tmp_path / "best.safetensors"
    changed.write_bytes(trained.checkpoint.read_bytes()[:-4] + b"\0\0\x80\x7f")  # one weight is infinite
    again = r"trained, but its export was refused .*: builder export \S+ --onnx fp32 --repository"
    with pytest.raises(CheckFailedError, match=again):
        export_checkpoint(changed, ExportConfig(repository=tmp_path / "repository"))
    assert not list(tmp_path.rglob("model.onnx"))
    assert not (tmp_path / "served").exists()


def test_run_is_refused_before_training_when_there_is_no_builder(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no `builder` command; install it"):
        fit(load_config(write_config(tmp_path / "config.yaml", folder, export={"onnx": "fp32"})))
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(find_gpu() is not None, reason="this machine may build plans")
def test_run_is_refused_with_all_that_is_missing_when_its_export_cannot_come(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    how = ExportConfig(trt="fp16", config=tmp_path / "config.pbtxt", repository=tmp_path / "file" / "repository")
    with pytest.raises(InputError) as refused:
        check_can_export(how)
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("export: ") for line in lines)
    assert "file/repository/config.pbtxt: cannot be written" in lines[0]
    assert "an NVIDIA GPU" in lines[1]
    assert "`in_container: true`" in lines[1]
    assert "config.pbtxt: no such file" in lines[2]


def test_section_tells_all_that_is_wrong_at_once_when_it_contradicts_itself(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    section = ["onnx: fp15", "trt: fp16", "openvino: bf16", "kind: cpu", "gpus: [0]", "accelerator: tensorrt:x"]
    path.write_text(TINY + "".join(f"  {line}\n" for line in [*section, "in_container: true", "keep: 0"]))
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    said = str(refused.value)
    for problem in (
        "5 problems in the configuration",
        "line 6, export.onnx: expected 'fp32', 'fp16', 'bf16' or 'int8', got 'fp15'",
        "line 8, export.openvino: one format at a time; trt is named too",
        "line 9, export.kind: a TensorRT plan runs on GPUs",
        "line 11, export.accelerator.0: expected tensorrt, cuda, openvino, or NAME:key=value,…",
        "line 13, export.keep: expected greater than 0",
    ):
        assert problem in said


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"in_container": True}, "builds TensorRT plans; give trt and a precision"),
        ({"kind": "cpu", "gpus": [0, 1]}, "instances of kind cpu are on no GPU"),
        ({"kind": "cpu", "accelerator": "cuda"}, "cuda runs on a GPU, but kind is cpu"),
        ({"torchscript": True, "accelerator": ["tensorrt"]}, "accelerates ONNX, not torchscript"),
        ({"accelerator": ["none", "openvino"]}, "none stands alone"),
        ({"onnx": "bf16", "accelerator": "cuda"}, "bf16 has no kernels in ONNX Runtime itself"),
    ],
)
def test_section_is_refused_when_its_keys_exclude_each_other(section: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ExportConfig.model_validate(section)


def test_section_knows_the_formats_precisions_and_accelerators_of_the_builder() -> None:
    known = {name: get_args(ExportConfig.model_fields[name].annotation)[0] for name in FORMATS if name != "torchscript"}
    assert {name: get_args(precisions) for name, precisions in known.items()} == {
        name: precisions for name, precisions in PRECISIONS.items() if name != "torchscript"
    }
    assert set(FORMATS) == set(PRECISIONS)
    assert ACCELERATORS == ACCELERATORS_OF_THE_BUILDER


def test_example_can_be_uncommented_when_an_export_is_wanted() -> None:
    text = example_config("multiclass")
    section = text[text.index("# export:") :].replace("\n# ", "\n").removeprefix("# ")
    assert ExportConfig.model_validate(yaml.safe_load(section)["export"]) == ExportConfig(onnx="fp32")
