"""Make a fixed batch axis of an ONNX graph dynamic, where the graph allows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from builder.sources.graph import GraphFunction, Raw
from tritonkit.errors import ArtifactError, first_line

BATCH = "batch"
_COUNT = "tritonkit.count"
_TEST_SIZES = (1, 2, 5)
_REMEDY = (
    "Export it again with a dynamic batch axis: torch.onnx.export(…, dynamic_shapes={'input': {0: "
    "torch.export.Dim('batch')}}), or dynamic_axes={'input': {0: 'batch'}, 'output': {0: 'batch'}}"
)


def make_batch_dynamic(model: onnx.ModelProto, input_name: str) -> None:
    """Replace a fixed batch size by a dynamic axis, at the input and inside.

    Inside, reshapes get a dynamic first axis, and constants joined to each image's values (class tokens) are
    repeated. That is right wherever the batch axis is first; `check_batches` detects where it is not.
    """
    graph, inferred = model.graph, onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {  # 0 where a size is unknown
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    constants = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 1}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value" and len(node.attribute[0].t.dims) == 1:
            constants[node.output[0]] = node.attribute[0].t
    for value in (*(value for value in graph.input if value.name == input_name), *graph.output):
        if dims := value.type.tensor_type.shape.dim:
            dims[0].dim_param = BATCH
    del graph.value_info[:]
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype=np.int64), f"{_COUNT}.first"))
    nodes = [
        helper.make_node("Shape", [input_name], [f"{_COUNT}.shape"]),
        helper.make_node("Gather", [f"{_COUNT}.shape", f"{_COUNT}.first"], [_COUNT], axis=0),  # the batch size, [1]
    ]
    reached = {input_name}
    for node in graph.node:
        if reached.intersection(node.input):
            if node.op_type == "Reshape" and node.input[1] not in reached:
                sizes, constant = shapes.get(node.output[0], []), constants.get(node.input[1])
                if not sizes or 0 in sizes:
                    sizes = [] if constant is None else numpy_helper.to_array(constant).tolist()
                if sizes and min(sizes[1:], default=1) >= 1:
                    target = f"{_COUNT}.{node.output[0]}.shape"
                    opened = np.array([-1, *sizes[1:]], np.int64)
                    graph.initializer.append(numpy_helper.from_array(opened, target))
                    node.input[1] = target
            elif node.op_type == "Concat":
                nodes.extend(_repeat_nodes(graph, node, reached, shapes))
            reached.update(node.output)
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def accepts_any_batch(run: GraphFunction, pixels: Raw) -> bool:
    """Whether a graph with a dynamic batch axis gives the same outputs for two images as for each alone."""
    alone = np.concatenate([run(pixels[:1]), run(pixels[1:2])])
    try:
        together = run(pixels[:2])
    except ArtifactError:
        return False
    return together.shape == alone.shape and _is_close(together, alone)


def check_batches(origin: str, run: GraphFunction, pixels: Raw, expected: Raw) -> None:
    """Raise ArtifactError unless the changed graph gives the outputs of the original file at every batch size."""
    for size in _TEST_SIZES:
        try:
            answers = run(pixels[:size])
        except ArtifactError as error:
            reason = first_line(error.__cause__ or error)
            raise ArtifactError(
                f"{origin}: its batch axis is fixed, also inside the graph: {reason}. {_REMEDY}",
                code="onnx.fixed_batch",
            ) from error
        if answers.shape != expected[:size].shape or not _is_close(answers, expected[:size]):
            raise ArtifactError(
                f"{origin}: its batch axis is fixed, and a batch of {size} gives wrong outputs. {_REMEDY}",
                code="onnx.batch_mixed",
            )


def _repeat_nodes(
    graph: onnx.GraphProto, node: onnx.NodeProto, reached: set[str], shapes: Mapping[str, list[int]]
) -> Iterator[onnx.NodeProto]:
    """Nodes that repeat a constant along the batch axis, before it is joined along another axis."""
    rank = max(len(shapes.get(name, [])) for name in (*node.input, *node.output))
    if rank < 2 or node.attribute[0].i in (0, -rank):
        return
    for position, name in enumerate(node.input):
        if name in reached:
            continue
        ones, shape, repeated = (f"{_COUNT}.{node.output[0]}.{position}.{part}" for part in ("ones", "to", "repeated"))
        graph.initializer.append(numpy_helper.from_array(np.ones(rank - 1, np.int64), ones))
        node.input[position] = repeated
        yield helper.make_node("Concat", [_COUNT, ones], [shape], axis=0)
        yield helper.make_node("Expand", [name, shape], [repeated])


def _is_close(actual: Raw, expected: Raw) -> bool:
    scale = max(1.0, float(np.abs(expected).max()))
    return bool(np.allclose(actual, expected, rtol=1e-3, atol=1e-3 * scale))
