"""Reduced precision: the conversion of a graph, its simulation, and the fallbacks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from pydantic import ValidationError
from torch import nn

from benchmarks.studies.calibration import calibrate
from builder.onnx.export import onnx_from_network
from builder.onnx.precision import onnx_precision
from builder.onnx.simulation import simulate_rounding, simulated_runner
from builder.onnx.wiring import flattened, outer_nodes, wiring_of
from builder.pipeline import export
from builder.precision.cast import cast_graph
from builder.precision.measure import measure_ranges, nodes_above, vary_contrast
from builder.precision.precision_search import match_nodes
from builder.precision.quantize import quantize_graph
from builder.request import ExportRequest
from builder.sources.base import NetworkSource
from builder.sources.images import builtin_golden
from builder.verification.context import verification_context
from tests.errors import raises
from tests.fixture_types import MakeNetwork, NetworkOf
from tests.task_specs import TASK_SPECS
from tritonkit.errors import CheckFailedError, InputError
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import Network
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.runtimes.pytorch import TorchRunner

MAX_BATCH = 4


@pytest.fixture(scope="module")
def images(make_network: MakeNetwork) -> ImageArray:
    return builtin_golden(make_network("test_resnet").spec.preprocess).images


def source_of(network: Network, path: Path) -> NetworkSource:
    return NetworkSource(path, None, "a test", network)


def published_in(network: Network, precision: str, folder: Path, **request: object) -> Verdict:
    """Export an ONNX graph of this precision and return its verdict."""
    path = folder / "source"
    path.write_bytes(b"")
    options = {"repository": folder / "repository", "max_batch": MAX_BATCH, "onnx": precision, **request}
    return export(ExportRequest(source=source_of(network, path), **options)).verdict


def plain_verdict(network: Network, folder: Path) -> Verdict:
    """The verdict of a conversion that keeps no nodes in fp32."""
    onnx_from_network(network, folder / "fp32.onnx")
    onnx.save(cast_graph(onnx.load(folder / "fp32.onnx"), "fp16"), folder / "plain.onnx")
    context = verification_context(source_of(network, folder), builtin_golden(network.spec.preprocess), MAX_BATCH)
    runner = simulated_runner(folder / "plain.onnx", network.spec, folder)
    return context.verify(runner, "fp16", folder / "plain.onnx", causes=False)


def of_operators(shapes: Sequence[int], *nodes: onnx.NodeProto, weights: dict[str, float]) -> ModelProto:
    """A graph x -> y of fp32 operators with scalar weights."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shapes)) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.full(list(shapes), v, np.float32), n) for n, v in weights.items()]
    graph = helper.make_graph(list(nodes), "operators", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: ModelProto, value: float) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.full((2, 2), value, np.float32)})[0][0, 0])


def test_simulation_overflows_where_hardware_would_and_plain_onnxruntime_does_not() -> None:
    """3000 x 300 is more than fp16 holds; ONNX Runtime on a CPU computes it in fp32 and hides that."""
    model = of_operators(
        (2, 2),
        helper.make_node("MatMul", ["x", "one"], ["a"]),
        helper.make_node("Mul", ["a", "large"], ["b"]),
        helper.make_node("Div", ["b", "large"], ["c"]),
        helper.make_node("MatMul", ["c", "one"], ["y"]),
        weights={"one": 0.5, "large": 300.0},
    )
    low = cast_graph(model, "fp16")
    assert run(low, 3000.0) == pytest.approx(3000.0)
    assert run(simulate_rounding(low), 3000.0) == float("inf")


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
def test_simulation_errs_as_much_as_torch_does_in_the_same_type(
    make_network: MakeNetwork, tmp_path: Path, precision: str, dtype: torch.dtype, architecture: str
) -> None:
    network = make_network(architecture)
    images = builtin_golden(network.spec.preprocess).images
    onnx_from_network(network, tmp_path / "model.onnx")
    low = cast_graph(onnx.load(tmp_path / "model.onnx"), precision)  # type: ignore[arg-type]
    onnx.save(low, tmp_path / "low.onnx")
    right = TorchRunner(network, "x").infer(images)["probabilities"]
    simulated = simulated_runner(tmp_path / "low.onnx", network.spec, tmp_path).infer(images)["probabilities"]
    half = copy.deepcopy(network)
    half.backbone.to(dtype)
    with torch.inference_mode():
        pixels = (torch.from_numpy(images).float().permute(0, 3, 1, 2) - half.mean) / half.std
        torch_half = half.backbone(pixels.to(dtype)).float().softmax(1).numpy()
    assert 0 < np.abs(simulated - right).mean() < 3 * np.abs(torch_half - right).mean()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_reduced_graph_keeps_its_interface_and_is_well_typed(graph: Path, precision: str) -> None:
    before = onnx.load(graph)
    low = cast_graph(before, precision)  # type: ignore[arg-type]
    onnx.checker.check_model(low, full_check=True)
    assert low.graph.input == before.graph.input
    assert low.graph.output == before.graph.output
    assert low.metadata_props == before.metadata_props
    low_type = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    kinds = {tensor.data_type for tensor in low.graph.initializer if len(tensor.dims) == 4 and tensor.dims[0] > 3}
    assert kinds == {low_type}


