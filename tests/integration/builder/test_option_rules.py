"""Options without an effect, and options that contradict each other, are refused in one error."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from builder.precision.cast import cast_graph
from tests.fixture_types import Command


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
