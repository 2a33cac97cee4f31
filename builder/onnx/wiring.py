"""Read an ONNX graph: the type, producer and consumers of each tensor, and the nodes that do the arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from builder.onnx.file import graphs_in
from tritonkit.errors import ArtifactError

HEAVY_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention"})
"""The operators that a reduced precision makes faster."""
_LARGE = 1024
"""Elements. Shapes and axes have fewer."""


@dataclass(frozen=True)
class Wiring:
    """The tensors of a graph by name: their element types, their producer and their consumers."""

    types: dict[str, int]
    producer: dict[str, NodeProto]
    consumers: dict[str, list[NodeProto]]

    def is_float(self, tensor: str) -> bool:
        """Whether a tensor is fp32, the type that a conversion reduces."""
        return self.types.get(tensor) == TensorProto.FLOAT

    def is_known(self, node: NodeProto) -> bool:
        """Whether all tensors of a node have a known type. Those of custom operators may not."""
        return all(self.types.get(name) for name in (*node.input, *node.output) if name)


def flattened(model: ModelProto) -> ModelProto:
    """Copy a graph, inline local functions, turn constants into initialisers, and name every node.

    Raises ArtifactError for a graph without arithmetic.
    """
    copied = copy.deepcopy(model)
    if copied.functions:
        copied = onnx.inliner.inline_local_functions(copied)
    for node in [node for node in copied.graph.node if node.op_type == "Constant"]:
        if (value := _value(node)) is not None:
            value.name = node.output[0]
            copied.graph.initializer.append(value)
            copied.graph.node.remove(node)
    used_names: set[str] = set()
    for place, node in enumerate(copied.graph.node):
        if not node.name or node.name in used_names:
            node.name = f"{node.op_type}_{place}"
        used_names.add(node.name)
    if not any(node.op_type in HEAVY_OPERATORS for node in copied.graph.node):
        raise ArtifactError(
            "the graph has no convolution or matrix product, so another precision makes nothing faster",
            code="precision.no_arithmetic",
        )
    return copied


def wiring_of(model: ModelProto) -> Wiring:
    """The tensors of a graph, typed by ONNX's shape inference. Tensors that it cannot type are left out."""
    graph = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output if name}
    consumers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return Wiring(types, producer, consumers)


def without_weights(model: ModelProto) -> ModelProto:
    """The same graph with large initialisers as inputs: shape inference copies them, but reads only small ones."""
    original = model.graph
    large = [tensor for tensor in original.initializer if np.prod(tensor.dims) > _LARGE]
    new_inputs = {tensor.name for tensor in large} - {value.name for value in original.input}
    graph = helper.make_graph(
        original.node,
        original.name,
        [
            *original.input,
            *(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                for tensor in large
                if tensor.name in new_inputs
            ),
        ],
        original.output,
        [tensor for tensor in original.initializer if np.prod(tensor.dims) <= _LARGE],
        value_info=original.value_info,
    )
    return helper.make_model(
        graph, opset_imports=model.opset_import, functions=model.functions, ir_version=model.ir_version
    )


def outer_nodes(model: ModelProto, wiring: Wiring) -> set[str]:
    """The nodes before the first heavy operator and after the last: normalisation, softmax, thresholds.

    They take little time and change answers a lot, so they stay in fp32.
    """
    heavy = [node for node in model.graph.node if node.op_type in HEAVY_OPERATORS]

    def reached(following: Callable[[NodeProto], Iterable[NodeProto]]) -> set[str]:
        names: set[str] = set()
        pending = [node for start in heavy for node in following(start)]
        while pending:
            node = pending.pop()
            if node.name not in names:
                names.add(node.name)
                pending += following(node)
        return names

    after = reached(lambda node: [user for name in node.output for user in wiring.consumers.get(name, [])])
    before = reached(lambda node: [wiring.producer[name] for name in node.input if name in wiring.producer])
    return {node.name for node in model.graph.node} - (after & before) - {node.name for node in heavy}


def float_tensors(model: ModelProto, wiring: Wiring) -> list[str]:
    """The fp32 tensors that nodes produce, in the order of the nodes."""
    return [name for node in model.graph.node for name in node.output if name and wiring.is_float(name)]


def has_subgraph(node: NodeProto) -> bool:
    """Whether a node contains graphs (If, Loop, Scan)."""
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def subgraph_inputs(model: ModelProto) -> set[str]:
    """The names that graphs inside nodes use; those from the outer graph are inputs that no node lists."""
    inner = [graph for graph in graphs_in(model.graph) if graph is not model.graph]
    names = {name for graph in inner for node in graph.node for name in node.input}
    return names | {value.name for graph in inner for value in graph.output}


def _value(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None for a sparse tensor or a text."""
    (attribute,) = node.attribute
    if attribute.name == "value":
        tensor: TensorProto = attribute.t
        return tensor
    plain = {"value_float": attribute.f, "value_int": attribute.i}
    lists = {"value_floats": attribute.floats, "value_ints": attribute.ints}
    numbers = plain.get(attribute.name, list(lists[attribute.name]) if attribute.name in lists else None)
    if numbers is None:
        return None
    dtype = np.float32 if "float" in attribute.name else np.int64
    return numpy_helper.from_array(np.array(numbers, dtype=dtype))
