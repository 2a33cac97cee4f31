"""Convert an ONNX graph to fp16 or bf16 by casts: all nodes but the kept ones compute in the reduced type.

Inputs and outputs keep their types. The types are in the graph, so a strongly typed TensorRT build of any version
computes in them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.version_converter
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from builder.onnx.wiring import (
    Wiring,
    flattened,
    has_subgraph,
    outer_nodes,
    subgraph_inputs,
    wiring_of,
    without_weights,
)
from tritonkit.errors import ArtifactError, first_line
from tritonkit.runtimes.formats import ReducedType

_BF16_OPSET = 22
"""The first opset whose convolutions and pools are defined for bfloat16."""
TYPES: dict[ReducedType, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_ALWAYS_FP32 = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Range", "ConstantOfShape", "EyeLike"),
        *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"),
        *("NonMaxSuppression", "CumSum", "TopK"),
    }
)
"""Operators that are defined for fp32 or integers only, or for which runtimes have no other kernel."""
_FP32_INPUTS = {"Resize": {1, 2}, "Upsample": {1}}
"""Inputs that the operator defines as fp32 whatever type it computes in: region and scales."""


def cast_graph(model: ModelProto, precision: ReducedType, keep: Collection[str] = ()) -> ModelProto:
    """Convert a graph to `precision`, except the nodes named in `keep` and the outer nodes.

    Types of inputs and outputs do not change. Raises ArtifactError for a graph without arithmetic.
    """
    flat = flattened(_with_opset_for(precision, model))
    wiring = wiring_of(flat)
    low = reducible_nodes(flat, wiring, keep)
    well_typed = _type_problem(flat) is None
    _Conversion(flat, wiring, low, TYPES[precision]).run()
    del flat.graph.value_info[:]
    onnx.checker.check_model(flat)
    if well_typed and (problem := _type_problem(flat)) is not None:
        raise ArtifactError(f"the graph cannot be cast to {precision}: {problem}", code="precision.cast")
    return flat


def _with_opset_for(precision: ReducedType, model: ModelProto) -> ModelProto:
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if precision == "fp16" or opset >= _BF16_OPSET:
        return model
    return onnx.version_converter.convert_version(model, _BF16_OPSET)


def _type_problem(model: ModelProto) -> str | None:
    try:
        onnx.shape_inference.infer_shapes(without_weights(model), check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        return first_line(error)
    return None


def reducible_nodes(flat: ModelProto, wiring: Wiring, keep: Collection[str]) -> set[str]:
    """The names of the nodes that can compute in the reduced type."""
    excluded, inside = outer_nodes(flat, wiring) | set(keep), subgraph_inputs(flat)
    return {
        node.name
        for node in flat.graph.node
        if node.name not in excluded
        and wiring.is_known(node)
        and not inside & set(node.output)
        and node.op_type not in _ALWAYS_FP32
        and not has_subgraph(node)
        and any(wiring.is_float(name) for name in (*node.input, *node.output))
        # A custom operator may have no kernel for another type.
        and node.domain in ("", "ai.onnx")
    }


@dataclass
class _Conversion:
    model: ModelProto
    wiring: Wiring
    low: set[str]
    low_type: int
    casts: dict[tuple[str, int], str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.low_tensors = {
            name
            for node in graph.node
            if node.name in self.low
            for name in node.output
            if name and self.wiring.is_float(name)
        }

    def run(self) -> None:
        graph = self.model.graph
        for node in list(graph.node):
            self._cast_inputs(node)
            self.nodes.append(node)
            self._cast_outputs(node)
        del graph.node[:]
        graph.node.extend(self.nodes)
        used = subgraph_inputs(self.model) | {name for node in graph.node for name in node.input}
        for name, tensor in self.weights.items():
            if name not in used and name not in self.outputs:
                graph.initializer.remove(tensor)

    def _cast_inputs(self, node: NodeProto) -> None:
        exempt = _FP32_INPUTS.get(node.op_type, set())
        for place, name in enumerate(node.input):
            if not self.wiring.is_float(name):
                continue
            needed = self.low_type if node.name in self.low and place not in exempt else TensorProto.FLOAT
            actual = self.low_type if name in self.low_tensors else TensorProto.FLOAT
            if needed != actual:
                node.input[place] = self._cast_tensor(name, needed)

    def _cast_outputs(self, node: NodeProto) -> None:
        if node.name not in self.low:
            return
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = self.low_type
        for place, name in enumerate(node.output):
            if name in self.outputs and name in self.low_tensors:
                node.output[place] = self._split_output(name)
                self.nodes.append(_cast(node.output[place], name, TensorProto.FLOAT))

    def _split_output(self, output: str) -> str:
        """Rename a graph output before its cast back to fp32; its consumers use the new name, which is returned."""
        name = f"{output}__low"
        self.casts[name, TensorProto.FLOAT] = output
        for node in self.wiring.consumers.get(output, []):
            node.input[:] = [name if tensor == output else tensor for tensor in node.input]
        self.wiring.types[name] = TensorProto.FLOAT
        self.low_tensors.add(name)
        return name

    def _cast_tensor(self, name: str, element_type: int) -> str:
        key = (name, element_type)
        if key not in self.casts:
            other = f"{name}__{TensorProto.DataType.Name(element_type).lower()}"
            self.casts[key] = other
            if name in self.weights:
                self.model.graph.initializer.append(_weight_as(self.weights[name], other, element_type))
            else:
                self.nodes.append(_cast(name, other, element_type))
        return self.casts[key]


def _cast(source: str, target: str, element_type: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"Cast__{target}", to=element_type)


def _weight_as(tensor: TensorProto, name: str, element_type: int) -> TensorProto:
    array = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        return numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(element_type)), name)