def test_kept_and_outer_nodes_have_fp32_inputs_and_outputs(graph: Path) -> None:
    flat = flattened(onnx.load(graph))
    kept_node = [node.name for node in flat.graph.node if node.op_type == "Conv"][2]
    low = cast_graph(flat, "fp16", [kept_node])
    types = wiring_of(low).types
    fp32 = {*outer_nodes(flat, wiring_of(flat)), kept_node}
    for node in low.graph.node:
        if node.name in fp32:
            assert TensorProto.FLOAT16 not in {types.get(name) for name in (*node.input, *node.output)}, node.name


def test_outer_nodes_are_before_the_first_product_and_after_the_last(graph: Path) -> None:
    flat = flattened(onnx.load(graph))
    operators = {node.op_type for node in flat.graph.node if node.name in outer_nodes(flat, wiring_of(flat))}
    assert {"Cast", "Transpose", "Sub", "Div", "Softmax"} <= operators
    assert not operators & {"Conv", "Relu", "Gemm", "GlobalAveragePool"}


def test_nodes_above_a_bound_are_found(graph: Path, images: ImageArray) -> None:
    flat = flattened(onnx.load(graph))
    ranges = measure_ranges(flat, wiring_of(flat), vary_contrast(images))
    assert nodes_above(flat, ranges, 250.0)
    assert not nodes_above(flat, ranges, 1e6)
    assert len(vary_contrast(images)) > 2 * len(images[:8])


def scaled(network: Network, factor: float) -> Network:
    """A network with the same outputs, whose intermediate values are `factor` times as large.

    In a transformer the residual stream grows, and the norms that follow divide it again; in a residual network a
    stage's output grows and the next stage's weights shrink.
    """
    large = copy.deepcopy(network)
    body = large.backbone
    with torch.no_grad():
        if hasattr(body, "blocks"):
            _scale_stream(body, factor)
        else:
            _scale_stage(body, factor)
    return large


def _scale_stream(body: nn.Module, factor: float) -> None:
    written = [body.patch_embed.proj, *(part for b in body.blocks for part in (b.attn.proj, b.mlp.fc2))]  # type: ignore
    for layer in written:
        layer.weight.mul_(factor)
        if layer.bias is not None:
            layer.bias.mul_(factor)
    for name in ("pos_embed", "cls_token", "reg_token"):
        if getattr(body, name, None) is not None:
            getattr(body, name).mul_(factor)


def _scale_stage(body: nn.Module, factor: float) -> None:
    for block in body.layer2:  # type: ignore[union-attr]
        last = block.bn3 if hasattr(block, "bn3") else block.bn2
        for norm in [last, *(m for m in (block.downsample or ()) if isinstance(m, nn.BatchNorm2d))]:
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)
    for block in list(body.layer2)[1:]:  # type: ignore[arg-type]
        block.conv1.weight.div_(factor)
    first = body.layer3[0]  # type: ignore[index]
    first.conv1.weight.div_(factor)
    for module in first.downsample:
        if isinstance(module, nn.Conv2d):
            module.weight.div_(factor)


@pytest.mark.parametrize(("architecture", "factor"), [("test_vit", 2e5), ("test_resnet", 2e4)])
def test_fallback_keeps_the_overflowing_nodes_in_fp32(
    make_network: MakeNetwork, tmp_path: Path, architecture: str, factor: float
) -> None:
    trained_like = copy.deepcopy(make_network(architecture))
    network = scaled(calibrate(trained_like, builtin_golden(trained_like.spec.preprocess).images), factor)
    plain = plain_verdict(network, tmp_path)
    assert not plain.passed
    assert {problem.code for problem in plain.problems} & {"verdict.nan", "verdict.numbers", "verdict.decisions"}
    verdict = published_in(network, "fp16", tmp_path)
    assert verdict.passed
    assert (verdict.precision, verdict.asked) == ("fp16", None)
    last = verdict.tries[-1]
    assert last.passed
    assert last.kept
    assert last.nodes > 0
    names = {node.name for node in flattened(onnx.load(tmp_path / "fp32.onnx")).graph.node}
    assert set(last.kept) <= names


