"""A batch axis that someone fixed when exporting, made dynamic where the graph allows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from builder.sources.graph import Ask, Raw
from model.errors import ArtifactError, first_line

BATCH = "batch"
_COUNT = "tritonkit.count"
_TRIED = (1, 2, 5)
_REMEDY = (
    "Export it again with a dynamic batch axis: torch.onnx.export(…, dynamic_shapes={'input': {0: "
    "torch.export.Dim('batch')}}), or dynamic_axes={'input': {0: 'batch'}, 'output': {0: 'batch'}}"
)


def free_batch(model: onnx.ModelProto, input_name: str) -> None:
    """Replace a fixed batch size by a dynamic axis, at the input and inside.

    Inside, reshaping leaves its first axis open, and what is joined to each picture's values (class tokens) is
    repeated. That is right wherever the batch comes first; `check_batches` tells where it does not.
    """
    graph, shapes, constants = model.graph, _shapes(model), _constants(model.graph)
    for value in (*(value for value in graph.input if value.name == input_name), *graph.output):
        if dims := value.type.tensor_type.shape.dim:
            dims[0].dim_param = BATCH
    del graph.value_info[:]
    reached, nodes = {input_name}, list(_counted(graph, input_name))
    for node in graph.node:
        if reached.intersection(node.input):
            if node.op_type == "Reshape" and node.input[1] not in reached:
                said = constants.get(node.input[1])
                _open_shape(graph, node, shapes.get(node.output[0], []), [] if said is None else said.tolist())
            elif node.op_type == "Concat":
                nodes.extend(_repeated(graph, node, reached, shapes))
            reached.update(node.output)
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def runs_at_any_size(ask: Ask, pixels: Raw) -> bool:
    """Whether a graph that says so answers two pictures as it answers each alone."""
    alone = np.concatenate([ask(pixels[:1]), ask(pixels[1:2])])
    try:
        together = ask(pixels[:2])
    except ArtifactError:
        return False
    return together.shape == alone.shape and _near(together, alone)


def check_batches(origin: str, ask: Ask, pixels: Raw, expected: Raw) -> None:
    """The graph made dynamic must answer any batch as the file answers each picture. Raises ArtifactError."""
    for size in _TRIED:
        try:
            answers = ask(pixels[:size])
        except ArtifactError as error:
            reason = first_line(error.__cause__ or error)
            raise ArtifactError(
                f"{origin}: its batch axis is fixed, down to the inside of its graph: {reason}. {_REMEDY}"
            ) from error
        if answers.shape != expected[:size].shape or not _near(answers, expected[:size]):
            raise ArtifactError(
                f"{origin}: its batch axis is fixed, and a batch of {size} mixes the pictures up. {_REMEDY}"
            )


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if len(tensor.dims) == 1}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value" and len(node.attribute[0].t.dims) == 1:
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The sizes of tensors, by name; 0 where one is not known."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.value_info, *graph.output)
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def _counted(graph: onnx.GraphProto, input_name: str) -> Iterator[onnx.NodeProto]:
    """Nodes that give the number of pictures, [1]."""
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype=np.int64), f"{_COUNT}.first"))
    yield helper.make_node("Shape", [input_name], [f"{_COUNT}.shape"])
    yield helper.make_node("Gather", [f"{_COUNT}.shape", f"{_COUNT}.first"], [_COUNT], axis=0)


def _repeated(
    graph: onnx.GraphProto, node: onnx.NodeProto, reached: set[str], shapes: Mapping[str, list[int]]
) -> Iterator[onnx.NodeProto]:
    """Nodes that repeat what does not come from the input, before it is joined along another axis."""
    rank = max(len(shapes.get(name, [])) for name in (*node.input, *node.output))
    if rank < 2 or node.attribute[0].i in (0, -rank):
        return
    for place, name in enumerate(node.input):
        if name in reached:
            continue
        ones, shape, made = (f"{_COUNT}.{node.output[0]}.{place}.{part}" for part in ("ones", "to", "repeated"))
        graph.initializer.append(numpy_helper.from_array(np.ones(rank - 1, np.int64), ones))
        node.input[place] = made
        yield helper.make_node("Concat", [_COUNT, ones], [shape], axis=0)
        yield helper.make_node("Expand", [name, shape], [made])


def _open_shape(graph: onnx.GraphProto, node: onnx.NodeProto, inferred: list[int], said: list[int]) -> None:
    """Reshape to known sizes but for the first, which is what is left."""
    sizes = said if not inferred or 0 in inferred else inferred
    if not sizes or min(sizes[1:], default=1) < 1:
        return
    name = f"{_COUNT}.{node.output[0]}.shape"
    graph.initializer.append(numpy_helper.from_array(np.array([-1, *sizes[1:]], np.int64), name))
    node.input[1] = name


def _near(actual: Raw, expected: Raw) -> bool:
    scale = max(1.0, float(np.abs(expected).max()))
    return bool(np.allclose(actual, expected, rtol=1e-3, atol=1e-3 * scale))
