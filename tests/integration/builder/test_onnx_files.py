"""Third-party ONNX files that are damaged, refer to files outside their folder, or do not fit the options."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.transformers import float16
from onnxruntime.transformers.onnx_model import OnnxModel
from torch import nn

from builder.onnx.simulation import simulated_runner
from builder.pipeline import export
from builder.request import ExportRequest
from builder.sources import Source, open_source
from builder.sources.images import builtin_golden
from builder.verification.context import verification_context
from tests.errors import raises
from tritonkit.errors import ArtifactError, InputError, TritonkitError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.runtimes.formats import Precision
from tritonkit.system.cpu import adds_int8_exactly


@pytest.fixture(scope="module")
def graph(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small classifier, exported to ONNX by torch alone."""
    path = tmp_path_factory.mktemp("given") / "given.onnx"
    axes = {"input": {0: "N"}, "output": {0: "N"}}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            net,
            (torch.zeros(2, 3, 32, 32),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=axes,
        )
    return path.read_bytes()


@pytest.fixture
def onnx_path(graph: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "given.onnx"
    path.write_bytes(graph)
    return path


def open_graph(path: Path, labels: Path) -> Source:
    return open_source(path, ForeignModelOptions(labels=labels), None)


@pytest.mark.parametrize(
    ("dims", "layout", "code"),
    [
        (["N", 3, 8, 3], None, "option.layout_missing"),
        (["N", 3, 8, 8], "NHWC", "option.layout"),
        (["N", 1, 8, 8], None, "onnx.image_input"),
        (["N", 8], None, "onnx.image_input"),
    ],
)
def test_input_is_refused_when_it_is_no_image_or_ambiguous(
    dims: list[str | int], layout: str | None, code: str, tmp_path: Path
) -> None:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    node = helper.make_node("Flatten", ["x"], ["y"])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])
    model = helper.make_model(helper.make_graph([node], "g", [image], [answer]), ir_version=8)
    onnx.save(model, tmp_path / "x.onnx")
    with raises(InputError, code):
        open_source(tmp_path / "x.onnx", ForeignModelOptions(layout=layout), None)  # type: ignore[arg-type]


def test_one_of_several_outputs_is_taken_by_its_name(graph: bytes, labels: Path, tmp_path: Path) -> None:
    model = onnx.load_from_string(graph)
    whole = tmp_path / "whole.onnx"
    onnx.save(model, whole)
    model.graph.node.append(helper.make_node("Neg", ["output"], ["opposite"]))
    model.graph.output.append(helper.make_tensor_value_info("opposite", TensorProto.FLOAT, ["N", 3]))
    path = tmp_path / "two.onnx"
    onnx.save(model, path)
    with raises(InputError, "onnx.tensor_count", "--graph-output"):
        open_graph(path, labels)
    with raises(InputError, "onnx.output_name", "output, opposite"):
        open_source(path, ForeignModelOptions(labels=labels, graph_output="third"), None)
    chosen = open_source(path, ForeignModelOptions(labels=labels, graph_output="output"), None)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = open_graph(whole, labels).reference.infer(images)
    np.testing.assert_array_equal(chosen.reference.infer(images)["probabilities"], expected["probabilities"])


@pytest.mark.parametrize(
    ("foreign", "part", "code"),
    [
        (ForeignModelOptions(), "--labels FILE", "option.labels_missing"),
        (ForeignModelOptions(task="segmentation"), "[labels, 32, 32]", "onnx.output_shape"),
        (ForeignModelOptions(size=(8, 8)), "height 32", "option.size_of_graph"),
        (ForeignModelOptions(task="embedding", activation="softmax"), "leave out --activation", None),
    ],
)
def test_onnx_is_refused_when_the_options_do_not_fit(
    foreign: ForeignModelOptions, part: str, code: str | None, onnx_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        open_source(onnx_path, foreign, None)
    assert part in str(caught.value)
    assert code in (None, caught.value.code)


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "..\\secret", "linked.bin", ""])
def test_external_data_outside_the_folder_is_not_opened(
    location: str, onnx_path: Path, labels: Path, tmp_path: Path
) -> None:
    (tmp_path / "linked.bin").symlink_to("/etc/passwd")
    model = onnx.load(onnx_path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    onnx_path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError) as caught:
        open_graph(onnx_path, labels)
    assert caught.value.code in ("onnx.weights_outside", "onnx.no_weights")


