"""Inspect a third-party ONNX graph and run it with ONNX Runtime.

A graph in fp16 or bf16 runs in fp32, where nothing is rounded: ONNX Runtime on a CPU would hide a part of the rounding
of the original graph, and does not run bf16.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from builder.onnx.file import save_onnx
from builder.onnx.precision import reduced_or_quantized_precision
from builder.onnx.simulation import convert_to_fp32
from builder.sources.graph import GraphFunction, GraphSignature, PixelType, Raw
from tritonkit.errors import ArtifactError, InputError
from tritonkit.export_options import Layout
from tritonkit.runtimes.formats import ONNX
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import ModelSpec

_PIXELS: dict[int, PixelType] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}


def with_output(model: onnx.ModelProto, path: Path, name: str) -> onnx.ModelProto:
    """Return the part of a graph that computes one of its outputs. Raises InputError for an unknown name."""
    names = [value.name for value in model.graph.output]
    if name not in names:
        raise InputError(f"{path}: has no output {name!r}; it has {', '.join(names)}", code="onnx.output_name")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    return onnx.utils.Extractor(model).extract_model(inputs, [name])


def image_interface(model: onnx.ModelProto, path: Path, layout: Layout | None) -> GraphSignature:
    """Read the image input and the output of a graph. Raises InputError where it has others."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for kind, values in (("input", inputs), ("output", list(model.graph.output))):
        if len(values) != 1:
            raise InputError(
                f"{path}: has {len(values)} {kind}s ({', '.join(value.name for value in values)}); expected one. "
                + ("Choose one with --graph-output NAME" if kind == "output" else "Export it with that one alone"),
                code="onnx.tensor_count",
            )
    tensor = inputs[0].type.tensor_type
    name, dims = inputs[0].name, [dim.dim_value or None for dim in tensor.shape.dim]
    dtype = _PIXELS.get(tensor.elem_type)
    if dtype is None or len(dims) != 4:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise InputError(
            f"{path}: input {name} is {kind} {_shape_text(dims)}; expected FLOAT, FLOAT16 or UINT8 pixels as "
            "[N, 3, H, W] or [N, H, W, 3]",
            code="onnx.image_input",
        )
    chosen = _layout(path, name, dims, layout)
    size = (dims[2], dims[3]) if chosen == "NCHW" else (dims[1], dims[2])
    return GraphSignature(name, model.graph.output[0].name, dtype, chosen, dims[0], size)


def onnx_session(model: Path | bytes, origin: str) -> GraphFunction:
    """Create a function that runs a graph with one input. Raises ArtifactError where ONNX Runtime refuses the graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the error holds the message
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class
        raise ArtifactError(f"{origin}: ONNX Runtime cannot load it: {error}", code="onnx.not_loadable") from error
    (name,) = [value.name for value in session.get_inputs()]

    def run(pixels: Raw) -> Raw:
        try:
            answer: Raw = session.run(None, {name: pixels})[0]
        except Exception as error:  # as above
            raise ArtifactError(
                f"{origin}: failed on a batch of {len(pixels)}: {error}", code="onnx.run_failed"
            ) from error
        return answer

    return run


def graph_function(model: onnx.ModelProto, path: Path, changed: bool = False) -> GraphFunction:
    """Create a function that runs a graph, in fp32 where it is reduced. Raises ArtifactError.

    path: the file the model was read from. changed: the model differs from the file.
    """
    if reduced_or_quantized_precision(model) not in ("fp16", "bf16"):
        return onnx_session(model.SerializeToString() if changed else path, str(path))
    with tempfile.TemporaryDirectory() as folder:
        run = onnx_session(_widened_file(model, path, Path(folder)), str(path))

    def run_in_fp32(pixels: Raw) -> Raw:
        return run(pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels)

    return run_in_fp32


def reference_runner(model: onnx.ModelProto, path: Path, spec: ModelSpec) -> OnnxRuntimeRunner:
    """Create a runner of a tritonkit graph, in fp32 where it is reduced. Raises ArtifactError."""
    if reduced_or_quantized_precision(model) not in ("fp16", "bf16"):
        return OnnxRuntimeRunner(path, spec=spec)
    with tempfile.TemporaryDirectory() as folder:
        runner = OnnxRuntimeRunner(_widened_file(model, path, Path(folder)), spec=spec)
    runner.origin = str(path)
    return runner


def _widened_file(model: onnx.ModelProto, path: Path, folder: Path) -> Path:
    file = folder / ONNX.file
    save_onnx(convert_to_fp32(model), file, origin=f"{path}, in fp32")
    return file


def _layout(path: Path, name: str, dims: Sequence[int | None], requested: Layout | None) -> Layout:
    axes: dict[Layout, int] = {"NCHW": 1, "NHWC": 3}
    # A size of 3 says more than an unknown one.
    known, unknown = ([layout for layout, axis in axes.items() if dims[axis] == size] for size in (3, None))
    possible = known or unknown
    if not possible:
        raise InputError(
            f"{path}: input {name} is {_shape_text(dims)}; expected three channels, [N, 3, H, W] or [N, H, W, 3]",
            code="onnx.image_input",
        )
    if requested is not None and requested not in possible:
        raise InputError(
            f"{path}: input {name} is {_shape_text(dims)}, which is {possible[0]}, not --layout {requested}",
            code="option.layout",
        )
    if requested is None and len(possible) > 1:
        raise InputError(
            f"{path}: input {name} is {_shape_text(dims)}: which axis has the channels? Set --layout NCHW or NHWC",
            code="option.layout_missing",
        )
    return requested or possible[0]


def _shape_text(dims: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"
