"""int8: the attempts where calibration alone does not pass, and their records."""

from __future__ import annotations

import copy
import html
import math
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from benchmarks.studies.calibration import calibrate
from builder.onnx.export import onnx_from_network
from builder.onnx.wiring import flattened, wiring_of
from builder.pipeline import export
from builder.precision.measure import error_growth
from builder.precision.precision_search import PrecisionSearch
from builder.precision.quantize import (
    activation_products,
    int8_nodes,
    quantize_graph,
    quantized_operators,
    with_adjacent_nodes,
)
from builder.request import ExportRequest
from builder.sources import open_source
from builder.sources.images import builtin_golden
from builder.verification.context import CachingRunner, VerificationContext
from builder.verification.report import render_page
from tests.errors import raises
from tests.fixture_types import MakeNetwork
from tritonkit.comparison import PROBES
from tritonkit.errors import ArtifactError, CheckFailedError
from tritonkit.golden import Golden
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import Network
from tritonkit.repository.verdict import LIMITS, Attempt, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import Dialect
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import Outputs
from tritonkit.system.cpu import adds_int8_exactly

MAX_BATCH = 4


@pytest.fixture(scope="module")
def network(make_network: MakeNetwork) -> Network:
    made = copy.deepcopy(make_network("test_resnet"))
    return calibrate(made, builtin_golden(made.spec.preprocess).images)


@pytest.fixture(scope="module")
def graph(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx_from_network(network, path)
    return path


@pytest.fixture(scope="module")
def images(network: Network) -> ImageArray:
    return builtin_golden(network.spec.preprocess).images


def published_in_int8(graph: Path, folder: Path, **options: object) -> Verdict:
    request = ExportRequest(
        source=open_source(graph, None, None),
        repository=folder / "repository",
        max_batch=MAX_BATCH,
        onnx="int8",
        **options,
    )  # type: ignore[arg-type]
    return export(request).verdict


class ContainerRunner(Runner):
    """A runner that does not compute on the CPU of this machine."""

    def __init__(self, runner: Runner) -> None:
        self.spec, self.origin, self.run_infer = runner.spec, "model.plan in a container", runner.infer

    def _infer(self, batch: ImageArray) -> Outputs:
        return self.run_infer(batch)


def with_loud_channel(network: Network, factor: float) -> Network:
    """A copy with the same outputs, in which one channel has such large values that int8 rounds the others to zero."""
    loud = copy.deepcopy(network)
    block = loud.backbone.layer2[0]  # type: ignore[index]
    with torch.no_grad():
        block.bn1.weight[0] *= factor
        block.bn1.bias[0] *= factor
        block.conv2.weight[:, 0] /= factor
    return loud


def test_int8_keeps_the_lossy_nodes_in_fp32_when_no_calibration_helps(network: Network, tmp_path: Path) -> None:
    onnx_from_network(with_loud_channel(network, 1000), tmp_path / "loud.onnx")
    verdict = published_in_int8(tmp_path / "loud.onnx", tmp_path)
    assert (verdict.passed, verdict.precision, verdict.asked) == (True, "int8", None)
    assert verdict.exact_int8 is adds_int8_exactly()
    _, minmax, percentile, *_, share = verdict.tries
    assert not minmax.passed
    assert not percentile.passed
    assert not minmax.kept
    assert "of the nodes where the error grows most" in share.how
    assert 0 < share.nodes < minmax.nodes
    assert any("layer2.0.conv2" in name for name in weights_of(tmp_path, share.kept))


def test_bad_calibration_is_refused_and_reported_when_no_int8_attempt_passes(graph: Path, tmp_path: Path) -> None:
    """Calibration on black images gives ranges that clip every real image."""
    black = tmp_path / "black"
    black.mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32)).save(black / f"{number}.png")
    with pytest.raises(CheckFailedError) as refused:
        published_in_int8(graph, tmp_path, calibration=black, repair=False)
    assert refused.value.code == "verdict.failed"
    assert {problem.code.removeprefix("verdict.") for problem in refused.value.problems} & {"numbers", "decisions"}
    assert not (tmp_path / "repository" / "pets").exists()
    verdict = published_in_int8(graph, tmp_path, calibration=black, limit=["int8.relative=0.02"])
    assert (verdict.passed, verdict.precision, verdict.asked) == (True, "fp16", "int8")
    attempts = [attempt for attempt in verdict.tries if attempt.precision == "int8"]
    assert [attempt.how.split()[0] for attempt in attempts] == ["minmax", "percentile", "fp32", "fp32"]
    assert len({attempt.kept for attempt in attempts[1:]}) == 3
    assert attempts[0].nodes > attempts[2].nodes > attempts[3].nodes > 0
    assert all(attempt.seconds > 0 for attempt in attempts)
    for document in (refused.value.document, verdict):
        assert isinstance(document, Verdict)
        doubt = document.calibration_hint
        assert doubt is not None
        assert doubt[1:] in html.unescape(render_page("asked", document))


