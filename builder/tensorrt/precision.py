"""Verify the precision of a plan: the types its layers compute in, not the type that was requested.

On a GPU the engine's inspector lists them. Without a GPU an engine cannot be opened; then two checks replace it: the
types of the strongly typed network it was built from, which TensorRT may not change, and the size of the plan, which
is too small for weights of a wider type.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
    problems = record_problems(plan, claimed, record)
    if file_sha256(graph) != record.graph_sha256:
        problems.append(Problem("verdict.plan", f"{plan.name} was built from another graph than {graph.name}"))
    other_problems = (_share_problem(graph, claimed, record), _size_problem(plan, graph, claimed, record))
    return [*problems, *(problem for problem in other_problems if problem is not None)]


def record_problems(plan: Path, claimed: Precision, record: BuildRecord) -> list[Problem]:
    """Problems that the build record alone shows, without the graph."""
    problems = []
    if file_sha256(plan) != record.sha256:
        problems.append(Problem("verdict.plan", f"{plan.name} is not the plan of its build record: its hash differs"))
    for source, layers in (("the network it was built from", record.computed), ("the engine", record.engine)):
        if (problem := _type_problem(source, layers, claimed)) is not None:
            problems.append(problem)
    return problems


def _type_problem(source: str, layers: Mapping[str, int], claimed: Precision) -> Problem | None:
    if not layers or layers.get(claimed, 0):
        return None
    return Problem(
        "verdict.precision",
        f"expected {claimed}, but no convolution or matrix product of {source} computes in it: {_counts_text(layers)}",
    )


def _share_problem(graph: Path, claimed: Precision, record: BuildRecord) -> Problem | None:
    """The problem of an engine in which far fewer layers have the claimed type than in its network.

    A plan from trtexec has no record of its network; the types of the graph's weights replace it.
    """
    share = _share(record.engine, claimed)
    if not share:  # _type_problem reports it
        return None
    planned = record.computed or _count_matrices(graph)
    if share >= _MIN_SHARE * _share(planned, claimed):
        return None
    return Problem(
        "verdict.precision",
        f"expected {claimed}, but the engine computes {_counts_text(record.engine)}, "
        f"and the network it was built from {_counts_text(planned)}",
    )


def _count_matrices(graph: Path) -> dict[str, int]:
    """The number of a graph's weights with two or more axes, by type."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    matrices = (tensor for tensor in model.graph.initializer if len(tensor.dims) > 1)
    names = (onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in matrices)
    return dict(Counter(kind for name in names if (kind := _parse_type(name)) is not None))


def _share(layers: Mapping[str, int], kind: str) -> float:
    return layers.get(kind, 0) / max(sum(layers.values()), 1)


def _counts_text(layers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in sorted(layers.items()))


def _size_problem(plan: Path, graph: Path, claimed: Precision, record: BuildRecord) -> Problem | None:
    """The problem of a plan that is too large for weights of the claimed precision.

    Small plans are not checked: apart from weights they hold kernels. Version-compatible plans are not checked: they
    hold a TensorRT runtime (NVIDIA, TensorRT's developer guide, "Version Compatibility").
    """
    if record.settings.version_compatible:
        return None
    weights, elements = _expected_weight_size(graph, claimed)
    size = plan.stat().st_size
    # Weights of twice the size must be larger than the rest of the plan.
    if weights < 2 * _OTHER_BYTES or size <= _TOO_LARGE * weights + _OTHER_BYTES:
        return None
    return Problem(
        "verdict.precision",
        f"expected {claimed}, in which {elements} weights take {weights} bytes, but the plan has {size} bytes: "
        f"{size / max(elements, 1):.1f} bytes per weight",
    )


def _expected_weight_size(graph: Path, claimed: Precision) -> tuple[int, int]:
    """Return the bytes that a graph's weights need in the claimed precision, and the number of their elements.

    Weights that the graph keeps in a wider type on purpose count with that type, unless all weights are wider.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    sizes: list[tuple[int, int]] = []
    for tensor in model.graph.initializer:
        count = 1
        for dim in tensor.dims:
            count *= dim
        sizes.append((count, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize))
    narrow = _BYTES_PER_WEIGHT[claimed]
    kept = any(bytes_each <= narrow for _, bytes_each in sizes)
    total = sum(count * (bytes_each if kept else min(bytes_each, narrow)) for count, bytes_each in sizes)
    return total, sum(count for count, _ in sizes)


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
    detailed = [layer for layer in layers if isinstance(layer, dict)]
    computing = [layer for layer in detailed if _computes(layer)] or detailed
    return dict(Counter(kind for layer in computing if (kind := _type_of(layer)) is not None))


def _computes(layer: dict[str, Any]) -> bool:
    kinds = (layer.get("LayerType"), layer.get("ParameterType"))
    return any(isinstance(kind, str) and _COMPUTING.search(kind) for kind in kinds) or "Weights" in layer


def _type_of(layer: dict[str, Any]) -> str | None:
    kinds = {kind for text in _type_names(layer) if (kind := _parse_type(text)) is not None}
    return next((kind for kind in ("int8", "fp8", "fp16", "bf16", "fp32") if kind in kinds), None)


def _type_names(layer: dict[str, Any]) -> Iterator[str]:
    for tensor in layer.get("Inputs", []):
        # TensorRT 11 has the layout in Format too, so DataType is read first.
        name = next((tensor[key] for key in _TYPE_KEYS if isinstance(tensor.get(key), str)), None)
        if name is not None:
            yield name
    weights = layer.get("Weights")
    if isinstance(weights, dict) and isinstance(weights.get("Type"), str):
        yield weights["Type"]


def _parse_type(text: str) -> str | None:
    return next((kind for kind, pattern in _TYPE_PATTERNS if re.search(pattern, text, re.IGNORECASE)), None)
