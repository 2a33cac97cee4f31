"""Simulate fp16 or bf16 hardware on a CPU: compute in fp32 and round after each node.

ONNX Runtime runs fp16 operators on a CPU in fp32 and does not round between them, so an overflow does not show; it
does not run bf16 on a CPU. Here every node of a reduced type computes in fp32, and a pair of casts rounds its result.
The results match `torch.half`, infinities and NaN included.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from builder.onnx.wiring import wiring_of
from tritonkit.runtimes.formats import ONNX
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import ModelSpec

REDUCED_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
"""The reduced types that a simulation rounds to."""
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
"""Attributes of a node that name the type of its output."""


def simulate_rounding(model: ModelProto) -> ModelProto:
    """The same graph in fp32, with rounding after every node of a reduced type, also in local functions."""
    copied = copy.deepcopy(model)
    if copied.functions:
        copied = onnx.inliner.inline_local_functions(copied)
    types = wiring_of(copied).types
    boundary = {value.name for value in (*copied.graph.input, *copied.graph.output)}
    low = {
        name: element_type
        for name, element_type in types.items()
        if element_type in REDUCED_TYPES and name not in boundary
    }
    _widen_all(copied.graph, low)
    return copied


def convert_to_fp32(model: ModelProto) -> ModelProto:
    """The same graph in fp32, inputs and outputs too, without rounding."""
    copied = copy.deepcopy(model)
    _widen_all(copied.graph, {})
    for value in (*copied.graph.input, *copied.graph.output):
        if value.type.tensor_type.elem_type in REDUCED_TYPES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return copied


def _widen_all(graph: GraphProto, rounded: Mapping[str, int]) -> None:
    """Change a graph to compute in fp32. rounded: the tensors to round, with the type to round to."""
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    nodes: list[NodeProto] = []
    for node in list(graph.node):
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in REDUCED_TYPES:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
        low = [name for name in node.output if name in rounded]
        node.output[:] = [f"{name}__exact" if name in rounded else name for name in node.output]
        nodes.append(node)
        for name in low:
            exact, down = f"{name}__exact", f"{name}__rounded"
            nodes.append(helper.make_node("Cast", [exact], [down], name=f"Round__{name}", to=rounded[name]))
            nodes.append(helper.make_node("Cast", [down], [name], name=f"Widen__{name}", to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in REDUCED_TYPES:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def simulated_runner(graph: Path, spec: ModelSpec, folder: Path) -> OnnxRuntimeRunner:
    """Open a simulation of a reduced graph, which is written into `folder`."""
    path = simulation_of(graph, folder)
    onnx.save(simulate_rounding(onnx.load(graph)), path)
    return OnnxRuntimeRunner(path, spec=spec, spinning=False)


def simulation_of(graph: Path, folder: Path) -> Path:
    """The path of a graph's simulation in a folder."""
    return folder / f"{graph.stem}.simulated{ONNX.suffix}"
