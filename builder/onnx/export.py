"""Export a network to ONNX, and read the interface and spec of an ONNX file."""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from tritonkit.errors import ArtifactError, first_line
from tritonkit.networks.network import Network, on_cpu
from tritonkit.runtimes.formats import ONNX
from tritonkit.spec import METADATA_KEY, DType, ModelSpec, TensorSpec

OPSET = 20
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TRITON_TYPES: dict[int, DType] = {
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.STRING: "BYTES",
}

_MAX_BYTES = 2**31 - 1
"""The maximum size of a protobuf message."""


def onnx_from_network(network: Network, path: Path) -> None:
    """Write the network as an fp32 graph with a dynamic batch axis and the spec in its metadata.

    torch's dynamo exporter is used first; its tracing exporter for the few networks that dynamo cannot export (MaxViT).
    Raises ArtifactError where both fail, or where the weights are too large for one file.
    """
    spec = network.spec
    _check_size(network)
    # With an example batch of one the exporter would treat the batch axis as a constant.
    example = torch.zeros(2, *spec.input.shape, dtype=torch.uint8)
    with _quiet(), on_cpu(network):
        try:
            model = _export_by_dynamo(network, example)
        except torch.onnx.errors.OnnxExporterError as error:
            model = _export_by_trace(network, example, _COLOURS.sub("", first_line(error.__cause__ or error)))
    _remove_stack_traces(model)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _check_size(network: Network) -> None:
    """Raise ArtifactError where the fp32 weights are too large. The graph is always written in fp32 first."""
    tensors = (*network.parameters(), *network.buffers())  # tied weights count once
    size = sum(4 * tensor.numel() for tensor in tensors if tensor.is_floating_point())
    if size > _MAX_BYTES:
        raise ArtifactError(
            f"{network.spec.name}: its weights take {size / 1e9:.1f} GB in fp32, but an ONNX file holds at most 2 GB, "
            "and every export needs one. Use a smaller network of the family",
            code="onnx.too_large",
        )


def _export_by_dynamo(network: Network, example: torch.Tensor) -> onnx.ModelProto:
    inputs, outputs = _names(network.spec)
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        input_names=inputs,
        output_names=outputs,
        verbose=False,
    )
    if program is None:
        raise ArtifactError(f"{network.spec.name}: torch exported no graph", code="onnx.export")
    return program.model_proto


def _export_by_trace(network: Network, example: torch.Tensor, dynamo_error: str) -> onnx.ModelProto:
    """Export by tracing. dynamo_error: why the other exporter failed, for the message."""
    inputs, outputs = _names(network.spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONNX.file
        try:
            torch.onnx.export(
                network,
                (example,),
                path,
                dynamo=False,
                opset_version=OPSET,
                dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
        except Exception as error:  # the network's code may raise anything
            name = network.spec.architecture.name
            raise ArtifactError(
                f"{network.spec.name}: torch cannot export {name}: {dynamo_error}; nor by a trace: {first_line(error)}",
                code="onnx.export",
            ) from error
        return onnx.load(path)


def _names(spec: ModelSpec) -> tuple[list[str], list[str]]:
    return [spec.input.name], [output.name for output in spec.outputs]


def onnx_interface(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an ONNX file, without the batch axis. Raises ArtifactError, also for a fixed batch."""
    graph = _loaded(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_tensor(value, path) for value in graph.input if value.name not in weights)
    return inputs, tuple(_tensor(value, path) for value in graph.output)


def loaded_graph(path: Path) -> onnx.GraphProto:
    """The graph of an ONNX file, without external weights. Raises ArtifactError."""
    return _loaded(path).graph


def spec_in_onnx(path: Path) -> ModelSpec | None:
    """The spec in the metadata of a graph; None without one. Raises SpecError for an invalid spec."""
    for entry in _loaded(path).metadata_props:
        if entry.key == METADATA_KEY:
            return ModelSpec.from_json(entry.value, origin=str(path))
    return None


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base class
        raise ArtifactError(f"{path}: not a readable ONNX file ({error})", code="onnx.unreadable") from error


def _tensor(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    if not isinstance(value.name, str):  # protobuf returns bytes for invalid UTF-8
        raise ArtifactError(f"{path}: not a readable ONNX file (the name {value.name!r} is not text)", code="onnx.name")
    tensor = value.type.tensor_type
    # A size without a name or a number is dynamic too.
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    if not dims or not isinstance(dims[0], str) or any(isinstance(dim, str) for dim in dims[1:]):
        raise ArtifactError(
            f"{path}: {value.name} is {dims}; expected a dynamic batch axis first, then fixed sizes", code="onnx.dims"
        )
    dtype = _TRITON_TYPES.get(tensor.elem_type)
    if dtype is None or not all(int(dim) > 0 for dim in dims[1:]):
        raise ArtifactError(
            f"{path}: {value.name} has a type or size that no image model has ({dims})", code="onnx.tensor"
        )
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple(map(int, dims[1:])))


def _remove_stack_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata: Python stack traces with paths of this machine."""
    graph = model.graph
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        del item.metadata_props[:]
    del model.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