def test_exact_int8_is_recorded_only_when_this_cpu_computed_the_outputs(graph: Path, images: ImageArray) -> None:
    runner = OnnxRuntimeRunner(graph)
    context = VerificationContext(runner, Golden(images, {}), max_batch=4)
    assert context.verify_answers(CachingRunner(runner), "int8").exact_int8 is adds_int8_exactly()
    assert context.verify_answers(CachingRunner(runner), "fp32").exact_int8 is None
    assert context.verify_answers(ContainerRunner(runner), "int8").exact_int8 is None


def test_calibration_hint_is_absent_when_int8_passed_or_was_not_tried() -> None:
    passed = Attempt(precision="int8", how="minmax", passed=True, seconds=1)
    verdict = Verdict(passed=True, precision="int8", images="9", max_batch=4, limits=LIMITS["int8"])
    unasked = Attempt(precision="int8", how="the graph did not load", passed=False, seconds=1)
    as_it_came = Attempt(precision="int8", how="the whole model", passed=False, max_abs=1, seconds=1)
    for tries in (
        (),
        (passed,),
        (unasked,),
        (as_it_came,),
        (Attempt(precision="fp16", how="all", passed=False, seconds=1),),
    ):
        assert verdict.model_copy(update={"tries": tries}).calibration_hint is None


@pytest.mark.parametrize("dialect", ["onnxruntime", "tensorrt"])
def test_int8_step_counts_the_nodes_that_compute_in_int8(
    graph: Path, images: ImageArray, tmp_path: Path, dialect: Dialect
) -> None:
    step = next(iter(PrecisionSearch(graph, images, ["*Gemm*"]).steps("int8", dialect)))
    assert step.nodes == 0  # unknown until the graph is written
    fp32_nodes = step.write(tmp_path / "int8.onnx")
    written = onnx.load(tmp_path / "int8.onnx")
    types = {tensor.name: tensor.data_type for tensor in written.graph.initializer}
    dequantised = {
        node.output[0]
        for node in written.graph.node
        if node.op_type == "DequantizeLinear" and types.get(node.input[0]) == TensorProto.INT8
    }
    products = [node.name for node in written.graph.node if dequantised & set(node.input)]
    assert len(products) <= step.nodes < len(written.graph.node)
    assert not set(fp32_nodes) & set(products)
    if dialect == "tensorrt":  # nothing but products
        assert step.nodes == len(products)


