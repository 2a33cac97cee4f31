"""The search in the graph: a matrix product with all vectors of the gallery, and TopK.

Nothing but standard operators, so that every Triton with ONNX Runtime answers the same, and the search is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from builder.onnx.file import MAX_BYTES
from builder.sources.search.gallery import Gallery
from tritonkit.errors import ArtifactError, InputError
from tritonkit.spec import ModelSpec
from tritonkit.tasks.search import UNKNOWN, gallery_of

_VECTORS, _CLASSES, _NUMBERS, _PATHS = "gallery.vectors", "gallery.classes", "gallery.class_numbers", "gallery.paths"
"""Initializers: vectors FP32 [D, N], class names [C], the class number of each item INT64 [N], paths [N]."""


def vectors_that_fit(size: int, others: int = 0) -> int:
    """Return how many vectors of `size` numbers one ONNX file holds.

    others: bytes of the network and of the paths in the same file.
    """
    return max(0, MAX_BYTES - others) // (4 * size + 8)  # a vector in fp32, and its class number


def check_size(items: int, size: int, name: str, others: int = 0) -> None:
    """Raise InputError where the vectors do not fit into one ONNX file. others: as in `vectors_that_fit`."""
    if items > (most := vectors_that_fit(size, others)):
        raise InputError(
            f"{name}: {items:,} vectors of {size} numbers do not fit into an ONNX file of at most 2 GB, "
            f"{others / 1e9:.1f} GB of it for network and paths: up to {most:,} vectors do. Publish the whole gallery "
            "with --approximate, under another --name if the model is published already; or train a smaller "
            "embedding_size",
            code="index.too_large",
        )


def append_search(model: onnx.ModelProto, gallery: Gallery, spec: ModelSpec) -> None:
    """Turn the graph of an embedder into that of a search model. spec: of the search model."""
    graph, settings = model.graph, gallery_of(spec)
    (embedding,) = (output.name for output in graph.output)
    nodes, tensors = search_nodes(embedding, gallery, settings.neighbors, settings.threshold)
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    del graph.output[:]
    for output in spec.outputs:
        kind = TensorProto.STRING if output.dtype == "BYTES" else TensorProto.FLOAT
        graph.output.append(helper.make_tensor_value_info(output.name, kind, ["batch", *output.shape]))


def search_nodes(
    embedding: str, gallery: Gallery, neighbors: int, threshold: float
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes and initializers that search for the tensor `embedding`, FP32 [N, D].

    They write `answer`, `label`, `path` and `distance`.
    """
    classes, numbers = gallery.numbered_labels
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(gallery.vectors.T), _VECTORS),
        _text(_CLASSES, classes.tolist()),
        numpy_helper.from_array(numbers, _NUMBERS),
        _text(_PATHS, gallery.paths.tolist()),
        _text("search.unknown", [UNKNOWN]),
        numpy_helper.from_array(np.array([neighbors], np.int64), "search.neighbors"),
        numpy_helper.from_array(np.array([0], np.int64), "search.first"),
        numpy_helper.from_array(np.array(threshold, np.float32), "search.threshold"),
        *(numpy_helper.from_array(np.array(value, np.float32), f"search.{value}") for value in (0, 1, 2)),
    ]
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("MatMul", [embedding, _VECTORS], ["search.cosine"], {}),
        ("TopK", ["search.cosine", "search.neighbors"], ["search.nearest", "search.index"], {"axis": -1}),
        ("Sub", ["search.1", "search.nearest"], ["search.distance"], {}),
        ("Clip", ["search.distance", "search.0", "search.2"], ["distance"], {}),
        ("Gather", [_PATHS, "search.index"], ["path"], {}),
        ("Gather", [_NUMBERS, "search.index"], ["search.class"], {}),
        ("Gather", [_CLASSES, "search.class"], ["label"], {}),
        ("Gather", ["label", "search.first"], ["search.label"], {"axis": 1}),
        ("Gather", ["distance", "search.first"], ["search.smallest"], {"axis": 1}),
        ("Less", ["search.smallest", "search.threshold"], ["search.known"], {}),
        ("Where", ["search.known", "search.label", "search.unknown"], ["answer"], {}),
    ]
    nodes = [
        helper.make_node(kind, inputs, outputs, name=f"search.{kind.lower()}_{number}", **attributes)
        for number, (kind, inputs, outputs, attributes) in enumerate(steps)
    ]
    return nodes, tensors


def gallery_in(model: onnx.ModelProto, origin: str) -> Gallery:
    """Read the gallery out of the graph of a search model. Raises ArtifactError for another graph."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if missing := [name for name in (_VECTORS, _CLASSES, _NUMBERS, _PATHS) if name not in tensors]:
        raise ArtifactError(
            f"{origin}: is no search model, because it has no {', '.join(missing)}; expected a model.onnx of "
            "`builder index`",
            code="index.no_search_model",
        )
    classes = np.array(_texts(tensors[_CLASSES]), np.str_)
    return Gallery(
        np.ascontiguousarray(numpy_helper.to_array(tensors[_VECTORS]).T),
        classes[numpy_helper.to_array(tensors[_NUMBERS])],
        np.array(_texts(tensors[_PATHS]), np.str_),
    )


def _text(name: str, texts: Sequence[str]) -> onnx.TensorProto:
    return onnx.TensorProto(
        name=name, data_type=TensorProto.STRING, dims=[len(texts)], string_data=[text.encode() for text in texts]
    )


def _texts(tensor: onnx.TensorProto) -> list[str]:
    return [text.decode() for text in tensor.string_data]
