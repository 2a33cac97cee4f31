"""Where a reduced or quantised graph loses: the nodes in which the error grows most, to be kept in fp32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from builder.precision.graph import Wiring, float_tensors
from builder.precision.simulate import simulated
from model.preprocess import ImageArray

_IMAGES = 2
_EPSILON = 1e-4
"""Errors below this count as this one: what takes exact values and loses them itself stands out by it."""

Values = dict[str, NDArray[Any]]


def rank_by_error_growth(flat: ModelProto, wiring: Wiring, lower: ModelProto, images: ImageArray) -> list[str]:
    """The nodes by how much larger the relative error of what they make is than of what they take, the worst first.

    flat: the fp32 graph; lower: the same one with casts, or with QDQ pairs and all its activations; images: uint8
    [N, H, W, 3].
    """
    few, tensors = images[:_IMAGES], float_tensors(flat, wiring)
    expected = _values(flat, tensors, few)
    actual = _values(simulated(lower), tensors, few)
    errors = {name: _error(expected[name], actual[name]) for name in expected if name in actual}
    growth = error_growth(flat, errors)
    return sorted(growth, key=lambda name: -growth[name])


def error_growth(flat: ModelProto, errors: Mapping[str, float]) -> dict[str, float]:
    """By node, the error of what it makes over that of what it takes: infinite where an overflow begins, 0 beyond it.

    errors: by tensor; one that is not in it errs as what it is made of.
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
    """Relative error in the Frobenius norm; infinity where a value is no number."""
    if not np.isfinite(actual).all():
        return float("inf")
    size = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(actual.astype(np.float64) - expected)) / size if size else 0.0