def test_external_data_next_to_the_model_is_read(onnx_path: Path, labels: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(onnx_path), onnx_path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    result = export(ExportRequest(source=open_graph(onnx_path, labels), repository=tmp_path / "repository"))
    assert not list(result.artifact.parent.glob("*.bin"))
    (tmp_path / "weights.bin").unlink()
    with raises(ArtifactError, "onnx.no_weights"):
        open_graph(onnx_path, labels)


def test_external_data_is_read_from_the_folder_of_a_symbolic_link(
    onnx_path: Path, labels: Path, tmp_path: Path
) -> None:
    runs, latest = tmp_path / "runs", tmp_path / "latest.onnx"
    runs.mkdir()
    onnx.save(onnx.load(onnx_path), runs / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    latest.symlink_to(runs / "model.onnx")
    with raises(ArtifactError, "onnx.no_weights"):
        open_graph(latest, labels)
    (tmp_path / "w.bin").symlink_to(runs / "w.bin")  # as in the cache of a hub
    with raises(ArtifactError, "onnx.weights_outside"):
        open_graph(latest, labels)


def test_truncated_onnx_is_refused(graph: bytes, labels: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(graph[: len(graph) // 2])
    with raises(ArtifactError, "onnx.unreadable"):
        open_graph(damaged, labels)


def test_onnx_with_a_flipped_bit_is_refused_or_fails_its_verdict(
    graph: bytes, onnx_path: Path, labels: Path, tmp_path: Path
) -> None:
    damaged, rng = tmp_path / "damaged.onnx", random.Random(0)
    original = open_graph(onnx_path, labels)
    context = verification_context(original, builtin_golden(original.spec.preprocess), max_batch=2)
    images = context.golden.images
    expected = original.reference.infer(images)["probabilities"]
    refusals: list[str] = []
    for _ in range(30):
        place = rng.randrange(min(len(graph), 4000))
        damaged.write_bytes(graph[:place] + bytes([graph[place] ^ 1 << rng.randrange(8)]) + graph[place + 1 :])
        try:
            source = open_graph(damaged, labels)
        except TritonkitError as error:
            refusals.append(str(error))
            continue
        verdict = context.verify_answers(source.reference, "fp32")
        answers = source.reference.infer(images)["probabilities"]
        assert verdict.passed == bool(np.abs(answers - expected).max() < 1e-4), verdict.summary()
    assert all(text.startswith(f"{damaged}: ") for text in refusals)
    assert 0 < len(refusals) < 30


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """Two batches of noise to calibrate on."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._batches = iter([{"input": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(2)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def test_quantised_graph_is_published_unchanged(onnx_path: Path, labels: Path, tmp_path: Path) -> None:
    quantize_static(onnx_path, tmp_path / "quantised.onnx", Noise(), quant_format=QuantFormat.QDQ)
    source = open_graph(tmp_path / "quantised.onnx", labels)
    assert export(ExportRequest(source=source, repository=tmp_path / "repository")).verdict.passed
    with raises(InputError, "onnx.already_reduced"):
        source.check_precision("fp16")
    source.check_precision("int8")


def test_quantised_graph_is_verified_as_int8_for_openvino(onnx_path: Path, labels: Path, tmp_path: Path) -> None:
    quantize_static(onnx_path, tmp_path / "quantised.onnx", Noise(), quant_format=QuantFormat.QDQ)
    source = open_graph(tmp_path / "quantised.onnx", labels)
    request = ExportRequest(source=source, repository=tmp_path / "repository", max_batch=2, openvino="fp32")
    verdict = export(request).verdict
    assert (verdict.precision, verdict.exact_int8) == ("int8", adds_int8_exactly())


def reduced(onnx_path: Path, to: int, keep_io: bool) -> Path:
    """The graph with all its weights in fp16, or bf16."""
    with warnings.catch_warnings(action="ignore"):
        converted = OnnxModel(float16.convert_float_to_float16(onnx.load(onnx_path), keep_io_types=keep_io))
        converted.topological_sort()
    model = converted.model
    if to == TensorProto.BFLOAT16:
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16:
                values = numpy_helper.to_array(tensor).astype(np.float32).astype(ml_dtypes.bfloat16)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
        del model.graph.value_info[:]
    path = onnx_path.with_name("reduced.onnx")
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("to", "precision", "keep_io"),
    [
        (TensorProto.FLOAT16, "fp16", True),
        (TensorProto.FLOAT16, "fp16", False),
        (TensorProto.BFLOAT16, "bf16", True),
    ],
)
def test_reference_of_a_reduced_graph_is_in_fp32(
    to: int, precision: Precision, keep_io: bool, onnx_path: Path, labels: Path
) -> None:
    original = open_graph(onnx_path, labels)
    source = open_graph(reduced(onnx_path, to, keep_io), labels)
    assert (original.precision, source.precision) == ("fp32", precision)
    assert f"{precision} compared with the same graph in fp32" in source.description
    for allowed in ("fp32", precision):
        source.check_precision(allowed)
    with raises(InputError, "onnx.already_reduced"):
        source.check_precision("int8")
    context = verification_context(original, builtin_golden(original.spec.preprocess), max_batch=2)
    assert context.verify_answers(source.reference, precision).passed


def test_bf16_graph_is_published_for_onnx_only_with_the_tensorrt_accelerator(
    onnx_path: Path, labels: Path, tmp_path: Path
) -> None:
    source = open_graph(reduced(onnx_path, TensorProto.BFLOAT16, keep_io=True), labels)
    request = ExportRequest(source=source, repository=tmp_path / "repository", max_batch=2)
    with raises(InputError, "onnx.bf16_kernels", "reduced.onnx", "--accelerator tensorrt"):
        export(request)
    accelerated = request.model_copy(update={"accelerator": ("tensorrt",)})
    assert export(accelerated).verdict.precision == "bf16"


@pytest.mark.parametrize("keep_io", [True, False])
def test_third_party_fp16_graph_fails_its_simulation_when_it_overflows(
    keep_io: bool, labels: Path, tmp_path: Path
) -> None:
    graph = reduced(overflowing(tmp_path / "given.onnx"), TensorProto.FLOAT16, keep_io)
    source = open_graph(graph, labels)
    source.write_graph(tmp_path / "written.onnx")
    context = verification_context(source, builtin_golden(source.spec.preprocess), max_batch=2)
    with simulated_runner(tmp_path / "written.onnx", source.spec, tmp_path) as runner:
        verdict = context.verify(runner, "fp16", tmp_path / "written.onnx")
    assert "NaN" in verdict.summary()
    assert not verdict.passed


def overflowing(path: Path) -> Path:
    """A graph with intermediate values above 65504, the limit of fp16."""
    nodes = [
        helper.make_node("Mul", ["input", "large"], ["larger"]),
        helper.make_node("Mul", ["larger", "large"], ["largest"]),
        helper.make_node("Div", ["largest", "large"], ["smaller"]),
        helper.make_node("Div", ["smaller", "large"], ["as_before"]),
        helper.make_node("GlobalAveragePool", ["as_before"], ["means"]),
        helper.make_node("Flatten", ["means"], ["output"]),
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8])
    answer = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 3])
    large = numpy_helper.from_array(np.array(1000, dtype=np.float32), "large")
    graph = helper.make_graph(nodes, "g", [image], [answer], [large])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_graph_with_fp16_control_flow_is_refused(labels: Path, tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 192])
    inner = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["low"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["low"], ["z"], to=TensorProto.FLOAT),
        ],
        "branch",
        [],
        [inner],
    )
    node = helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch)
    always = numpy_helper.from_array(np.array(True), "always")
    graph = helper.make_graph([node], "g", [image], [answer], [always])
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "x.onnx")
    with raises(InputError, "onnx.reduced_control_flow"):
        open_graph(tmp_path / "x.onnx", labels)
