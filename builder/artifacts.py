"""Inspect an artifact: read its spec, interface and precision without the library that runs it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from pkgutil import resolve_name
from typing import get_args
from xml.etree import ElementTree

import onnx

from builder.interface import Interface, interface_of
from builder.onnx.interface import onnx_interface, spec_in_model, spec_in_onnx
from builder.onnx.precision import onnx_precision
from tritonkit.errors import ArtifactError, first_line
from tritonkit.repository.build_record import BuildRecord
from tritonkit.runtimes.formats import format_of, known_formats
from tritonkit.runtimes.indexed_items import read_embedder
from tritonkit.runtimes.tensorrt_plan import PlanHeader, plan_header
from tritonkit.spec import METADATA_KEY, DType, Frozen, ModelSpec, TensorSpec

_OPENVINO_TYPES = {"U8": "UINT8", "I8": "INT8", "I16": "INT16", "I32": "INT32", "I64": "INT64", "BOOLEAN": "BOOL"}
_OPENVINO_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


class ArtifactInfo(Frozen):
    """What a file says about itself; None where its format does not store it."""

    spec: ModelSpec | None = None
    interface: Interface | None = None
    precision: str | None = None
    header: PlanHeader | None = None


def inspect_artifact(path: Path) -> ArtifactInfo:
    """Read an artifact. Raises ArtifactError for a damaged file, or a format that is not known."""
    artifact_format = format_of(path)
    if artifact_format is None:
        known = ", ".join(known.suffix for known in known_formats())
        raise ArtifactError(f"{path}: not an artifact; expected one of {known}", code="artifact.unknown_format")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", code="artifact.missing")
    if artifact_format.inspector is None:
        return ArtifactInfo()
    info: ArtifactInfo = resolve_name(artifact_format.inspector)(path)
    return info


def inspect_onnx(path: Path) -> ArtifactInfo:
    """Read an ONNX graph."""
    return ArtifactInfo(spec=spec_in_onnx(path), interface=onnx_interface(path), precision=onnx_precision(path))


def inspect_openvino(path: Path) -> ArtifactInfo:
    """Read an OpenVINO file. Format: docs.openvino.ai, "OpenVINO IR format"; tested with 2026.4."""
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - expat expands no external entities
    except (OSError, ElementTree.ParseError) as error:
        raise ArtifactError(f"{path}: not a readable OpenVINO file ({error})", code="openvino.unreadable") from error
    entries = {entry.tag: entry for entry in root.iterfind("rt_info/")}
    text = entries[METADATA_KEY].get("value") if METADATA_KEY in entries else None
    hint = root.find("rt_info/runtime_options/INFERENCE_PRECISION_HINT")
    spec = ModelSpec.from_json(text, origin=str(path)) if text else None
    preferred_names = {output.name for output in spec.outputs} if spec else set()
    inputs, outputs = [], []
    for layer in root.iterfind("layers/layer"):
        if layer.get("type") == "Parameter":
            port = layer.find("output/port")
            inputs.append(_openvino_tensor(port, "" if port is None else port.get("names", ""), preferred_names))
        elif layer.get("type") == "Result":
            outputs.append(_openvino_tensor(layer.find("input/port"), layer.get("output_names", ""), preferred_names))
    return ArtifactInfo(
        spec=spec,
        interface=(tuple(filter(None, inputs)), tuple(filter(None, outputs))) if all([*inputs, *outputs]) else None,
        precision=None if hint is None else _OPENVINO_PRECISIONS.get(hint.get("value", "")),
    )


def _openvino_tensor(
    port: ElementTree.Element | None, names: str, preferred_names: Collection[str]
) -> TensorSpec | None:
    """A tensor with a dynamic batch axis and fixed sizes; None for any other tensor.

    names: all names of the tensor, separated by commas. preferred_names: chosen where the tensor has one of them.
    """
    if port is None or not names:
        return None
    dtype = port.get("precision", "")
    dtype = _OPENVINO_TYPES.get(dtype, dtype)
    batch, *sizes = [dim.text or "" for dim in port.iterfind("dim")] or [""]
    if batch != "-1" or not all(size.isdecimal() and int(size) for size in sizes) or dtype not in get_args(DType):
        return None
    name = next((alias for alias in names.split(",") if alias in preferred_names), names.split(",")[0])
    return TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": list(map(int, sizes))})


def inspect_torchscript(path: Path) -> ArtifactInfo:
    """Read a TorchScript archive. It contains no shapes, so the interface is that of its spec."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next((name for name in archive.namelist() if name.endswith(f"/extra/{METADATA_KEY}")), None)
            text = archive.read(entry).decode() if entry else None
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path}: not a readable TorchScript archive ({error})", code="torchscript.unreadable"
        ) from error
    spec = ModelSpec.from_json(text, origin=str(path)) if text else None
    return ArtifactInfo(spec=spec, interface=interface_of(spec) if spec else None)


def inspect_faiss(path: Path) -> ArtifactInfo:
    """Read the spec of a search model. FAISS is not loaded."""
    content = read_embedder(path)
    try:
        graph = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's errors share no base class
        raise ArtifactError(
            f"{path}: its embedder is no ONNX graph ({first_line(error)})", code="onnx.unreadable"
        ) from error
    spec = spec_in_model(graph, str(path))
    return ArtifactInfo(spec=spec, interface=interface_of(spec) if spec else None, precision="fp32")


def inspect_plan(path: Path) -> ArtifactInfo:
    """Read the header of a plan or engine, and the build record next to it."""
    record = BuildRecord.read(path.parent)
    interface = (record.inputs, record.outputs) if record and record.inputs else None
    return ArtifactInfo(header=plan_header(path), interface=interface)
