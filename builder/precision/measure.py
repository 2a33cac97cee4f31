"""Measure a graph on real images: how large its values get, and where the error of a reduced precision grows."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from builder.onnx.simulation import simulate_rounding
from builder.onnx.wiring import Wiring, float_tensors
from tritonkit.images.preprocess import ImageArray

_RANGE_IMAGES = 6
"""Of the golden images; each is used in several contrasts."""
_ERROR_IMAGES = 2
_EPSILON = 1e-4
"""Smaller input errors count as this one, so a node with exact inputs and inexact outputs ranks high."""


def vary_contrast(images: ImageArray) -> ImageArray:
    """Up to 6 of the images, unchanged, at three times the contrast and as negatives, then a black and a white image.

    images: uint8 [N, H, W, 3]. Production images have contrasts that a sample does not contain.
    """
    few = images[np.linspace(0, len(images) - 1, min(len(images), _RANGE_IMAGES)).round().astype(int)]
    harsh = np.clip((few.astype(np.float32) - 128) * 3 + 128, 0, 255).astype(np.uint8)
    blank = np.zeros_like(few[:1])
    return np.concatenate([few, harsh, 255 - few, blank, 255 - blank])


def measure_ranges(flat: ModelProto, wiring: Wiring, images: ImageArray) -> dict[str, float]:
    """Run the fp32 graph on uint8 images [N, H, W, 3]; returns the largest magnitude of each tensor and weight.

    It is infinity where a value was NaN or infinite.
    """
    tensors = float_tensors(flat, wiring)
    model = copy.deepcopy(flat)
    for tensor in tensors:
        model.graph.node.append(helper.make_node("Abs", [tensor], [f"{tensor}__abs"]))
        model.graph.node.append(helper.make_node("ReduceMax", [f"{tensor}__abs"], [f"{tensor}__max"], keepdims=0))
    # All tensors are read, so more optimisation is no faster, and it copies all weights to a second layout.
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = _session(model, [f"{tensor}__max" for tensor in tensors], level)
    maxima: NDArray[np.float64] = np.zeros(len(tensors))
    for image in images:  # one at a time: all tensors stay in memory until a run ends, and larger batches are no faster
        values = session.run([f"{tensor}__max" for tensor in tensors], {flat.graph.input[0].name: image[None]})
        maxima = np.maximum(maxima, np.where(np.isfinite(values), values, np.inf))
    weights = {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
        for tensor in flat.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    return weights | dict(zip(tensors, maxima.tolist(), strict=True))


def nodes_above(flat: ModelProto, ranges: Mapping[str, float], bound: float) -> list[str]:
    """The nodes with an input, weight or output of this magnitude or more, in the order of the graph."""
    return [
        node.name
        for node in flat.graph.node
        if any(ranges.get(name, 0) >= bound for name in (*node.input, *node.output))
    ]


def rank_by_error_growth(flat: ModelProto, wiring: Wiring, lower: ModelProto, images: ImageArray) -> list[str]:
    """Rank the nodes by the ratio of output error to input error, largest first, so that the first can stay in fp32.

    flat: the fp32 graph; lower: the same graph with casts, or with QDQ pairs and all its activations; images: uint8
    [N, H, W, 3]. The errors are relative, in the Frobenius norm; infinity where a value is NaN or infinite.
    """
    rounded = simulate_rounding(lower)
    produced = {name for node in rounded.graph.node for name in node.output}
    tensors = [name for name in float_tensors(flat, wiring) if name in produced]
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    feed = {flat.graph.input[0].name: images[:_ERROR_IMAGES]}
    expected, actual = (_session(model, tensors, level).run(tensors, feed) for model in (flat, rounded))
    errors = {}
    for name, right, wrong in zip(tensors, expected, actual, strict=True):
        size = float(np.linalg.norm(right.astype(np.float64)))
        if not np.isfinite(wrong).all():
            errors[name] = math.inf
        else:
            errors[name] = float(np.linalg.norm(wrong.astype(np.float64) - right)) / size if size else 0.0
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


def _session(model: ModelProto, tensors: Sequence[str], level: object) -> onnxruntime.InferenceSession:
    """A session in which all these tensors can be read. level: how far ONNX Runtime optimises the graph."""
    watched = copy.deepcopy(model)
    outputs = {value.name for value in watched.graph.output}
    watched.graph.output.extend(ValueInfoProto(name=name) for name in tensors if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
