"""Quantise a graph to int8 by QDQ nodes, calibrated on real images, in the dialect of its runtime.

ONNX Runtime's CPU kernels are fastest with U8 activations and S8 weights; TensorRT's parser takes only symmetric S8
and no quantised bias. So each runtime needs its own artifact.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from builder.onnx.wiring import HEAVY_OPERATORS, Wiring, outer_nodes, wiring_of
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.formats import ONNX, Dialect
from tritonkit.system.standard_streams import quiet_loggers

Method = Literal["minmax", "percentile"]

_METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
_DIALECTS: dict[Dialect, dict[str, Any]] = {
    "onnxruntime": {"activation_type": QuantType.QUInt8, "extra_options": {}},
    "tensorrt": {
        "activation_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    },
}
_PRODUCT_OPERATORS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_OPERATORS_BETWEEN = ["Add", "MaxPool", "GlobalAveragePool", "Relu", "Concat"]
"""Operators between convolutions. Quantised too, so that ONNX Runtime stays in int8 between convolutions."""


def quantize_graph(
    flat: ModelProto,
    images: ImageArray,
    dialect: Dialect,
    method: Method = "minmax",
    keep: Collection[str] = (),
    every_activation: bool = False,
) -> ModelProto:
    """Quantise a graph with QDQ pairs, weights by channel; `keep` and the outer nodes stay in fp32.

    flat: an fp32 graph whose nodes have names; images: uint8 [N, H, W, 3], to calibrate activations on;
    every_activation: keep a Relu that unsigned rounding makes redundant, so that all tensors can be read.
    """
    excluded = sorted(outer_nodes(flat, wiring_of(flat)) | set(keep))
    settings = _DIALECTS[dialect]
    # The calibrator prints, and the quantiser advises to preprocess the graph, which was done already.
    with tempfile.TemporaryDirectory() as folder, quiet_loggers(""), redirect_stdout(io.StringIO()):
        source, target = (Path(folder) / f"{name}{ONNX.suffix}" for name in ("fp32", "int8"))
        onnx.save(flat, source)
        quantize_static(
            source,
            target,
            _Images(flat.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=quantized_operators(flat, dialect),
            nodes_to_exclude=excluded,
            per_channel=True,
            activation_type=settings["activation_type"],
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[method],
            extra_options={
                **settings["extra_options"],
                # For both methods: read one image at a time; otherwise the activations of all stay in memory.
                "CalibStridedMinMax": 1,
                "QDQKeepRemovableActivations": every_activation,
            },
        )
        model = onnx.load(target)
    del model.metadata_props[:]
    model.metadata_props.extend(flat.metadata_props)
    return model


def quantized_operators(flat: ModelProto, dialect: Dialect) -> list[str]:
    """The operators to quantise in a graph, by dialect."""
    # TensorRT fuses the operators around products itself. A transformer's residual stream needs more than eight bits.
    if dialect == "tensorrt" or any(node.op_type in ("MatMul", "LayerNormalization") for node in flat.graph.node):
        return _PRODUCT_OPERATORS
    return _PRODUCT_OPERATORS + _OPERATORS_BETWEEN


def int8_nodes(model: ModelProto, operators: Collection[str]) -> list[str]:
    """The nodes of these operators whose two factors are dequantised tensors; runtimes compute them in int8.

    The factors are an activation and a weight, or two activations. A bias may stay in fp32.
    """
    dequantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in operators and all(name in dequantised for name in node.input[:2])
    ]


def activation_products(flat: ModelProto, wiring: Wiring) -> list[str]:
    """The matrix products without a weight, such as the scores of attention.

    A softmax follows and amplifies small differences, so int8 costs more here than the error of the product shows.
    """
    return [
        node.name
        for node in flat.graph.node
        if node.op_type == "MatMul" and all(name in wiring.producer for name in node.input)
    ]


def with_adjacent_nodes(flat: ModelProto, wiring: Wiring, nodes: Sequence[str], low: Collection[str]) -> list[str]:
    """The nodes, with those of `low` that produce or share their inputs: a tensor is rounded for all its consumers.

    flat: the fp32 graph; low: the int8 nodes. The result is in the order of the graph.
    """
    by_name = {node.name: node for node in flat.graph.node}
    kept, pending, visited = set(nodes), [t for name in nodes for t in by_name[name].input], set[str]()
    while pending:
        tensor = pending.pop()
        if tensor in visited or tensor not in wiring.producer:
            continue
        visited.add(tensor)
        producer = wiring.producer[tensor]
        around = [producer, *wiring.consumers.get(tensor, [])]
        kept.update(node.name for node in around if node.name in low)
        # A node of one activation that is not heavy only clips, moves or scales it, as Relu and pools do.
        if producer.op_type not in HEAVY_OPERATORS and sum(name in wiring.producer for name in producer.input) == 1:
            pending += producer.input
    return [node.name for node in flat.graph.node if node.name in kept]


class _Images(CalibrationDataReader):  # type: ignore[misc] # onnxruntime carries no types
    """Gives one image at a time, because the calibrator keeps all data between two calls of `set_range`."""

    def __init__(self, name: str, images: ImageArray) -> None:
        self._name, self._images = name, images
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        places = range(start_index, end_index)
        self._batches = ({self._name: self._images[place : place + 1]} for place in places)

    def get_next(self) -> dict[str, ImageArray] | None:
        return next(self._batches, None)
