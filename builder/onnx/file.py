"""Read and write third-party ONNX files; no file outside their own folder is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import onnx
from onnx.external_data_helper import load_external_data_for_model

from tritonkit.errors import ArtifactError, first_line

MAX_BYTES = 2**31 - 1
"""The largest size of a protobuf message."""


def load_without_weights(path: Path) -> onnx.ModelProto:
    """Read a model without its external weights; their types are in the file itself. Raises ArtifactError."""
    try:
        return onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file", code="artifact.missing") from error
    except Exception as error:  # protobuf's errors share no base class with OSError
        raise ArtifactError(
            f"{path}: not a readable ONNX file: damaged or truncated ({first_line(error)})", code="onnx.unreadable"
        ) from error


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check a model, with its weights in memory.

    Raises ArtifactError, also where weights lie in files outside the model's folder, or are missing.
    """
    model = load_without_weights(path)
    folder = path.parent.resolve()  # of the path itself, not of a symbolic link's target: onnx reads weights from there
    for tensor in all_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        file = folder / location
        inner = [part for part in (file, *file.parents) if part.is_relative_to(folder) and part != folder]
        if (
            not location
            or PureWindowsPath(location).is_absolute()
            or not file.resolve().is_relative_to(folder)
            or any(part.is_symlink() for part in inner)
        ):
            raise ArtifactError(
                f"{path}: the weights of {tensor.name!r} lie in {location!r}, outside the model's folder; such a file "
                "is not opened. Put all files of the model into one folder, or save it as one file",
                code="onnx.weights_outside",
            )
        if not file.is_file():
            raise ArtifactError(
                f"{path}: its weights file {location!r} is missing; copy it next to the model", code="onnx.no_weights"
            )
    try:
        load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except Exception as error:  # a damaged graph raises many kinds of errors
        raise ArtifactError(f"{path}: not a valid ONNX model ({first_line(error)})", code="onnx.invalid") from error
    return model


def save_onnx(model: onnx.ModelProto, path: Path, origin: str) -> None:
    """Write a model as one file, weights included. Raises ArtifactError."""
    if model.ByteSize() > MAX_BYTES:
        raise ArtifactError(
            f"{origin}: its weights are larger than 2 GB, the limit of one ONNX file", code="onnx.too_large"
        )
    onnx.save(model, path)


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs_in(inner)


def nodes_in(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes, also those in functions and control flow."""
    for scope in (*graphs_in(model.graph), *model.functions):
        yield from scope.node


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all constant tensors: initializers and attributes, also in functions and control flow."""
    for graph in graphs_in(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in nodes_in(model) for attribute in node.attribute):
        yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
