"""Proof of a plan's precision: in what its layers compute, not what it was asked to be.

On a GPU the engine's own inspector tells. Without one an engine cannot be opened; then two things stand for it: the
types of the strongly typed network it was built from, which TensorRT may not change, and its size, which weights of
twice the bytes do not fit into.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from builder.targets import Precision
from model.build_record import BuildRecord
from model.errors import ArtifactError, Problem
from model.files import sha256_of
from model.plans import logger_for

_SPOKEN = (
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|half|float16"),
    ("fp32", r"fp32|float32|float\b"),
    ("int8", r"int8"),
    ("fp8", r"fp8"),
)
"""How the inspector speaks of types: 10 says `Half` or `Row major linear FP16 format`, 11 `Half` under DataType."""
_COMPUTING = re.compile(r"conv|gemm|matrix|matmul|fullyconnected|attention|mha", re.IGNORECASE)
_TYPE_KEYS = ("DataType", "Format/Datatype", "Format")
_BYTES_PER_WEIGHT: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_TOO_LARGE = 1.5
"""Between the weights once and the weights twice."""
_LEAST_SHARE = 0.5
"""Of the share of the network's layers: layers that are merged count once, and the inspector tells of some others."""
_BESIDE_WEIGHTS = 2 << 20
"""Bytes of a plan that are no weights: the layers, and where hardly any weights are, kernels."""


def precision_problems(plan: Path, graph: Path, claimed: Precision, record: BuildRecord) -> list[Problem]:
    """What speaks against a plan being of the claimed precision.

    graph: the ONNX file it is said to be made from. record: that of the plan's build.
    """
    problems = record_problems(plan, claimed, record)
    if sha256_of(graph) != record.graph_sha256:
        problems.append(Problem(code="plan", message=f"{plan.name} was built from another graph than {graph.name}"))
    if (changed := _share_problem(graph, claimed, record)) is not None:
        problems.append(changed)
    if (too_large := _size_problem(plan, graph, claimed, record)) is not None:
        problems.append(too_large)
    return problems


def record_problems(plan: Path, claimed: Precision, record: BuildRecord) -> list[Problem]:
    """The same without the graph: what the record of the plan's build alone says against it."""
    problems = []
    if sha256_of(plan) != record.sha256:
        problems.append(Problem(code="plan", message=f"{plan.name} is not the plan that the record of its build names"))
    said = (("the network it was built from", record.computed), ("the engine", record.engine))
    problems += [one for where, layers in said if (one := _type_problem(where, layers, claimed)) is not None]
    return problems


def _type_problem(where: str, layers: Mapping[str, int], claimed: Precision) -> Problem | None:
    if not layers or layers.get(claimed, 0):
        return None
    return Problem(
        code="precision",
        message=f"said to be {claimed}, but no convolution or matrix product of {where} computes in it: "
        f"{_counted(layers)}",
    )


def _share_problem(graph: Path, claimed: Precision, record: BuildRecord) -> Problem | None:
    """An engine whose few layers of the claimed type are a remainder, where most of its network is of it.

    What trtexec built has no record of its network; there the graph's weights tell.
    """
    found = _share(record.engine, claimed)
    if not found:  # which is told otherwise
        return None
    planned = record.computed or _matrices_of(graph)
    if found >= _LEAST_SHARE * _share(planned, claimed):
        return None
    return Problem(
        code="precision",
        message=(
            f"said to be {claimed}, but the engine computes {_counted(record.engine)}, "
            f"where the network it was built from has {_counted(planned)}"
        ),
    )


def _matrices_of(graph: Path) -> dict[str, int]:
    """How many weights of a graph that have two axes or more are of each type."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    kinds = (onnx.TensorProto.DataType.Name(one.data_type) for one in model.graph.initializer if len(one.dims) > 1)
    return dict(Counter(kind for name in kinds if (kind := _spoken(name)) is not None))


def _share(layers: Mapping[str, int], kind: str) -> float:
    return layers.get(kind, 0) / max(sum(layers.values()), 1)


def _counted(layers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in sorted(layers.items()))


def _size_problem(plan: Path, graph: Path, claimed: Precision, record: BuildRecord) -> Problem | None:
    """TensorRT for RTX keeps weights as they are; others also keep kernels, so that small plans prove nothing.

    Nor does the size of a version-compatible plan, which carries a runtime of TensorRT's own, larger than many a
    network (NVIDIA, TensorRT's developer guide, "Version Compatibility").
    """
    if record.settings.version_compatible:
        return None
    weights, elements = _weights_of(graph, claimed)
    size = plan.stat().st_size
    # Doubled weights must stand out of what else a plan holds.
    if weights < 2 * _BESIDE_WEIGHTS or size <= _TOO_LARGE * weights + _BESIDE_WEIGHTS:
        return None
    return Problem(
        code="precision",
        message=(
            f"said to be {claimed}, but the plan has {size} bytes, where {elements} weights take {weights} bytes so: "
            f"{size / max(elements, 1):.1f} bytes a weight"
        ),
    )


def _weights_of(graph: Path, claimed: Precision) -> tuple[int, int]:
    """Bytes that a graph's weights take where those meant for it are of the claimed precision, and their number.

    A weight the graph keeps in a wider type on purpose takes what it takes there, unless it keeps all so.
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


def engine_information(trt: ModuleType, plan: bytes, version_compatible: bool = False) -> str:
    """What the inspector of an engine tells of all layers, as JSON; the plan must have been built DETAILED.

    version_compatible: the plan was built so, and carries code of its own to load it.
    Raises ArtifactError when the engine cannot be opened here.
    """
    logged: list[str] = []
    runtime = trt.Runtime(logger_for(trt, logged))
    if version_compatible:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ArtifactError(f"the plan was built, but cannot be opened on this GPU: {'; '.join(logged)}")
    text: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return text


def precision_of_engine(information: str) -> dict[str, int]:
    """How many layers of an engine compute in each type, from its inspector's JSON (of TensorRT 10 and of 11).

    Convolutions and matrix products where the layers say what they are, else all that hold numbers. A layer computes
    in the narrowest type among its inputs and weights. Raises ArtifactError for anything else.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"what the engine's inspector tells is not understood ({error})") from error
    detailed = [layer for layer in layers if isinstance(layer, dict)]
    computing = [layer for layer in detailed if _computes(layer)] or detailed
    return dict(Counter(kind for layer in computing if (kind := _type_of(layer)) is not None))


def _computes(layer: dict[str, Any]) -> bool:
    kinds = (layer.get("LayerType"), layer.get("ParameterType"))
    return any(isinstance(kind, str) and _COMPUTING.search(kind) for kind in kinds) or "Weights" in layer


def _type_of(layer: dict[str, Any]) -> str | None:
    found = {kind for text in _types_told(layer) if (kind := _spoken(text)) is not None}
    return next((kind for kind in ("int8", "fp8", "fp16", "bf16", "fp32") if kind in found), None)


def _types_told(layer: dict[str, Any]) -> Iterator[str]:
    for tensor in layer.get("Inputs", []):
        # 11 tells the layout under Format as well, so the plain type comes first.
        told = next((tensor[key] for key in _TYPE_KEYS if isinstance(tensor.get(key), str)), None)
        if told is not None:
            yield told
    weights = layer.get("Weights")
    if isinstance(weights, dict) and isinstance(weights.get("Type"), str):
        yield weights["Type"]


def _spoken(text: str) -> str | None:
    return next((kind for kind, pattern in _SPOKEN if re.search(pattern, text, re.IGNORECASE)), None)