def test_published_fp16_graph_holds_fp16_weights_and_loads(network: Network, tmp_path: Path) -> None:
    verdict = published_in(network, "fp16", tmp_path)
    assert verdict.proven_by == "a simulation that rounds to fp16 where hardware would"
    artifact = tmp_path / "repository/pets/1/model.onnx"
    types = [tensor.data_type for tensor in onnx.load(artifact).graph.initializer if len(tensor.dims) == 4]
    assert types.count(TensorProto.FLOAT16) > len(types) / 2
    images = builtin_golden(network.spec.preprocess).images
    served = OnnxRuntimeRunner(artifact).infer(images)["probabilities"]
    assert np.abs(served - TorchRunner(network, "x").infer(images)["probabilities"]).max() < 0.01


def test_fallback_ends_in_fp32_when_no_lower_precision_passes(network: Network, tmp_path: Path) -> None:
    verdict = published_in(network, "fp16", tmp_path, limit=["fp16.relative=1e-9"])
    assert (verdict.passed, verdict.precision, verdict.asked) == (True, "fp32", "fp16")
    assert [attempt.precision for attempt in verdict.tries] == ["fp32", *["fp16"] * 4, "fp32"]
    assert all(attempt.seconds > 0 for attempt in verdict.tries)


def test_failing_precision_is_refused_without_fallback(network: Network, tmp_path: Path) -> None:
    with raises(CheckFailedError, "verdict.failed") as caught:
        published_in(network, "fp16", tmp_path, limit=["fp16.relative=1e-9"], repair=False)
    assert {problem.code.removeprefix("verdict.") for problem in caught.value.problems} == {"numbers"}
    assert not (tmp_path / "repository" / "pets").exists()
    forced = published_in(network, "fp16", tmp_path, limit=["fp16.relative=1e-9"], repair=False, force=True)
    assert (forced.passed, forced.forced, forced.precision) == (False, True, "fp16")


def test_broken_graph_is_refused_when_fp32_fails_too(network: Network, tmp_path: Path) -> None:
    class Spoiled(NetworkSource):
        def write_graph(self, path: Path) -> None:
            onnx_from_network(self.module.with_normalize(self.module.spec.normalize), path)
            model = onnx.load(path)
            tensor = next(t for t in model.graph.initializer if t.name.endswith("fc.weight"))
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
            onnx.save(model, path)

    (tmp_path / "source").write_bytes(b"")
    source = Spoiled(tmp_path / "source", None, "a test", network)
    request = ExportRequest(source=source, repository=tmp_path / "repository", max_batch=MAX_BATCH, onnx="fp16")
    with raises(CheckFailedError, "verdict.failed", "backbone.fc.weight") as caught:
        export(request)
    assert caught.value.problems[0].code == "verdict.weight_zero"


def test_small_fault_is_not_hidden_by_the_limits_of_fp16(network: Network, tmp_path: Path) -> None:
    """A wrong mean by a few levels is within the limits of fp16."""
    mean = tuple(value + 0.005 for value in network.spec.normalize.mean)

    class OffByALittle(NetworkSource):
        def write_graph(self, path: Path) -> None:
            shifted = self.module.spec.normalize.model_copy(update={"mean": mean})
            onnx_from_network(self.module.with_normalize(shifted), path)

    (tmp_path / "source").write_bytes(b"")
    source = OffByALittle(tmp_path / "source", None, "a test", network)
    request = ExportRequest(source=source, repository=tmp_path / "repository", max_batch=MAX_BATCH, onnx="fp16")
    with pytest.raises(CheckFailedError) as caught:
        export(request)
    assert caught.value.code == "verdict.failed"
    assert caught.value.problems[0].code == "verdict.normalization"
    assert "mean" in caught.value.problems[0].message
    assert [attempt.precision for attempt in caught.value.document.tries] == ["fp32"]  # type: ignore[attr-defined]
    forced = export(request.model_copy(update={"force": True})).verdict
    assert (forced.forced, forced.precision, forced.asked) == (True, "fp32", "fp16")
    assert onnx_precision(tmp_path / "repository/pets/1/model.onnx") == "fp32"


