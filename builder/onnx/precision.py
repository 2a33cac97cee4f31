"""Detect the precision of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.inliner

from builder.onnx.file import graphs_in, load_without_weights, nodes_in
from builder.onnx.simulation import REDUCED_TYPES, TYPE_ATTRIBUTES
from tritonkit.errors import InputError
from tritonkit.runtimes.formats import Precision, ReducedType

_QUANTIZING_OPERATORS = {
    *("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
}


def onnx_precision(path: Path) -> Precision:
    """The lowest precision of any node in an ONNX file; its limits apply to the outputs. Raises ArtifactError."""
    model = load_without_weights(path)
    return "int8" if _is_quantized(model) else rounding_type(model) or "fp32"


def onnx_rounding(path: Path) -> ReducedType | None:
    """The reduced type in an ONNX file (`rounding_type`). Raises ArtifactError and what `inline_functions` raises."""
    return rounding_type(inline_functions(load_without_weights(path), path))


def reduced_or_quantized_precision(model: onnx.ModelProto) -> Precision:
    """fp16 or bf16 where a graph computes in it anywhere; else int8 where it is quantized, else fp32."""
    return rounding_type(model) or ("int8" if _is_quantized(model) else "fp32")


def rounding_type(model: onnx.ModelProto) -> ReducedType | None:
    """The reduced type of a graph, the more frequent of fp16 and bf16; None where it has neither."""
    types = [kind for scope in (*graphs_in(model.graph), *model.functions) for kind in _types_in(scope)]
    fp16, bf16 = types.count(onnx.TensorProto.FLOAT16), types.count(onnx.TensorProto.BFLOAT16)
    return None if not fp16 + bf16 else "bf16" if bf16 > fp16 else "fp16"


def _is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type in _QUANTIZING_OPERATORS for node in nodes_in(model))


def inline_functions(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Inline the functions of a model, so that the type of each tensor is visible.

    Raises InputError where its control flow computes in fp16 or bf16, which the simulation does not support.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    inner = [graph for graph in graphs_in(model.graph) if graph is not model.graph]
    if any(kind in REDUCED_TYPES for graph in inner for kind in _types_in(graph)):
        raise InputError(
            f"{path}: computes in fp16 or bf16 inside If, Loop or Scan, where rounding cannot be simulated; pass the "
            "original fp32 graph",
            code="onnx.reduced_control_flow",
        )
    return model


def _types_in(scope: onnx.GraphProto | onnx.FunctionProto) -> Iterator[int]:
    """Yield the types of a graph's inputs, constants and casts; those of other tensors follow from them."""
    if isinstance(scope, onnx.GraphProto):
        yield from (value.type.tensor_type.elem_type for value in scope.input)
        yield from (tensor.data_type for tensor in scope.initializer)
    for attribute in (attribute for node in scope.node for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t.data_type
        if attribute.name in TYPE_ATTRIBUTES:
            yield attribute.i
