"""Options without an effect are refused in one error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from typer.testing import Result

from builder.commands.option_rules import unused_options
from builder.precision.cast import cast_graph
from tritonkit.runtimes.formats import Precision, Target

Command = Callable[..., Result]
UNSET = {
    "opt_batch": None,
    "keep_fp32": None,
    "calibration": None,
    "masks": None,
    "data": None,
    "strict": False,
    "force": False,
}
SET = {"opt_batch": 4, "keep_fp32": ["x"], "calibration": "photos", "masks": "masks"}


@pytest.mark.parametrize(
    ("name", "precision", "unused"),
    [
        ("onnx", "fp32", ["--opt-batch", "--keep-fp32", "--calibration"]),
        ("onnx", "int8", ["--opt-batch"]),
        ("openvino", "bf16", ["--opt-batch", "--keep-fp32", "--calibration"]),
        ("openvino", "int8", ["--opt-batch"]),
        ("torchscript", "fp32", ["--opt-batch", "--keep-fp32", "--calibration"]),
        ("trt", "fp32", ["--keep-fp32", "--calibration"]),
        ("rtx", "fp16", []),
    ],
)
def test_options_are_reported_when_the_target_does_not_use_them(
    name: str, precision: Precision, unused: list[str]
) -> None:
    target = Target(format=name, precision=precision)
    problems = unused_options(target, {**UNSET, **SET})
    assert [problem.message.partition(":")[0] for problem in problems] == [*unused, "--masks"]
    assert {problem.code for problem in problems} == {"option.no_effect"}
    assert unused_options(target, UNSET) == []


def test_strict_and_force_contradict_each_other(command: Command, checkpoint: Path) -> None:
    result = command("builder", "export", checkpoint, "--onnx", "fp16", "--strict", "--force", "--json")
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["error"]["problems"]
    assert problem["code"] == "option.no_effect"
    assert "--strict" in problem["message"]
    assert "--force" in problem["message"]


def test_export_reports_all_unused_options_at_once(command: Command, checkpoint: Path) -> None:
    result = command("builder", "export", checkpoint, "--opt-batch", 4, "--masks", "masks", "--workspace-mib", 64)
    assert result.exit_code == 2
    assert all(option in result.stderr for option in ("--opt-batch", "--masks", "--workspace-mib"))


def test_export_refuses_options_of_a_reduction_when_the_graph_is_reduced_already(
    command: Command, tiny_repository: Path, tmp_path: Path
) -> None:
    graph = tiny_repository / "pets/1/model.onnx"
    onnx.save(cast_graph(onnx.load(graph), "fp16"), tmp_path / "half.onnx")
    options = ["--repository", tmp_path / "repository"]
    result = command(
        "builder", "export", tmp_path / "half.onnx", "--onnx", "fp16", "--keep-fp32", "x", *options, "--json"
    )
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "option.source_is_reduced"
