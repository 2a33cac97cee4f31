"""Measure how large the values of a graph get on real images of varied contrast, and find the nodes above a bound."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from builder.onnx.wiring import Wiring, float_tensors
from tritonkit.images.preprocess import ImageArray

MAX_IMAGES = 6
"""Of the golden images; each is used in several contrasts."""
Ranges = dict[str, float]
"""By tensor, the largest magnitude; infinity where a value was NaN or infinite."""


def vary_contrast(images: ImageArray) -> ImageArray:
    """Up to 6 of the images, unchanged, at three times the contrast and as negatives, then a black and a white image.

    images: uint8 [N, H, W, 3]. Production images have contrasts that a sample does not contain.
    """
    few = images[np.linspace(0, len(images) - 1, min(len(images), MAX_IMAGES)).round().astype(int)]
    harsh = np.clip((few.astype(np.float32) - 128) * 3 + 128, 0, 255).astype(np.uint8)
    blank = np.zeros_like(few[:1])
    return np.concatenate([few, harsh, 255 - few, blank, 255 - blank])


def measure_ranges(flat: ModelProto, wiring: Wiring, images: ImageArray) -> Ranges:
    """Run the fp32 graph on uint8 images [N, H, W, 3]; returns the largest magnitude of each tensor and weight."""
    tensors = float_tensors(flat, wiring)
    session = _session(_with_maxima(flat, tensors).SerializeToString())
    name = flat.graph.input[0].name
    outputs = [f"{tensor}__max" for tensor in tensors]
    maxima: NDArray[np.float64] = np.zeros(len(tensors))
    for image in images:  # one at a time: all tensors stay in memory until a run ends, and larger batches are no faster
        values = np.array(session.run(outputs, {name: image[None]}), dtype=np.float64)
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


def _with_maxima(flat: ModelProto, tensors: list[str]) -> ModelProto:
    model = ModelProto()
    model.CopyFrom(flat)
    graph = model.graph
    for tensor in tensors:
        graph.node.append(helper.make_node("Abs", [tensor], [f"{tensor}__abs"]))
        graph.node.append(helper.make_node("ReduceMax", [f"{tensor}__abs"], [f"{tensor}__max"], keepdims=0))
        graph.output.append(ValueInfoProto(name=f"{tensor}__max"))
    return model


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Every tensor is an output here, so more optimisation is no faster, and it copies all weights to a second layout.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
