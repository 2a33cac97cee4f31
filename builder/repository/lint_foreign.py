"""Check the graphs of models that `builder` did not publish against their configuration.

The rules are those of NVIDIA's backend: triton-inference-server/onnxruntime_backend, src/onnxruntime.cc.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from builder.artifacts import inspect_artifact
from builder.onnx.file import load_without_weights
from tritonkit.errors import TritonkitError
from tritonkit.repository.finding import Finding, error
from tritonkit.repository.lint import LintScope
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.runtimes.formats import ONNX, OPENVINO, format_of, is_plan
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.model_config import CONFIG_FILE, shapes_fit

_TYPES = {1: 11, 2: 2, 3: 6, 4: 3, 5: 7, 6: 8, 7: 9, 8: 13, 9: 1, 10: 10, 11: 12, 12: 4, 13: 5, 16: 14}
"""ONNX element types, each with the number of Triton's `DataType`."""


def check_foreign_graphs(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check the artifacts of the versions that Triton loads."""
    if not model.is_foreign:
        return
    for path in (version.path / name for version in scope.versions(model) for name in model.files):
        file = path / path.name if path.is_dir() else path
        # Third-party OpenVINO files are left to OpenVINO; `check_files` reports what is missing, and damaged plans.
        if not file.is_file() or format_of(file) in (None, OPENVINO) or is_plan(file):
            continue
        try:
            if format_of(file) is not ONNX:
                inspect_artifact(file)
                continue
            graph = load_without_weights(file).graph
        except TritonkitError as reason:
            yield error(file, str(reason).removeprefix(f"{file}: "), "copy it again", code=reason.code)
            continue
        external = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        weights = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
        for name in sorted(weights):
            if not (file.parent / name).is_file():
                message = f"missing: {file.name} keeps weights in it"
                yield error(file.parent / name, message, "put the file there", code="repository.no_weights")
        for problem in _differences(graph, model.config) if model.config.input and model.config.output else ():
            fix = f"correct {CONFIG_FILE}, or leave inputs and outputs out of it"
            yield error(file, problem, fix, code="repository.graph_interface")


def _differences(graph: onnx.GraphProto, config: ModelConfig) -> Iterator[str]:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    outputs = {value.name: value for value in graph.output}
    if missing := sorted(set(inputs) - {entry.name for entry in config.input}):
        yield f"takes {', '.join(missing)}, which {CONFIG_FILE} does not name"
    for entries, values in ((config.input, inputs), (config.output, outputs)):
        for entry in entries:
            yield from _difference(entry, values, config.max_batch_size > 0)


def _difference(entry: Any, values: Mapping[str, onnx.ValueInfoProto], has_batch: bool) -> Iterator[str]:
    if entry.name not in values:
        yield f"has no {entry.name!r}, which {CONFIG_FILE} names; it has {', '.join(values)}"
        return
    tensor = values[entry.name].type.tensor_type
    if _TYPES.get(tensor.elem_type, 0) != entry.data_type:
        yield f"{entry.name!r} has another type than in {CONFIG_FILE}"
    if not tensor.HasField("shape"):
        return
    sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    dims = list(entry.reshape.shape) if entry.HasField("reshape") else list(entry.dims)
    if has_batch and (not sizes or sizes[0] != -1):
        yield f"{entry.name!r} is {sizes}: with max_batch_size its first axis must be dynamic; set max_batch_size: 0"
    elif not shapes_fit([-1, *dims] if has_batch else dims, sizes):
        yield f"{entry.name!r} is {sizes}, the batch axis included; {CONFIG_FILE} says {dims}"
