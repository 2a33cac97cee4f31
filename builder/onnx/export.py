"""Export a network to ONNX."""

from __future__ import annotations

import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from builder.onnx.file import MAX_BYTES
from tritonkit.errors import ArtifactError, first_line
from tritonkit.networks.network import Network, on_cpu
from tritonkit.runtimes.formats import ONNX
from tritonkit.spec import METADATA_KEY
from tritonkit.system.standard_streams import quiet_loggers

OPSET = 20
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def onnx_from_network(network: Network, path: Path) -> None:
    """Write the network as an fp32 graph with a dynamic batch axis and the spec in its metadata.

    torch's dynamo exporter is used first; its tracing exporter for the few networks that dynamo cannot export (MaxViT).
    Raises ArtifactError where both fail, or where the weights are too large for one file.
    """
    spec = network.spec
    tensors = (*network.parameters(), *network.buffers())  # tied weights count once
    size = sum(4 * tensor.numel() for tensor in tensors if tensor.is_floating_point())
    if size > MAX_BYTES:
        raise ArtifactError(
            f"{spec.name}: its weights take {size / 1e9:.1f} GB in fp32, but an ONNX file holds at most 2 GB, "
            "and every export needs one. Use a smaller network of the family",
            code="onnx.too_large",
        )
    # With an example batch of one the exporter would treat the batch axis as a constant.
    example = torch.zeros(2, *spec.input.shape, dtype=torch.uint8)
    outputs = [output.name for output in spec.outputs]
    settings = {"opset_version": OPSET, "input_names": [spec.input.name], "output_names": outputs, "verbose": False}
    with quiet_loggers("torch.onnx"), warnings.catch_warnings(action="ignore"), on_cpu(network):
        model = _exported(network, example, settings)
    # The exporter's metadata is stack traces with paths of this machine.
    graph = model.graph
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph, model):
        del item.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _exported(network: Network, example: torch.Tensor, settings: dict[str, Any]) -> onnx.ModelProto:
    """Export by dynamo, else by a trace."""
    name = network.spec.name
    try:
        shapes = {"image": {0: torch.export.Dim("batch")}}
        program = torch.onnx.export(network, (example,), dynamo=True, dynamic_shapes=shapes, **settings)
    except torch.onnx.errors.OnnxExporterError as error:
        dynamo_error = _COLOURS.sub("", first_line(error.__cause__ or error))
    else:
        if program is None:
            raise ArtifactError(f"{name}: torch exported no graph", code="onnx.export")
        return program.model_proto
    axes = {tensor: {0: "batch"} for tensor in (*settings["input_names"], *settings["output_names"])}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONNX.file
        try:
            torch.onnx.export(network, (example,), path, dynamo=False, dynamic_axes=axes, **settings)
        except Exception as error:  # the network's code may raise anything
            raise ArtifactError(
                f"{name}: torch cannot export {network.spec.architecture.name}: {dynamo_error}; nor by a trace: "
                f"{first_line(error)}",
                code="onnx.export",
            ) from error
        return onnx.load(path)
