"""Reading and writing ONNX files of strangers: nothing outside their own folder is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import onnx
from onnx.external_data_helper import load_external_data_for_model

from model.errors import ArtifactError, first_line

_MAX_BYTES = 2**31 - 1
"""What protobuf can hold in one message."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """A checked model with its weights in memory. Raises ArtifactError."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors share no base class with OSError
        raise ArtifactError(f"{path}: not a readable ONNX file: damaged, or cut short ({first_line(error)})") from error
    _check_external(model, path)
    try:
        load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except Exception as error:  # a damaged graph fails wherever the checker happens to be
        raise ArtifactError(f"{path}: not a valid ONNX model ({first_line(error)})") from error
    return model


def saved(model: onnx.ModelProto, path: Path, origin: str) -> None:
    """Write one file that holds everything. Raises ArtifactError."""
    if model.ByteSize() > _MAX_BYTES:
        raise ArtifactError(f"{origin}: its weights are larger than the 2 GB that one ONNX file can hold")
    onnx.save(model, path)


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs_in(inner)


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All constant tensors, wherever they stand."""
    nodes = [node for function in model.functions for node in function.node]
    for graph in graphs_in(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        nodes.extend(graph.node)
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)


def _check_external(model: onnx.ModelProto, path: Path) -> None:
    """Weights may lie in files beside the model's, and nowhere else."""
    folder = path.parent.resolve()  # of the name that was given, as it is where they are read from, also of a link
    for tensor in tensors_of(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        file = folder / location
        outside = (
            not location
            or PureWindowsPath(location).is_absolute()
            or not file.resolve().is_relative_to(folder)
            or any(
                part.is_symlink() for part in (file, *file.parents) if part.is_relative_to(folder) and part != folder
            )
        )
        if outside:
            raise ArtifactError(
                f"{path}: the weights of {tensor.name!r} are said to lie in {location!r}, outside the model's folder, "
                "which is not opened. Put all files of the model into one folder, or save it as one file"
            )
        if not file.is_file():
            raise ArtifactError(f"{path}: its weights are in {location!r}, which is not beside it; copy that file too")
