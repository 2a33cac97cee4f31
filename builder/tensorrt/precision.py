"""Verify the precision of a plan: the types its layers compute in, not the type that was requested.

On a GPU the engine's inspector lists them. Without a GPU an engine cannot be opened; then two checks replace it: the
types of the strongly typed network it was built from, which TensorRT may not change, and the size of the plan, which
is too small for weights of a wider type.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tritonkit.errors import ArtifactError, Problem
from tritonkit.repository.build_record import BuildRecord
from tritonkit.runtimes.formats import Precision
from tritonkit.system.files import file_sha256

_TYPE_PATTERNS = (
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|half|float16"),
    ("fp32", r"fp32|float32|float\b"),
    ("int8", r"int8"),
    ("fp8", r"fp8"),
)
"""The inspector's names of types: TensorRT 10 has `Half` or `Row major linear FP16 format`, 11 `Half` in DataType."""
_NARROWEST_FIRST = ("int8", "fp8", "fp16", "bf16", "fp32")
_COMPUTING = re.compile(r"conv|gemm|matrix|matmul|fullyconnected|attention|mha", re.IGNORECASE)
_TYPE_KEYS = ("DataType", "Format/Datatype", "Format")
_BYTES_PER_WEIGHT: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_TOO_LARGE = 1.5
"""The largest plan size as a multiple of its weights; weights of a wider type give at least 2."""
_MIN_SHARE = 0.5
"""The smallest share of the engine's layers relative to the network's: fused layers count once."""
_OTHER_BYTES = 2 << 20
"""Bytes of a plan that are not weights: layers and kernels."""


def precision_problems(plan: Path, graph: Path, claimed: Precision, record: BuildRecord) -> list[Problem]:
    """Problems that show that a plan is not of the claimed precision.

    graph: the ONNX file the plan was built from. record: the plan's build record.
    """
    import onnx

    problems = record_problems(plan, claimed, record)
    if file_sha256(graph) != record.graph_sha256:
        problems.append(Problem("verdict.plan", f"{plan.name} was built from another graph than {graph.name}"))
    weights = onnx.load(graph, load_external_data=False).graph.initializer
    planned = record.computed
    if not planned:  # a plan from trtexec has no record of its network; the types of the graph's weights replace it
        names = (onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in weights if len(tensor.dims) > 1)
        planned = dict(Counter(kind for name in names if (kind := _parse_type(name)) is not None))
    share = _share(record.engine, claimed)
    if share and share < _MIN_SHARE * _share(planned, claimed):  # a share of 0 is a problem of the record
        problems.append(
            Problem(
                "verdict.precision",
                f"expected {claimed}, but the engine computes {_counts_text(record.engine)}, "
                f"and the network it was built from {_counts_text(planned)}",
            )
        )
    if record.settings.version_compatible:
        return problems  # such a plan holds a TensorRT runtime (NVIDIA's developer guide, "Version Compatibility")
    # Weights that the graph keeps in a wider type on purpose count with that type, unless all weights are wider.
    widths = [onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize for tensor in weights]
    counts = [math.prod(tensor.dims) for tensor in weights]
    elements = sum(counts)
    narrow = _BYTES_PER_WEIGHT[claimed]
    kept = any(width <= narrow for width in widths)
    weight_bytes = sum(n * (width if kept else min(width, narrow)) for n, width in zip(counts, widths, strict=True))
    size = plan.stat().st_size
    # A small plan shows nothing: weights of twice the size must be larger than the rest of the plan.
    if weight_bytes >= 2 * _OTHER_BYTES and size > _TOO_LARGE * weight_bytes + _OTHER_BYTES:
        problems.append(
            Problem(
                "verdict.precision",
                f"expected {claimed}, in which {elements} weights take {weight_bytes} bytes, but the plan has {size} "
                f"bytes: {size / max(elements, 1):.1f} bytes per weight",
            )
        )
    return problems


def record_problems(plan: Path, claimed: Precision, record: BuildRecord) -> list[Problem]:
    """Problems that the build record alone shows, without the graph."""
    problems = []
    if file_sha256(plan) != record.sha256:
        problems.append(Problem("verdict.plan", f"{plan.name} is not the plan of its build record: its hash differs"))
    for source, layers in (("the network it was built from", record.computed), ("the engine", record.engine)):
        if layers and not layers.get(claimed, 0):
            problems.append(
                Problem(
                    "verdict.precision",
                    f"expected {claimed}, but no convolution or matrix product of {source} computes in it: "
                    f"{_counts_text(layers)}",
                )
            )
    return problems


def _share(layers: Mapping[str, int], kind: str) -> float:
    return layers.get(kind, 0) / max(sum(layers.values()), 1)


def _counts_text(layers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in sorted(layers.items()))


def precision_of_engine(information: str) -> dict[str, int]:
    """The number of layers that compute in each type, from the inspector's JSON of TensorRT 10 or 11.

    Counts convolutions and matrix products where the JSON names layer types, else all layers. A layer computes in the
    narrowest type of its inputs and weights. Raises ArtifactError for other JSON.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"the output of the engine's inspector is not understood ({error})", code="tensorrt.inspector"
        ) from error
    found: list[tuple[bool, str | None]] = []
    for layer in layers:
        if not isinstance(layer, dict):
            continue
        weights = layer.get("Weights")
        # TensorRT 11 has the layout in Format too, so DataType is read first.
        names = [
            next((tensor[key] for key in _TYPE_KEYS if isinstance(tensor.get(key), str)), "")
            for tensor in layer.get("Inputs", [])
        ]
        if isinstance(weights, dict):
            names.append(str(weights.get("Type")))
        kinds = {_parse_type(name) for name in names}
        layer_kinds = (layer.get("LayerType"), layer.get("ParameterType"))
        computes = "Weights" in layer or any(isinstance(k, str) and _COMPUTING.search(k) for k in layer_kinds)
        found.append((computes, next((kind for kind in _NARROWEST_FIRST if kind in kinds), None)))
    chosen = [kind for computes, kind in found if computes] or [kind for _, kind in found]
    return dict(Counter(kind for kind in chosen if kind is not None))


def _parse_type(text: str) -> str | None:
    return next((kind for kind, pattern in _TYPE_PATTERNS if re.search(pattern, text, re.IGNORECASE)), None)
