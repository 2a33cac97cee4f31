"""ONNX from a network, and what an ONNX file says of itself."""

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

from model.errors import ArtifactError, first_line
from model.network import Network, on_cpu
from model.spec import METADATA_KEY, DType, ModelSpec, TensorSpec

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
"""What protobuf can hold in one message."""


def onnx_from_network(network: Network, path: Path) -> None:
    """Write the network as an fp32 graph with a dynamic batch axis, the spec in its metadata.

    By torch's exporter of today, or, for the few networks that it cannot take apart (MaxViT), by the one that traces.
    Raises ArtifactError when neither can, or when the weights are more than one file can hold.
    """
    spec = network.spec
    _check_size(network)
    # An example batch of one would make the exporter take the batch axis for a constant.
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
    """Raise ArtifactError before any work: the graph is written in fp32 first, whatever it is reduced to."""
    held = (*network.parameters(), *network.buffers())  # tied weights count once
    size = sum(4 * tensor.numel() for tensor in held if tensor.is_floating_point())
    if size > _MAX_BYTES:
        raise ArtifactError(
            f"{network.spec.name}: its weights take {size / 1e9:.1f} GB in fp32, and one ONNX file holds 2 GB; every "
            "export goes through one. Take a smaller network of the family"
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
        raise ArtifactError(f"{network.spec.name}: torch exported nothing")
    return program.model_proto


def _export_by_trace(network: Network, example: torch.Tensor, before: str) -> onnx.ModelProto:
    """Export by tracing; `before` says why the other exporter could not."""
    inputs, outputs = _names(network.spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
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
        except Exception as error:  # it fails wherever the network's code takes it
            name = network.spec.architecture.name
            reason = f"torch cannot export {name}: {before}; nor by a trace: {first_line(error)}"
            raise ArtifactError(f"{network.spec.name}: {reason}") from error
        return onnx.load(path)


def _names(spec: ModelSpec) -> tuple[list[str], list[str]]:
    return [spec.input.name], [output.name for output in spec.outputs]


def onnx_interface(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an ONNX file, without their batch axis. Raises ArtifactError, also for a fixed batch."""
    graph = _loaded(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_tensor(value, path) for value in graph.input if value.name not in weights)
    return inputs, tuple(_tensor(value, path) for value in graph.output)


def loaded_graph(path: Path) -> onnx.GraphProto:
    """The graph of an ONNX file, without weights that lie beside it. Raises ArtifactError."""
    return _loaded(path).graph


def spec_in_onnx(path: Path) -> ModelSpec | None:
    """The spec a graph carries, None without one. Raises SpecError for a broken one."""
    for entry in _loaded(path).metadata_props:
        if entry.key == METADATA_KEY:
            return ModelSpec.from_json(entry.value, origin=str(path))
    return None


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors share no base class with OSError
        raise ArtifactError(f"{path}: not a readable ONNX file ({error})") from error


def _tensor(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    if not isinstance(value.name, str):  # protobuf gives bytes that are no UTF-8 as they are
        raise ArtifactError(f"{path}: not a readable ONNX file (the name {value.name!r} is no text)")
    tensor = value.type.tensor_type
    # A size that is neither named nor a number is free too.
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    if not dims or not isinstance(dims[0], str) or any(isinstance(dim, str) for dim in dims[1:]):
        raise ArtifactError(f"{path}: {value.name} is {dims}; expected a dynamic batch axis first, then fixed sizes")
    dtype = _TRITON_TYPES.get(tensor.elem_type)
    if dtype is None or not all(int(dim) > 0 for dim in dims[1:]):
        raise ArtifactError(f"{path}: {value.name} has a type or size that no image model has ({dims})")
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple(map(int, dims[1:])))


def _remove_stack_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: Python stack traces with the paths of this machine."""
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
