"""Convert an ONNX graph to fp16 or bf16 by casts: all nodes but the kept ones compute in the reduced type.

Inputs and outputs keep their types. The types are in the graph, so a strongly typed TensorRT build of any version
computes in them.
"""

from __future__ import annotations

from collections.abc import Collection

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
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if precision == "bf16" and opset < _BF16_OPSET:
        model = onnx.version_converter.convert_version(model, _BF16_OPSET)
    flat = flattened(model)
    wiring = wiring_of(flat)
    well_typed = _type_problem(flat) is None
    _place_casts(flat, wiring, reducible_nodes(flat, wiring, keep), TYPES[precision])
    del flat.graph.value_info[:]
    onnx.checker.check_model(flat)
    if well_typed and (problem := _type_problem(flat)) is not None:
        raise ArtifactError(f"the graph cannot be cast to {precision}: {problem}", code="precision.cast")
    return flat


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


def _place_casts(model: ModelProto, wiring: Wiring, low: Collection[str], low_type: int) -> None:
    """Let the nodes in `low` compute in `low_type`: cast each tensor once, where its producer and consumers differ."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    low_tensors = {
        name for node in graph.node if node.name in low for name in node.output if name and wiring.is_float(name)
    }
    casts: dict[tuple[str, int], str] = {}
    nodes: list[NodeProto] = []

    def cast(source: str, target: str, to: int) -> NodeProto:
        return helper.make_node("Cast", [source], [target], name=f"Cast__{target}", to=to)

    for node in list(graph.node):
        is_low, exempt = node.name in low, _FP32_INPUTS.get(node.op_type, set())
        for place, name in enumerate(node.input):
            if not wiring.is_float(name):
                continue
            needed = low_type if is_low and place not in exempt else TensorProto.FLOAT
            if needed == (low_type if name in low_tensors else TensorProto.FLOAT):
                continue
            if (name, needed) not in casts:
                other = casts[name, needed] = f"{name}__{TensorProto.DataType.Name(needed).lower()}"
                if name in weights:
                    array = numpy_helper.to_array(weights[name])
                    with np.errstate(over="ignore"):
                        array = array.astype(helper.tensor_dtype_to_np_dtype(needed))
                    graph.initializer.append(numpy_helper.from_array(array, other))
                else:
                    nodes.append(cast(name, other, needed))
            node.input[place] = casts[name, needed]
        nodes.append(node)
        if not is_low:
            continue
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = low_type
        for place, output in enumerate(node.output):
            if output in outputs and output in low_tensors:
                # An output of the graph is cast back to fp32; the nodes that read it read the new tensor instead.
                name = node.output[place] = f"{output}__low"
                casts[name, TensorProto.FLOAT] = output
                for consumer in wiring.consumers.get(output, []):
                    consumer.input[:] = [name if tensor == output else tensor for tensor in consumer.input]
                wiring.types[name] = TensorProto.FLOAT
                low_tensors.add(name)
                nodes.append(cast(name, output, TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    used = subgraph_inputs(model) | {name for node in graph.node for name in node.input}
    for unused in weights.keys() - used - outputs:
        graph.initializer.remove(weights[unused])


def _type_problem(model: ModelProto) -> str | None:
    try:
        onnx.shape_inference.infer_shapes(without_weights(model), check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        return first_line(error)
    return None
