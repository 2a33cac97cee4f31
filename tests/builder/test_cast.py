"""How the converters to a reduced precision place casts, and what they need."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from builder.export import ExportRequest, export
from builder.failures import CannotBuildError
from builder.precision.cast import cast_graph
from builder.sources import source_from_checkpoint
from tests.errors import raises
from tritonkit.runtimes.formats import Target


def two_products() -> ModelProto:
    """A graph of two matrix products in a row; the result of each is an output."""
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight")
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["first"], name="one"),
        helper.make_node("MatMul", ["first", "weight"], ["second"], name="two"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "first", "second")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_kept_node_reads_the_graph_output_when_it_is_fp32_already() -> None:
    nodes = list(cast_graph(two_products(), "fp16", keep=["two"]).graph.node)
    assert [node.op_type for node in nodes].count("Cast") == 2  # to fp16 before the first product, and back after it
    (kept_node,) = [node for node in nodes if node.name == "two"]
    assert kept_node.input[0] == "first"


def test_autocast_is_refused_before_any_work_when_modelopt_is_missing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    request = ExportRequest(tmp_path / "repository", target=Target(precision="fp16"), converter="autocast")
    steps: list[str] = []
    with raises(CannotBuildError, "install.missing_module") as caught:
        export(source_from_checkpoint(checkpoint), request, steps.append)
    assert "tritonkit[autocast]" in str(caught.value)
    assert not steps
