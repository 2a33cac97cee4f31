"""A TorchScript file. Its code runs where it only computes; `model.torchscript` sees to that."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from builder.options import ForeignModelOptions
from builder.sources.graph import Ask, GraphSource, Raw
from builder.sources.onnx import source_from_graph
from builder.sources.onnx_file import read_onnx
from builder.sources.onnx_graph import Interface
from builder.sources.onnx_held import inlined
from builder.sources.told import preprocess_of
from model.errors import ArtifactError, InputError
from model.torchscript import carried_spec, load_torchscript, torch_reason

_OPSET = 17
_INPUT, _OUTPUT = "input", "output"


def source_from_torchscript(path: Path, foreign: ForeignModelOptions, name: str | None = None) -> GraphSource:
    """Open a TorchScript file.

    Raises ArtifactError when it cannot be loaded or exported, InputError for what it does not say, or may do.
    """
    if carried_spec(path) is not None:
        raise InputError(f"{path}: was exported by `builder`; give the checkpoint it came from")
    module = load_torchscript(path)
    preprocess = preprocess_of(path, (None, None), foreign)
    shape = (preprocess.height, preprocess.width)
    layout = foreign.layout or "NCHW"
    example = torch.zeros(2, *((3, *shape) if layout == "NCHW" else (*shape, 3)))
    ask = _answering(module, str(path))
    try:
        ask(example.numpy())
    except ArtifactError:
        example = example[:1]  # traced for one picture
        ask(example.numpy())
    interface = Interface(_INPUT, _OUTPUT, "float32", layout, None if len(example) > 1 else 1, shape)
    model = _exported(module, example, path)
    return source_from_graph(path, model, interface, ask, foreign, name, note="TorchScript")


def _answering(module: Any, origin: str) -> Ask:
    def ask(pixels: Raw) -> Raw:
        try:
            with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
                answer = module(torch.from_numpy(pixels))
        except Exception as error:  # torch's errors share no base class
            raise ArtifactError(f"{origin}: failed on a batch of {len(pixels)}: {torch_reason(error)}") from error
        if isinstance(answer, tuple | list) and len(answer) == 1:
            answer = answer[0]
        if not isinstance(answer, torch.Tensor):
            kind = f"{len(answer)} outputs" if isinstance(answer, tuple | list | dict) else type(answer).__name__
            raise ArtifactError(f"{origin}: gives {kind}; expected one tensor. Script or trace it with that one alone")
        try:
            values: Raw = answer.numpy()
        except (TypeError, RuntimeError) as error:
            reason = f"gives {answer.dtype}, which numpy does not take ({torch_reason(error)}); have it give float32"
            raise ArtifactError(f"{origin}: {reason}") from error
        return values

    return ask


def _exported(module: Any, example: torch.Tensor, path: Path) -> onnx.ModelProto:
    """By torch's older exporter, which is the one that takes modules without their Python code."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        graph = Path(folder) / "model.onnx"
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
                f"{path}: torch cannot turn this TorchScript file into ONNX: {torch_reason(error)}. Give the "
                "checkpoint, or an ONNX file exported where the model's code is"
            ) from error
        return inlined(read_onnx(graph), path)
