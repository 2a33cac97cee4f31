"""Someone else's ONNX graph: its image input, and its own answers from ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from builder.options import Layout
from builder.sources.graph import Ask, PixelType, Raw
from model.errors import ArtifactError, InputError

_PIXELS: dict[int, PixelType] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}


@dataclass(frozen=True)
class Interface:
    """An image input as the file declares it; None where a size is open."""

    input: str
    output: str
    dtype: PixelType
    layout: Layout
    batch: int | None
    size: tuple[int | None, int | None]


def given_interface(model: onnx.ModelProto, path: Path, layout: Layout | None) -> Interface:
    """The one image input and the one output of a graph. Raises InputError for any other."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for kind, values in (("input", inputs), ("output", list(model.graph.output))):
        if len(values) != 1:
            raise InputError(
                f"{path}: has {len(values)} {kind}s ({', '.join(value.name for value in values)}); expected one. "
                "Export it with that one alone, or cut it with onnx.utils.extract_model"
            )
    tensor = inputs[0].type.tensor_type
    name, dims = inputs[0].name, [dim.dim_value or None for dim in tensor.shape.dim]
    dtype = _PIXELS.get(tensor.elem_type)
    if dtype is None or len(dims) != 4:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise InputError(
            f"{path}: input {name} is {kind} {_shown(dims)}; expected pixels FLOAT, FLOAT16 or UINT8 as [N, 3, H, W] "
            "or [N, H, W, 3]"
        )
    found = _layout(path, name, dims, layout)
    size = (dims[2], dims[3]) if found == "NCHW" else (dims[1], dims[2])
    return Interface(name, model.graph.output[0].name, dtype, found, dims[0], size)


def session_of(model: Path | bytes, origin: str) -> Ask:
    """Ask a graph with one input and one output. Raises ArtifactError when ONNX Runtime does not take it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would print is in the error
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class
        raise ArtifactError(f"{origin}: ONNX Runtime cannot load it: {error}") from error
    (name,) = [value.name for value in session.get_inputs()]

    def ask(pixels: Raw) -> Raw:
        try:
            answer: Raw = session.run(None, {name: pixels})[0]
        except Exception as error:  # as above
            raise ArtifactError(f"{origin}: failed on a batch of {len(pixels)}: {error}") from error
        return answer

    return ask


def _layout(path: Path, name: str, dims: Sequence[int | None], said: Layout | None) -> Layout:
    possible: list[Layout] = []
    if dims[1] in (3, None):
        possible.append("NCHW")
    if dims[3] in (3, None):
        possible.append("NHWC")
    if 3 in (dims[1], dims[3]) and dims[1] != dims[3]:
        possible = ["NCHW"] if dims[1] == 3 else ["NHWC"]
    if not possible:
        raise InputError(
            f"{path}: input {name} is {_shown(dims)}; expected three colours, [N, 3, H, W] or [N, H, W, 3]"
        )
    if said is not None and said not in possible:
        raise InputError(f"{path}: input {name} is {_shown(dims)}, which is {possible[0]}, not --layout {said}")
    if said is None and len(possible) > 1:
        raise InputError(
            f"{path}: input {name} is {_shown(dims)}: which axis are the colours? Give --layout NCHW or NHWC"
        )
    return said or possible[0]


def _shown(dims: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"
