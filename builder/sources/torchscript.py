"""Open a TorchScript file. `tritonkit.runtimes.torchscript_archive` checks that its code only computes."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from builder.onnx.file import read_onnx
from builder.onnx.precision import inline_functions
from builder.sources.foreign_spec import preprocess_of
from builder.sources.graph import GraphFunction, GraphSource, Raw
from builder.sources.onnx.graph import DeclaredInterface
from builder.sources.onnx.source import source_from_graph
from tritonkit.errors import ArtifactError, InputError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.runtimes.formats import ONNX
from tritonkit.runtimes.torchscript_archive import embedded_spec, load_torchscript, torch_reason

_OPSET = 17
_INPUT, _OUTPUT = "input", "output"


def source_from_torchscript(path: Path, foreign: ForeignModelOptions, name: str | None = None) -> GraphSource:
    """Open a TorchScript file.

    Raises ArtifactError where it cannot be loaded or exported, InputError for missing options or forbidden code.
    """
    if embedded_spec(path) is not None:
        raise InputError(f"{path}: was exported by `builder`; pass the checkpoint it came from", code="source.exported")
    module = load_torchscript(path)
    preprocess = preprocess_of(path, (None, None), foreign)
    shape = (preprocess.height, preprocess.width)
    layout = foreign.layout or "NCHW"
    example = torch.zeros(2, *((3, *shape) if layout == "NCHW" else (*shape, 3)))
    run = _module_function(module, str(path))
    try:
        run(example.numpy())
    except ArtifactError:
        example = example[:1]  # traced for a single image
        run(example.numpy())
    interface = DeclaredInterface(_INPUT, _OUTPUT, "float32", layout, None if len(example) > 1 else 1, shape)
    model = _export_onnx(module, example, path)
    return source_from_graph(path, model, interface, run, foreign, name, note="TorchScript")


def _module_function(module: Any, origin: str) -> GraphFunction:
    def run(pixels: Raw) -> Raw:
        try:
            with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
                answer = module(torch.from_numpy(pixels))
        except Exception as error:  # torch's errors share no base class
            raise ArtifactError(
                f"{origin}: failed on a batch of {len(pixels)}: {torch_reason(error)}", code="torchscript.run_failed"
            ) from error
        if isinstance(answer, tuple | list) and len(answer) == 1:
            answer = answer[0]
        if not isinstance(answer, torch.Tensor):
            kind = f"{len(answer)} outputs" if isinstance(answer, tuple | list | dict) else type(answer).__name__
            raise ArtifactError(
                f"{origin}: returns {kind}; expected one tensor. Script or trace it with that tensor alone",
                code="torchscript.output_count",
            )
        try:
            values: Raw = answer.numpy()
        except (TypeError, RuntimeError) as error:
            raise ArtifactError(
                f"{origin}: returns {answer.dtype}, which numpy does not support ({torch_reason(error)}); make it "
                "return float32",
                code="torchscript.output_type",
            ) from error
        return values

    return run


def _export_onnx(module: Any, example: torch.Tensor, path: Path) -> onnx.ModelProto:
    """Export with torch's older exporter, the only one for modules without Python code."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        graph = Path(folder) / ONNX.file
        try:
            torch.onnx.export(
                module,
                (example,),
                graph,
                dynamo=False,
                opset_version=_OPSET,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                dynamic_axes={_INPUT: {0: "batch"}, _OUTPUT: {0: "batch"}} if len(example) > 1 else None,
            )
        except Exception as error:  # torch's errors share no base class
            raise ArtifactError(
                f"{path}: torch cannot convert this TorchScript file to ONNX: {torch_reason(error)}. Pass the "
                "checkpoint, or an ONNX file exported with the model's own code",
                code="torchscript.not_exportable",
            ) from error
        return inline_functions(read_onnx(graph), path)
