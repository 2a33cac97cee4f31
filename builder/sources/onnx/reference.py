"""The reference of a reduced ONNX graph: the same graph in fp32, where nothing is rounded.

ONNX Runtime on a CPU would hide a part of the rounding of the original graph, and does not run bf16.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx

from builder.onnx.file import save_onnx
from builder.onnx.precision import reduced_or_quantized_precision
from builder.onnx.simulation import convert_to_fp32
from builder.sources.graph import GraphFunction, Raw
from builder.sources.onnx.graph import onnx_session
from tritonkit.runtimes.formats import ONNX
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import ModelSpec


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
