"""`builder verify` on graphs that compute in a reduced type although their weights are in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from builder.onnx.precision import onnx_precision, reduced_or_quantized_precision
from builder.onnx.wiring import flattened
from builder.precision.quantize import quantize_graph
from builder.sources import open_source
from builder.sources.images import builtin_golden
from builder.verification.verify import verify_artifact
from tritonkit.export_options import VerificationOptions
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import ModelSpec

Change = Callable[[ModelProto], ModelProto]
HARMLESS, OVERFLOWING = 2.0, 60000.0


def as_it_is(model: ModelProto) -> ModelProto:
    return model


def in_int8(model: ModelProto) -> ModelProto:
    (spec,) = [entry.value for entry in model.metadata_props]
    images = builtin_golden(ModelSpec.from_json(spec, origin="the graph").preprocess).images
    return quantize_graph(flattened(model), images, "onnxruntime")


def with_fp16_detour(model: ModelProto, factor: float, as_function: bool = False) -> ModelProto:
    """Insert a detour after the first product: cast to fp16, multiply by a factor, divide by it, cast back."""
    detour: Sequence[onnx.NodeProto] = [
        helper.make_node("Cast", ["x"], ["low"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["by"], ["low_by"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["low", "low_by"], ["large"]),
        helper.make_node("Div", ["large", "low_by"], ["back"]),
        helper.make_node("Cast", ["back"], ["y"], to=TensorProto.FLOAT),
    ]
    place, first = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type in ("Conv", "Gemm"))
    new_nodes, moved = first.output[0], f"{first.output[0]}__before"
    first.output[0] = moved
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "by"))
    inside = {"x": moved, "y": new_nodes}
    if as_function:
        opset = [entry for entry in model.opset_import if entry.domain == ""]
        model.functions.append(helper.make_function("ours", "Detour", ["x", "by"], ["y"], list(detour), opset))
        model.opset_import.append(helper.make_opsetid("ours", 1))
        detour = [helper.make_node("Detour", [moved, "by"], [new_nodes], domain="ours")]
    for number, node in enumerate(detour):
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
        model.graph.node.insert(place + 1 + number, node)
    del model.graph.value_info[:]
    return model


def verdict_of(graph: Path, change: Change, factor: float, as_function: bool, path: Path) -> Verdict:
    """The verdict of `builder verify` for the graph with a detour, against the original graph."""
    onnx.save(with_fp16_detour(change(onnx.load(graph)), factor, as_function), path)
    return verify_artifact(path, open_source(graph, None, None), 3, VerificationOptions())


@pytest.mark.parametrize(
    ("change", "as_function", "precision"),
    [(as_it_is, False, "fp16"), (as_it_is, True, "fp16"), (in_int8, False, "int8")],
)
def test_verify_simulates_rounding_of_nodes_without_reduced_weights(
    change: Change, as_function: bool, precision: str, graph: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    passed = verdict_of(graph, change, HARMLESS, as_function, path)
    assert (passed.passed, passed.precision) == (True, precision), passed.summary()
    # A source of this kind is verified with its rounding.
    assert (onnx_precision(path), reduced_or_quantized_precision(onnx.load(path))) == (precision, "fp16")
    failed = verdict_of(graph, change, OVERFLOWING, as_function, path)
    assert (failed.passed, failed.precision) == (False, precision)
    assert {problem.code for problem in failed.problems} & {"verdict.nan", "verdict.numbers"}
    plain = OnnxRuntimeRunner(path)
    hidden = plain.infer(builtin_golden(plain.spec.preprocess).images)["probabilities"]
    assert np.isfinite(hidden).all()  # the outputs of ONNX Runtime on a CPU
