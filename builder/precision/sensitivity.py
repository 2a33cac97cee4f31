"""Find the nodes of a reduced or quantised graph where the error grows most, so that they can stay in fp32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from builder.onnx.simulation import simulate_rounding
from builder.onnx.wiring import Wiring, float_tensors
from tritonkit.images.preprocess import ImageArray

_IMAGES = 2
_EPSILON = 1e-4
"""Smaller input errors count as this one, so a node with exact inputs and inexact outputs ranks high."""

Values = dict[str, NDArray[Any]]


def rank_by_error_growth(flat: ModelProto, wiring: Wiring, lower: ModelProto, images: ImageArray) -> list[str]:
    """Rank the nodes by the ratio of output error to input error, largest first. Errors are relative.

    flat: the fp32 graph; lower: the same graph with casts, or with QDQ pairs and all its activations; images: uint8
    [N, H, W, 3].
    """
    few, tensors = images[:_IMAGES], float_tensors(flat, wiring)
    expected = _values(flat, tensors, few)
    actual = _values(simulate_rounding(lower), tensors, few)
    errors = {name: _error(expected[name], actual[name]) for name in expected if name in actual}
    growth = error_growth(flat, errors)
    return sorted(growth, key=lambda name: -growth[name])


def error_growth(flat: ModelProto, errors: Mapping[str, float]) -> dict[str, float]:
    """The ratio of output error to input error by node: infinite where an overflow begins, 0 after it.

    errors: by tensor; a tensor that is missing has the error of its node's inputs.
    """
    known, growth = dict(errors), {}
    for node in flat.graph.node:
        input_error = max((known.get(name, 0.0) for name in node.input), default=0.0)
        for name in node.output:
            known.setdefault(name, input_error)
        output_error = max((known[name] for name in node.output), default=0.0)
        growth[node.name] = 0.0 if math.isinf(input_error) else output_error / max(input_error, _EPSILON)
    return growth


def _values(model: ModelProto, tensors: list[str], images: ImageArray) -> Values:
    watched = ModelProto()
    watched.CopyFrom(model)
    produced = {name for node in watched.graph.node for name in node.output}
    outputs = {value.name for value in watched.graph.output}
    observed = [name for name in tensors if name in produced]
    watched.graph.output.extend(ValueInfoProto(name=name) for name in observed if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(observed, session.run(observed, {watched.graph.input[0].name: images}), strict=True))


def _error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """The relative error in the Frobenius norm; infinity where a value is NaN or infinite."""
    if not np.isfinite(actual).all():
        return float("inf")
    size = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(actual.astype(np.float64) - expected)) / size if size else 0.0