def test_bf16_for_onnxruntime_needs_an_accelerator(network: Network, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        published_in(network, "bf16", tmp_path)
    assert caught.value.errors()[0]["type"] == "onnx.bf16_kernels"
    verdict = published_in(network, "bf16", tmp_path, accelerator=["tensorrt"])
    assert (verdict.passed, verdict.precision) == (True, "bf16")


def test_precision_is_that_of_the_lowest_node(network: Network, tmp_path: Path) -> None:
    published_in(network, "fp16", tmp_path, keep_fp32=("backbone.layer*",))
    assert onnx_precision(tmp_path / "repository/pets/1/model.onnx") == "fp16"


def test_nodes_next_to_untyped_tensors_stay_in_fp32() -> None:
    """A custom operator, and a tensor that a subgraph reads from the outer graph."""
    inner = helper.make_graph(
        [helper.make_node("Relu", ["b"], ["inside"])],
        "then",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, [2, 2])],
    )
    model = of_operators(
        (2, 2),
        helper.make_node("MatMul", ["x", "one"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "one"], ["b"], name="captured"),
        helper.make_node("If", ["yes"], ["c"], name="branch", then_branch=inner, else_branch=inner),
        helper.make_node("Gelu", ["c"], ["d"], name="foreign", domain="com.microsoft"),
        helper.make_node("MatMul", ["d", "one"], ["e"], name="after"),
        helper.make_node("MatMul", ["e", "one"], ["y"], name="last"),
        weights={"one": 0.5},
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    low = cast_graph(model, "fp16")
    assert run(low, 1.0) == pytest.approx(run(model, 1.0), rel=1e-2)
    types = {tensor.name: tensor.data_type for tensor in low.graph.initializer}
    takes = {node.name: [types.get(name) for name in node.input] for node in low.graph.node}
    assert TensorProto.FLOAT16 in takes["first"]
    for name in ("captured", "after"):
        assert TensorProto.FLOAT16 not in takes[name]


def test_openvino_int8_that_fails_ends_in_fp32(network: Network, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"")
    request = ExportRequest(
        source=source_of(network, tmp_path / "source"),
        repository=tmp_path / "repository",
        max_batch=MAX_BATCH,
        openvino="int8",
        limit=["int8.max_abs=1e-9"],
    )
    verdict = export(request).verdict
    assert (verdict.precision, verdict.asked) == ("fp32", "int8")


@pytest.mark.parametrize("pattern", ["backbone.fc.weight", "Gemm", "*fc*"])
def test_named_parts_stay_in_fp32(network: Network, tmp_path: Path, graph: Path, pattern: str) -> None:
    published_in(network, "fp16", tmp_path, keep_fp32=(pattern,))
    weights = onnx.load(tmp_path / "repository/pets/1/model.onnx").graph.initializer
    (tensor,) = [tensor for tensor in weights if tensor.name.startswith("backbone.fc.weight")]
    assert tensor.data_type == TensorProto.FLOAT


def test_pattern_that_matches_nothing_is_refused(graph: Path) -> None:
    with raises(InputError, "option.keep_fp32", "blocks.9*"):
        match_nodes(flattened(onnx.load(graph)), ["Conv", "blocks.9*"])


def test_int8_graph_has_the_dialect_of_its_runtime(graph: Path, images: ImageArray) -> None:
    flat = flattened(onnx.load(graph))
    for dialect, expected_types in (("onnxruntime", TensorProto.UINT8), ("tensorrt", TensorProto.INT8)):
        model = quantize_graph(flat, images, dialect)  # type: ignore[arg-type]
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        taken = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        zeros = [weights[node.input[2]] for node in taken if node.input[0] not in weights]
        assert {tensor.data_type for tensor in zeros} == {expected_types}
        int32 = [t for t in weights.values() if t.data_type == TensorProto.INT32]
        if dialect == "tensorrt":
            assert not int32
            assert all(not numpy_helper.to_array(tensor).any() for tensor in zeros)
        else:
            assert int32


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_int8_passes_its_verdict_when_calibrated_on_real_images(
    make_network: MakeNetwork, tmp_path: Path, architecture: str
) -> None:
    verdict = published_in(make_network(architecture), "int8", tmp_path)
    assert (verdict.passed, verdict.precision) == (True, "int8")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("task", [task for task in TASK_SPECS if task != "multiclass"])
def test_every_task_passes_in_a_reduced_precision(
    network_of: NetworkOf, tmp_path: Path, task: str, precision: str
) -> None:
    """int8 may fall back to fp16, which the verdict records."""
    verdict = published_in(network_of(TASK_SPECS[task]), precision, tmp_path)
    assert verdict.passed
    assert verdict.precision == precision or (verdict.asked == "int8" and verdict.tries[1].problems)
