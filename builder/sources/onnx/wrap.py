"""Add nodes around a third-party graph, so that it takes uint8 images and gives a task's outputs.

All operators used mean the same from opset 9 on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from builder.onnx.file import graphs_in
from builder.sources.graph import FinalStep, GraphSignature
from builder.sources.onnx.batch import BATCH
from tritonkit.errors import first_line
from tritonkit.spec import ModelSpec

OPSET = 17
_MIN_OPSET = 13
Step = tuple[str, list[str], dict[str, Any]]
"""A node: operator, further inputs after the previous node's output, attributes."""
_PREFIX = "tritonkit."
_TYPES = {"FP32": TensorProto.FLOAT, "UINT8": TensorProto.UINT8}


def upgrade_opset(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Convert a graph with an old opset to a newer one; return it with a note of what was done."""
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    if version >= _MIN_OPSET:
        return model, f"opset {version}"
    try:
        newer = onnx.version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(newer)
    except Exception as error:  # noqa: BLE001 - the converter does not know every operator, and fails in many ways
        return model, f"opset {version} unchanged (converting to {OPSET} failed: {first_line(error):.80})"
    return newer, f"opset {version} converted to {OPSET}"


def wrap_graph(
    model: onnx.ModelProto, signature: GraphSignature, spec: ModelSpec, final_step: FinalStep
) -> onnx.ModelProto:
    """Wrap a graph to tritonkit's input and output; changes `model` in place. The verdict verifies the result."""
    (output,) = spec.outputs
    taken: set[str] = set()
    for scope in graphs_in(model.graph):
        taken |= {name for node in scope.node for name in (*node.input, *node.output)}
        taken |= {value.name for value in (*scope.input, *scope.output, *scope.initializer)}
    prefix = ""
    if taken & {spec.input.name, output.name}:
        prefix = "original."
        model = compose.add_prefix(model, prefix)
    graph = model.graph
    before = _input_nodes(graph, prefix + signature.input, signature, spec)
    after = _output_nodes(graph, prefix + signature.output, signature, output.name, final_step)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in list(graph.input):
        if value.name == prefix + signature.input:
            graph.input.remove(value)
    graph.input.insert(0, _value(spec.input.name, TensorProto.UINT8, spec.input.shape))
    del graph.output[:], graph.value_info[:], model.metadata_props[:]
    graph.output.append(_value(output.name, _TYPES[output.dtype], output.shape))
    return model


def _input_nodes(graph: onnx.GraphProto, name: str, signature: GraphSignature, spec: ModelSpec) -> list[onnx.NodeProto]:
    """Cast, transpose, normalize. The cast comes first: TensorRT for RTX cannot resize a transposed uint8 tensor."""
    steps: list[Step] = []
    transpose: dict[str, Any] = {"perm": [0, 3, 1, 2]}
    if signature.dtype == "uint8":
        steps.append(("Transpose", [], transpose) if signature.layout == "NCHW" else ("Identity", [], {}))
        return _chain(steps, spec.input.name, name)
    steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if signature.layout == "NCHW":
        steps.append(("Transpose", [], transpose))
    for kind, operator in (("mean", "Sub"), ("std", "Div")):
        values = np.array(getattr(spec.normalize, kind), dtype=np.float64) * 255
        shape = (1, 3, 1, 1) if signature.layout == "NCHW" else (1, 1, 1, 3)
        steps.append((operator, [_constant(graph, kind, values.astype(np.float32).reshape(shape))], {}))
    if signature.dtype == "float16":
        steps.append(("Cast", [], {"to": TensorProto.FLOAT16}))
    return _chain(steps, spec.input.name, name)


def _output_nodes(
    graph: onnx.GraphProto, name: str, signature: GraphSignature, output: str, final_step: FinalStep
) -> list[onnx.NodeProto]:
    steps: list[Step] = [("Cast", [], {"to": TensorProto.FLOAT})]
    channel = 1 if signature.layout == "NCHW" else 3
    if final_step == "argmax":
        steps.append(("ArgMax", [], {"axis": channel, "keepdims": 0}))
        steps.append(("Cast", [], {"to": TensorProto.UINT8}))
    elif final_step in ("above 0", "above 0.5"):
        limit = np.array(0.5 if final_step == "above 0.5" else 0, dtype=np.float32)
        # Gather removes the axis; Squeeze has its axes as attribute or input depending on the opset.
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
        if final_step in operators:
            operator, attributes = operators[final_step]
            steps.append((operator, [], attributes))
    return _chain(steps, name, output)


def _chain(steps: list[Step], first: str, last: str) -> list[onnx.NodeProto]:
    """Create a chain of nodes from the tensor `first` to the tensor `last`."""
    nodes = []
    for number, (operator, others, attributes) in enumerate(steps, 1):
        name = f"{_PREFIX}{last}.{number}.{operator}"
        output = last if number == len(steps) else name
        nodes.append(helper.make_node(operator, [first, *others], [output], name=name, **attributes))
        first = output
    return nodes


def _constant(graph: onnx.GraphProto, name: str, values: NDArray[Any]) -> str:
    graph.initializer.append(numpy_helper.from_array(values, _PREFIX + name))
    return _PREFIX + name


def _value(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [BATCH, *shape])
