"""The precision that an ONNX graph came in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.inliner

from builder.precision.simulate import LOW, TYPE_ATTRIBUTES
from builder.sources.onnx_file import graphs_in
from builder.targets import Precision
from model.errors import InputError

_QUANTISING = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def held_by(model: onnx.ModelProto) -> Precision:
    """fp16 or bf16 where a graph computes in it anywhere, which rounds; else int8 where it is quantised."""
    types = [kind for graph in graphs_in(model.graph) for kind in _types_in(graph)]
    if any(kind in LOW for kind in types):
        bf16 = types.count(onnx.TensorProto.BFLOAT16)
        return "bf16" if bf16 > types.count(onnx.TensorProto.FLOAT16) else "fp16"
    return "int8" if any(node.op_type in _QUANTISING for node in model.graph.node) else "fp32"


def inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The graph without functions of its own, so that each tensor's type is seen.

    Raises InputError for one that is reduced within its control flow, where no simulation reaches.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    inner = [graph for graph in graphs_in(model.graph) if graph is not model.graph]
    if any(kind in LOW for graph in inner for kind in _types_in(graph)):
        raise InputError(
            f"{path}: computes in fp16 or bf16 within If, Loop or Scan, where its rounding cannot be judged; give the "
            "graph as it was in fp32"
        )
    return model


def _types_in(graph: onnx.GraphProto) -> Iterator[int]:
    """The types that a graph's tensors begin with; those of all others follow from them."""
    yield from (value.type.tensor_type.elem_type for value in graph.input)
    yield from (tensor.data_type for tensor in graph.initializer)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t.data_type
        if attribute.name in TYPE_ATTRIBUTES:
            yield attribute.i
