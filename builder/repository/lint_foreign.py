"""Lint models that `builder` did not publish: only faults that prevent loading are errors.

What Triton completes or accepts by itself (dynamic sizes, other types, missing names) is not reported. The rules for
ONNX graphs are those of NVIDIA's backend: triton-inference-server/onnxruntime_backend, src/onnxruntime.cc.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from builder.artifacts import inspect_artifact
from builder.config.serving_config import ignored_settings, load_problems
from builder.config.warmup import WARMUP_FOLDER, warmup_sizes
from builder.onnx.file import load_without_weights
from tritonkit.errors import TritonkitError
from tritonkit.repository.finding import NO_BACKEND, Finding, error, misread_version, warning
from tritonkit.runtimes.formats import ONNX, OPENVINO, format_of
from tritonkit.triton.backends import ModelConfig, artifact_names, backend_of
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    backend_completes_tensors,
    misread_versions,
    versions_loaded,
    versions_of,
)

_CORRECT = "correct it"
_TYPES = {1: 11, 2: 2, 3: 6, 4: 3, 5: 7, 6: 8, 7: 9, 8: 13, 9: 1, 10: 10, 11: 12, 12: 4, 13: 5, 16: 14}
"""ONNX element types, each with the number of Triton's `DataType`."""


def check_foreign(model: Path, config: ModelConfig) -> Iterator[Finding]:
    """Findings of a model that `builder` has not published."""
    path = model / CONFIG_FILE
    yield warning(
        model,
        "was not published by `builder`: it was not compared with a checkpoint",
        "compare its outputs with the original model yourself, or leave it as it is",
        code="repository.not_published",
    )
    if not backend_of(config):
        yield error(path, NO_BACKEND, 'name it: backend: "onnxruntime"', code="repository.no_backend")
    for refusal in load_problems(config):
        yield error(path, refusal.message, _CORRECT, code=refusal.code)
    for setting in ignored_settings(config):
        yield warning(path, setting.message, "it has no effect, or the backend refuses it", code=setting.code)
    yield from _check_tensors(path, config)
    yield from _check_files(model, config)
    versions = versions_of(model)
    if not versions:
        yield error(
            model, "has no version folder", "put the model's file into a folder 1 in it", code="repository.no_version"
        )
    elif not versions_loaded(config, versions):
        yield error(
            path, "its version policy loads none of the versions here", _CORRECT, code="repository.version_policy"
        )
    for name, number in misread_versions(model, config).items():
        yield misread_version(model / name, number)
    for version in sorted(versions_loaded(config, versions)):
        yield from _check_version(model / str(version), config)


def _check_tensors(path: Path, config: ModelConfig) -> Iterator[Finding]:
    if backend_completes_tensors(config) and not (config.input or config.output):
        return
    for kind, entries in (("input", config.input), ("output", config.output)):
        if not entries and not backend_completes_tensors(config):
            yield error(
                path,
                f"names no {kind}, and backend {backend_of(config)} cannot complete it",
                _CORRECT,
                code="repository.config_tensor",
            )
        for entry in entries:
            if not entry.name or not entry.data_type or not entry.dims or min(entry.dims) < -1 or 0 in entry.dims:
                yield error(
                    path,
                    f"{kind} {entry.name!r} needs a name, a data_type, and dims of 1 or more, or -1 for any size",
                    _CORRECT,
                    code="repository.config_tensor",
                )


def _check_files(model: Path, config: ModelConfig) -> Iterator[Finding]:
    for output in config.output:
        if output.label_filename and not (model / output.label_filename).is_file():
            yield error(
                model / output.label_filename,
                f"missing: the labels of output {output.name!r}",
                "put the file there",
                code="repository.no_labels",
            )
    for name, size in warmup_sizes(config).items():
        path = model / WARMUP_FOLDER / name
        if not path.is_file() or path.stat().st_size < size:
            yield error(
                path,
                f"missing, or shorter than the {size} bytes that warm-up reads",
                "put the file there",
                code="repository.warmup",
            )


def _check_version(folder: Path, config: ModelConfig) -> Iterator[Finding]:
    for name in artifact_names(config):
        path = folder / name
        if path.is_dir():  # NVIDIA's onnxruntime backend accepts a folder with a file of the same name in it
            path /= name
        if not path.exists():
            yield error(
                path,
                f"missing: backend {backend_of(config)} loads it",
                "put the file there",
                code="repository.no_artifact",
            )
        elif format_of(path) not in (None, OPENVINO):  # third-party OpenVINO files are left to OpenVINO
            yield from _check_artifact(path, config)


def _check_artifact(path: Path, config: ModelConfig) -> Iterator[Finding]:
    try:
        if format_of(path) is ONNX:
            graph = load_without_weights(path).graph
        else:
            inspect_artifact(path)
            return
    except TritonkitError as reason:
        yield error(path, str(reason).removeprefix(f"{path}: "), "copy it again", code=reason.code)
        return
    for name in sorted(_external_weight_files(graph)):
        if not (path.parent / name).is_file():
            yield error(
                path.parent / name,
                f"missing: {path.name} keeps weights in it",
                "put the file there",
                code="repository.no_weights",
            )
    if config.input and config.output:
        for problem in _differences(graph, config):
            yield error(
                path,
                problem,
                f"correct {CONFIG_FILE}, or leave inputs and outputs out of it",
                code="repository.graph_interface",
            )


def _external_weight_files(graph: onnx.GraphProto) -> set[str]:
    external = (tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL)
    return {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}


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
    elif not _fits([-1, *dims] if has_batch else dims, sizes):
        yield f"{entry.name!r} is {sizes}, the batch axis included; {CONFIG_FILE} says {dims}"


def _fits(dims: list[int], sizes: list[int]) -> bool:
    """Whether the dims of config.pbtxt fit the sizes of the graph; -1 fits any size."""
    return len(dims) == len(sizes) and all(-1 in pair or pair[0] == pair[1] for pair in zip(dims, sizes, strict=True))
