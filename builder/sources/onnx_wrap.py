"""Nodes round someone else's graph, so that it takes uint8 images and gives a task's answers.

All are of operators that mean the same from opset 9 on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from builder.sources.graph import Given, Last
from builder.sources.onnx_batch import BATCH
from builder.sources.onnx_file import graphs_in
from model.errors import first_line
from model.spec import ModelSpec

OPSET = 17
_LEAST_OPSET = 13
Step = tuple[str, list[str], dict[str, Any]]
"""A node: operator, inputs besides the one before, attributes."""
_OURS = "tritonkit."
_TYPES = {"FP32": TensorProto.FLOAT, "UINT8": TensorProto.UINT8}


def lifted(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """The graph in a newer opset where its own is too old for much that follows, and what was done in words."""
    found = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    if found >= _LEAST_OPSET:
        return model, f"opset {found}"
    try:
        newer = onnx.version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(newer)
    except Exception as error:  # noqa: BLE001 - the converter knows not every operator, and dies in many ways
        return model, f"opset {found} as it is (the converter to {OPSET} says: {first_line(error):.80})"
    return newer, f"opset {found} converted to {OPSET}"


def wrapped(model: onnx.ModelProto, given: Given, spec: ModelSpec, last: Last) -> onnx.ModelProto:
    """The graph with the kit's input and outputs; the given model is changed. The verdict proves the result."""
    (output,) = spec.outputs
    taken = {name for graph in graphs_in(model.graph) for name in _names(graph)}
    prefix = ""
    if taken & {spec.input.name, output.name}:
        prefix = "given."
        model = compose.add_prefix(model, prefix)
    graph = model.graph
    before = _before(graph, prefix + given.input, given, spec)
    after = _after(graph, prefix + given.output, given, output.name, last)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in list(graph.input):
        if value.name == prefix + given.input:
            graph.input.remove(value)
    graph.input.insert(0, _value(spec.input.name, TensorProto.UINT8, spec.input.shape))
    del graph.output[:], graph.value_info[:], model.metadata_props[:]
    graph.output.append(_value(output.name, _TYPES[output.dtype], output.shape))
    return model


def _before(graph: onnx.GraphProto, name: str, given: Given, spec: ModelSpec) -> list[onnx.NodeProto]:
    """Cast, transpose, normalise. The cast comes first: TensorRT for RTX resizes no uint8 tensor that was turned."""
    steps: list[Step] = []
    turned: dict[str, Any] = {"perm": [0, 3, 1, 2]}
    if given.dtype == "uint8":
        steps.append(("Transpose", [], turned) if given.layout == "NCHW" else ("Identity", [], {}))
        return _chain(steps, spec.input.name, name)
    steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if given.layout == "NCHW":
        steps.append(("Transpose", [], turned))
    for kind, operator in (("mean", "Sub"), ("std", "Div")):
        values = np.array(getattr(spec.normalize, kind), dtype=np.float64) * 255
        shape = (1, 3, 1, 1) if given.layout == "NCHW" else (1, 1, 1, 3)
        steps.append((operator, [_constant(graph, kind, values.astype(np.float32).reshape(shape))], {}))
    if given.dtype == "float16":
        steps.append(("Cast", [], {"to": TensorProto.FLOAT16}))
    return _chain(steps, spec.input.name, name)


def _after(graph: onnx.GraphProto, name: str, given: Given, output: str, last: Last) -> list[onnx.NodeProto]:
    steps: list[Step] = [("Cast", [], {"to": TensorProto.FLOAT})]
    channel = 1 if given.layout == "NCHW" else 3
    if last == "argmax":
        steps.append(("ArgMax", [], {"axis": channel, "keepdims": 0}))
        steps.append(("Cast", [], {"to": TensorProto.UINT8}))
    elif last in ("above 0", "above 0.5"):
        limit = np.array(0.5 if last == "above 0.5" else 0, dtype=np.float32)
        # Not Squeeze, whose axes moved from attribute to input; Gather drops the axis as well.
        steps.append(("Gather", [_constant(graph, "channel", np.array(0, dtype=np.int64))], {"axis": channel}))
        steps.append(("Greater", [_constant(graph, "limit", limit)], {}))
        steps.append(("Cast", [], {"to": TensorProto.UINT8}))
    else:
        steps.append(("Flatten", [], {"axis": 1}))
        operators: dict[str, tuple[str, dict[str, Any]]] = {
            "softmax": ("Softmax", {"axis": 1}),
            "sigmoid": ("Sigmoid", {}),
            "unit length": ("LpNormalization", {"axis": 1, "p": 2}),
        }
        if last in operators:
            operator, attributes = operators[last]
            steps.append((operator, [], attributes))
    return _chain(steps, name, output)


def _chain(steps: list[Step], first: str, last: str) -> list[onnx.NodeProto]:
    """Nodes in a row, from the tensor `first` to the tensor `last`."""
    nodes = []
    for number, (operator, others, attributes) in enumerate(steps, 1):
        name = f"{_OURS}{last}.{number}.{operator}"
        made = last if number == len(steps) else name
        nodes.append(helper.make_node(operator, [first, *others], [made], name=name, **attributes))
        first = made
    return nodes


def _constant(graph: onnx.GraphProto, name: str, values: NDArray[Any]) -> str:
    graph.initializer.append(numpy_helper.from_array(values, _OURS + name))
    return _OURS + name


def _names(graph: onnx.GraphProto) -> set[str]:
    nodes = {name for node in graph.node for name in (*node.input, *node.output)}
    return nodes | {value.name for value in (*graph.input, *graph.output, *graph.initializer)}


def _value(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [BATCH, *shape])
