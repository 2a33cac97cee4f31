"""The precision that an ONNX graph came in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx.inliner

from builder.precision.cast import Reduced
from builder.precision.simulate import LOW, TYPE_ATTRIBUTES
from builder.sources.onnx_file import graphs_in
from builder.targets import Precision
from model.errors import ArtifactError, InputError, first_line

_QUANTISING = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def onnx_precision(path: Path) -> Precision:
    """The precision of an ONNX file by `lowest_in`. Raises ArtifactError."""
    return lowest_in(_without_weights_apart(path))


def onnx_rounding(path: Path) -> Reduced | None:
    """What an ONNX file is rounded to by `rounding_in`. Raises ArtifactError, and InputError where `inlined` does."""
    return rounding_in(inlined(_without_weights_apart(path), path))


def held_by(model: onnx.ModelProto) -> Precision:
    """fp16 or bf16 where a graph computes in it anywhere, which rounds; else int8 where it is quantised."""
    return rounding_in(model) or ("int8" if _is_quantised(model) else "fp32")


def lowest_in(model: onnx.ModelProto) -> Precision:
    """The lowest precision that anything in a graph is computed in, whose limits its answers are judged by."""
    return "int8" if _is_quantised(model) else held_by(model)


def rounding_in(model: onnx.ModelProto) -> Reduced | None:
    """The reduced type that a graph computes in anywhere, the more frequent of both; None where nothing is rounded."""
    types = [kind for graph in graphs_in(model.graph) for kind in _types_in(graph)]
    types += [kind for function in model.functions for kind in _types_of_nodes(function.node)]
    fp16, bf16 = types.count(onnx.TensorProto.FLOAT16), types.count(onnx.TensorProto.BFLOAT16)
    if not fp16 + bf16:
        return None
    return "bf16" if bf16 > fp16 else "fp16"


def _is_quantised(model: onnx.ModelProto) -> bool:
    nodes = [node for graph in graphs_in(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    return any(node.op_type in _QUANTISING for node in nodes)


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
    yield from _types_of_nodes(graph.node)


def _types_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[int]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t.data_type
        if attribute.name in TYPE_ATTRIBUTES:
            yield attribute.i


def _without_weights_apart(path: Path) -> onnx.ModelProto:
    """A file as it is: weights that lie beside it have their types in it."""
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors share no base class with OSError
        raise ArtifactError(f"{path}: not a readable ONNX file ({first_line(error)})") from error
