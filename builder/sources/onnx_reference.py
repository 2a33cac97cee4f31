"""What a reduced ONNX graph is judged against: the same graph in fp32, where nothing is rounded and little overflows.

ONNX Runtime's CPU, asked for the graph as it is, would hide a part of the rounding, and does not run bf16.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx

from builder.precision.simulate import widened
from builder.sources.graph import Ask, Raw
from builder.sources.onnx_file import saved
from builder.sources.onnx_graph import session_of
from builder.sources.onnx_held import held_by
from model.runners.onnxruntime import OnnxRuntimeRunner
from model.spec import ModelSpec


def answering(model: onnx.ModelProto, path: Path, changed: bool = False) -> Ask:
    """A graph's own answers, in fp32 where it is reduced. Raises ArtifactError.

    path: the file it was read from; `changed`, the model is no longer what is in it.
    """
    if held_by(model) not in ("fp16", "bf16"):
        return session_of(model.SerializeToString() if changed else path, str(path))
    with tempfile.TemporaryDirectory() as folder:
        ask = session_of(_widened_file(model, path, Path(folder)), str(path))

    def ask_in_fp32(pixels: Raw) -> Raw:
        return ask(pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels)

    return ask_in_fp32


def runner_of(model: onnx.ModelProto, path: Path, spec: ModelSpec) -> OnnxRuntimeRunner:
    """A runner of a graph in the kit's terms, by the same rule. Raises ArtifactError."""
    if held_by(model) not in ("fp16", "bf16"):
        return OnnxRuntimeRunner(path, spec=spec)
    with tempfile.TemporaryDirectory() as folder:
        runner = OnnxRuntimeRunner(_widened_file(model, path, Path(folder)), spec=spec)
    runner.origin = str(path)
    return runner


def _widened_file(model: onnx.ModelProto, path: Path, folder: Path) -> Path:
    file = folder / "widened.onnx"
    saved(widened(model), file, origin=f"{path}, in fp32")
    return file