def test_int8_step_is_refused_when_no_node_is_left_in_int8(graph: Path, images: ImageArray, tmp_path: Path) -> None:
    step = next(iter(PrecisionSearch(graph, images, ["*"]).steps("int8", "onnxruntime")))
    with raises(ArtifactError, "precision.nothing_reduced"):
        step.write(tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_percentile_calibration_reads_one_image_at_a_time(graph: Path, images: ImageArray) -> None:
    """The histogram must not keep the tensors of all images in memory."""
    flat, many = flattened(onnx.load(graph)), np.concatenate([images] * 4)
    peaks, scales = [], []
    for sample in (images, many):
        tracemalloc.start()
        scales.append(activation_scales(quantize_graph(flat, sample, "onnxruntime", "percentile")))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert scales[1] == pytest.approx(scales[0], rel=0.02)


def activation_scales(model: onnx.ModelProto) -> dict[str, float]:
    return {
        tensor.name: float(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name.endswith("_scale") and not tensor.dims
    }


def test_error_growth_is_largest_where_an_overflow_begins() -> None:
    nodes = [helper.make_node("Relu", [a], [b], name=b) for a, b in ("xa", "ab", "bc", "cd", "de")]
    flat = helper.make_model(helper.make_graph(nodes, "g", [], []))
    growth = error_growth(flat, {"a": 1e-4, "b": 1e-3, "c": math.inf, "e": math.inf})
    assert growth == {"a": 1.0, "b": pytest.approx(10), "c": math.inf, "d": 0.0, "e": 0.0}
    unknown = error_growth(flat, {"a": 0.1, "c": 0.1})  # b is missing: it has the error of a
    assert unknown["c"] == pytest.approx(1)


def test_nodes_around_a_tensor_leave_int8_together(graph: Path, images: ImageArray) -> None:
    """A Relu and a norm pass values on, so the product before them must leave int8 too."""
    flat = flattened(onnx.load(graph))
    low = int8_nodes(
        quantize_graph(flat, images, "onnxruntime", every_activation=True), quantized_operators(flat, "onnxruntime")
    )
    second = [node.name for node in flat.graph.node if node.op_type == "Conv"][1]
    excluded = with_adjacent_nodes(flat, wiring_of(flat), [second], low)
    operators = [node.op_type for node in flat.graph.node if node.name in excluded]
    assert operators == ["Conv", "Relu", "Conv"]


def weights_of(folder: Path, nodes: tuple[str, ...]) -> set[str]:
    published = onnx.load(folder / "repository/pets/1/model.onnx")
    return {name for node in published.graph.node if node.name in nodes for name in node.input}


def test_products_of_activations_leave_int8_first_when_a_transformer_fails(
    make_network: MakeNetwork, tmp_path: Path
) -> None:
    onnx_from_network(make_network("test_vit"), tmp_path / "vit.onnx")
    verdict = published_in_int8(tmp_path / "vit.onnx", tmp_path)
    assert (verdict.passed, verdict.precision) == (True, "int8")
    assert [tried.passed for tried in verdict.tries] == [True, False, False, True]
    flat = flattened(onnx.load(tmp_path / "vit.onnx"))
    assert verdict.tries[-1].kept == tuple(activation_products(flat, wiring_of(flat)))
    assert len(verdict.tries[-1].kept) == 12  # two in each of six blocks


def test_export_warns_when_int8_is_calibrated_on_few_images(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    request = ExportRequest(
        source=checkpoint, repository=tmp_path / "repository", max_batch=2, onnx="int8", calibration=photos, force=True
    )
    result = export(request)
    expected = "int8 was calibrated on only 4 images; --calibration FOLDER takes up to 32"
    assert result.verdict.precision == "int8"
    assert expected in result.warnings
    worst = max(comparison.relative for comparison in result.verdict.comparisons if comparison.asked != PROBES)
    if result.verdict.passed:
        assert f", relative {worst:.1e} (limit 0.4), " in result.verdict.summary()


def test_export_has_no_calibration_warning_when_the_source_is_in_int8(
    graph: Path, images: ImageArray, photos: Path, tmp_path: Path
) -> None:
    onnx_path = tmp_path / "given.onnx"
    onnx.save(quantize_graph(flattened(onnx.load(graph)), images, "onnxruntime"), onnx_path)
    request = ExportRequest(
        source=open_source(onnx_path, None, None), repository=tmp_path / "repository", max_batch=2, images=photos
    )  # four pictures
    result = export(request)
    assert result.verdict.precision == "int8"
    assert not [warning for warning in result.warnings if "calibrat" in warning]
