"""The interface and the spec of an ONNX file. Loads without torch."""

from __future__ import annotations

from pathlib import Path

import onnx

from builder.onnx.file import load_without_weights
from tritonkit.errors import ArtifactError
from tritonkit.spec import METADATA_KEY, DType, ModelSpec, TensorSpec

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


def onnx_interface(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an ONNX file, without the batch axis. Raises ArtifactError, also for a fixed batch."""
    graph = load_without_weights(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_tensor(value, path) for value in graph.input if value.name not in weights)
    return inputs, tuple(_tensor(value, path) for value in graph.output)


def spec_in_onnx(path: Path) -> ModelSpec | None:
    """The spec in the metadata of a graph; None without one. Raises SpecError for an invalid spec."""
    return spec_in_model(load_without_weights(path), str(path))


def spec_in_model(model: onnx.ModelProto, origin: str) -> ModelSpec | None:
    """The spec in the metadata of a graph in memory; None without one. Raises SpecError for an invalid spec."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return ModelSpec.from_json(entry.value, origin=origin)
    return None


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
