"""Export after the training, by the `builder` command."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import get_args

import pytest
import yaml

from train.config.example import example_config
from train.config.loading import load_config
from train.export import check_can_export
from tritonkit.errors import ConfigError, InputError
from tritonkit.export_options import FORMATS, ExportOptions
from tritonkit.runtimes.formats import BUILT_IN, TORCHSCRIPT
from tritonkit.system.gpu import find_gpu

TINY = """\
name: tiny
data: {path: data}
model: {name: test_resnet}
image: {size: 32}
export:
"""


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
        ("option.two_formats", "line 8, export.openvino: "),
        ("config.instance_kind", "line 9, export.kind: "),
        ("option.accelerator_parameters", "line 11, export.accelerator.0: "),
        ("config.value", "line 13, export.keep: "),
    )
    problems = sorted(refused.value.problems, key=lambda problem: int(problem.message.split(",")[0].split()[1]))
    for problem, (code, place) in zip(problems, expected, strict=True):
        assert problem.code == code
        assert problem.message.startswith(place)


def test_options_know_the_formats_and_precisions() -> None:
    fields = {name: ExportOptions.model_fields[name] for name in FORMATS[:-1] if name != "torchscript"}
    assert {name: get_args(get_args(field.annotation)[0]) for name, field in fields.items()} == {
        known.name: known.precisions for known in BUILT_IN if known is not TORCHSCRIPT
    }
    assert set(FORMATS) == {"format", *(known.name for known in BUILT_IN)}


def test_example_can_be_uncommented_to_enable_the_export() -> None:
    text = example_config("multiclass")
    first, *rest = text[text.index("# export:") :].splitlines()
    section = "\n".join(line.removeprefix("# ") for line in (first, *takewhile(lambda line: line[:3] == "#  ", rest)))
    assert ExportOptions.model_validate(yaml.safe_load(section)["export"]) == ExportOptions(onnx="fp32")
