"""Where the conversion to a reduced precision places casts."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from builder.precision.cast import cast_graph


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
