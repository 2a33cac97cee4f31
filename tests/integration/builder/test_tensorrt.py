"""Plans are built by TensorRT for RTX, which needs no GPU for a build."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from builder.failures import BuildStoppedError, CannotBuildError
from builder.formats import BuildJob, builder_for
from builder.formats.tensorrt import Rtx, Trt
from builder.formats.worst_case_runner import WorstCaseRunner
from builder.onnx.export import onnx_from_network
from builder.precision.cast import cast_graph
from builder.precision.quantize import quantize_graph
from builder.sources.base import NetworkSource
from builder.tensorrt.build import build
from builder.tensorrt.precision import precision_of_engine, precision_problems
from tests.errors import raises
from tests.fixture_types import MakeNetwork
from tests.plans import build_record
from tritonkit.errors import ArtifactError, InputError
from tritonkit.images.preprocess import ImageArray
from tritonkit.repository.build_record import RTX_TARGETS, BuildOptions, BuildRecord, BuildSettings
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import RTX, Precision
from tritonkit.runtimes.tensorrt_plan import BUILD_FILE, plan_header
from tritonkit.spec import ModelSpec, Outputs
from tritonkit.system.files import file_sha256
from tritonkit.system.gpu import find_gpu

SETTINGS = BuildSettings(flavour="rtx", max_batch=8)
BEFORE = (
    helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT, name="cast"),
    helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2], name="transpose"),
)


def silent(step: str) -> None:
    pass


def weight(name: str, *shape: int, dtype: type = np.float32) -> TensorProto:
    values = np.random.default_rng(0).standard_normal(shape) / 50
    return numpy_helper.from_array(values.astype(dtype), name)


def write_graph(path: Path, *nodes: NodeProto, weights: tuple[TensorProto, ...] = (), opset: str = "") -> Path:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 3])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", "channels", "rows", "columns"])
    graph = helper.make_graph([*BEFORE, *nodes], "graph", [image], [answer], list(weights))
    imports = [helper.make_opsetid("", 20), *([helper.make_opsetid(opset, 1)] if opset else [])]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, make_network: MakeNetwork) -> Path:
    """`fp32.onnx`, the residual network, and the same in fp16, bf16 and int8."""
    folder = tmp_path_factory.mktemp("graphs")
    network = make_network("test_resnet")
    onnx_from_network(network, folder / "fp32.onnx")
    model = onnx.load(folder / "fp32.onnx")
    onnx.save(cast_graph(model, "fp16"), folder / "fp16.onnx")
    onnx.save(cast_graph(model, "bf16"), folder / "bf16.onnx")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    onnx.save(quantize_graph(model, images, dialect="tensorrt"), folder / "int8.onnx")
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fp32.onnx`, convolutions with 9 MB of weights, and the same in fp16."""
    folder = tmp_path_factory.mktemp("wide")
    convolutions = (
        helper.make_node("Conv", ["planes", "stem"], ["wide"], pads=[1] * 4, name="stem"),
        helper.make_node("Conv", ["wide", "body"], ["deep"], pads=[1] * 4, name="body"),
        helper.make_node("Relu", ["deep"], ["answer"], name="relu"),
    )
    weights = (weight("stem", 500, 3, 3, 3), weight("body", 500, 500, 3, 3))
    path = write_graph(folder / "fp32.onnx", *convolutions, weights=weights)
    onnx.save(cast_graph(onnx.load(path), "fp16"), folder / "fp16.onnx")
    return folder


@pytest.mark.parametrize(
    ("precision", "computes"), [("fp32", "fp32"), ("fp16", "fp16"), ("bf16", "bf16"), ("int8", "int8")]
)
def test_build_keeps_the_types_of_the_graph(tmp_path: Path, graphs: Path, precision: Precision, computes: str) -> None:
    graph, plan = graphs / f"{precision}.onnx", tmp_path / "model.rtx"
    record = build(graph, plan, SETTINGS, silent)
    header = plan_header(plan)
    assert (header.flavour, header.bytes, header.version) == ("rtx", plan.stat().st_size, record.tensorrt)
    assert record.sha256 == file_sha256(plan)
    assert record.graph_sha256 == file_sha256(graph)
    assert record.compute_capabilities == RTX_TARGETS
    assert max(record.computed, key=lambda kind: record.computed[kind]) == computes
    assert record.seconds > 0
    assert (record.peak_memory_mib or 0) > 50
    assert precision_problems(plan, graph, precision, record) == []
    assert [path.name for path in tmp_path.iterdir()] == ["model.rtx"]


def test_build_draws_its_progress_when_stderr_is_a_terminal(
    tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    build(graphs / "fp32.onnx", tmp_path / "model.rtx", SETTINGS, lines.append)
    assert lines[0] == "building for TensorRT for RTX"
    assert any("%" in line for line in lines[1:])


def test_build_is_refused_when_an_fp32_engine_is_claimed_to_be_fp16(tmp_path: Path, wide: Path) -> None:
    plan = tmp_path / "model.rtx"
    record = build(wide / "fp32.onnx", plan, SETTINGS, silent)
    problems = precision_problems(plan, wide / "fp32.onnx", "fp16", record)
    assert [problem.code for problem in problems] == ["verdict.precision", "verdict.precision"]
    assert "2 in fp32" in problems[0].message
    assert "bytes per weight" in problems[1].message


def test_plan_size_shows_an_fp32_engine_with_an_fp16_record(tmp_path: Path, wide: Path) -> None:
    plan = tmp_path / "model.rtx"
    right = build(wide / "fp16.onnx", tmp_path / "right.rtx", SETTINGS, silent)
    build(wide / "fp32.onnx", plan, SETTINGS, silent)
    forged = right.model_copy(update={"sha256": file_sha256(plan)})
    assert "bytes per weight" in precision_problems(plan, wide / "fp16.onnx", "fp16", forged)[0].message
    assert precision_problems(tmp_path / "right.rtx", wide / "fp16.onnx", "fp16", right) == []
    assert [problem.code for problem in precision_problems(plan, wide / "fp32.onnx", "fp16", right)][:2] == [
        "verdict.plan"
    ] * 2


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"fp32": 10}, "the engine computes in it: 10 in fp32"),
        ({"fp32": 9, "fp16": 1}, "the engine computes 1 in fp16, 9 in fp32"),
        ({"fp32": 3, "fp16": 7}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("in_container", [False, True])
def test_inspector_shows_an_engine_of_another_precision(
    tmp_path: Path, graphs: Path, engine: dict[str, int], expected: str | None, in_container: bool
) -> None:
    graph, plan = graphs / "fp16.onnx", tmp_path / "model.plan"
    plan.write_bytes(b"a plan")
    record = build_record(
        sha256=file_sha256(plan),
        graph_sha256=file_sha256(graph),
        computed={} if in_container else {"fp16": 9, "fp32": 1},
        engine=engine,
    )
    problems = precision_problems(plan, graph, "fp16", record)
    assert [problem.code for problem in problems] == (["verdict.precision"] if expected else [])
    assert not expected or expected in problems[0].message


@pytest.mark.parametrize(
    ("nodes", "weights", "opset", "expected"),
    [
        (
            [helper.make_node("Resize", ["planes", "", "half"], ["answer"], mode="linear", antialias=1, name="shrink")],
            (numpy_helper.from_array(np.array([1, 1, 0.5, 0.5], np.float32), "half"),),
            "",
            ("operator Resize (node 'shrink')", "no antialiased Resize", "--onnx"),
        ),
        ([helper.make_node("Det", ["planes"], ["answer"], name="det")], (), "", ("operator Det", "Replace the layer")),
        (
            [helper.make_node("Odd", ["planes"], ["answer"], name="odd", domain="my.own")],
            (),
            "my.own",
            ("operator Odd (node 'odd')", "Replace the layer"),
        ),
        (
            [helper.make_node("Conv", ["planes", "w"], ["answer"], name="conv")],
            (weight("w", 4, 3, 3, 3, dtype=np.float16),),
            "",
            ("(node 'conv')", "`input` type is Float", "Put a Cast"),
        ),
    ],
)
def test_build_names_operator_node_and_remedy_when_the_parser_refuses(
    tmp_path: Path, nodes: list[NodeProto], weights: tuple[TensorProto, ...], opset: str, expected: tuple[str, ...]
) -> None:
    graph = write_graph(tmp_path / "bad.onnx", *nodes, weights=weights, opset=opset)
    with pytest.raises(ArtifactError) as refused:
        build(graph, tmp_path / "model.rtx", SETTINGS, silent)
    message = str(refused.value)
    assert message.startswith("bad.onnx: TensorRT for RTX 1.")
    assert "\n" not in message
    assert not [part for part in expected if part not in message], message
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


def test_build_names_a_missing_weights_file(tmp_path: Path) -> None:
    convolution = helper.make_node("Conv", ["planes", "w"], ["answer"], name="conv")
    model = onnx.load(write_graph(tmp_path / "bad.onnx", convolution, weights=(weight("w", 4, 3, 3, 3),)))
    onnx.save(model, tmp_path / "bad.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with raises(CannotBuildError, "tensorrt.build_refused", "weights.bin"):
        build(tmp_path / "bad.onnx", tmp_path / "model.rtx", SETTINGS, silent)


def test_build_refuses_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"hello world")
    with pytest.raises(ArtifactError) as caught:
        build(tmp_path / "bad.onnx", tmp_path / "model.rtx", SETTINGS, silent)
    assert caught.value.code == "tensorrt.build_refused"


def test_build_stops_when_the_time_limit_passes(tmp_path: Path, graphs: Path) -> None:
    hurried = SETTINGS.model_copy(update={"time_limit_s": 0.05})
    with raises(BuildStoppedError, "tensorrt.timeout"):
        build(graphs / "fp32.onnx", tmp_path / "model.rtx", hurried, silent)
    assert not list(tmp_path.iterdir())


def test_build_lists_the_targets_when_one_is_unknown(tmp_path: Path, graphs: Path) -> None:
    odd = SETTINGS.model_copy(update={"compute_capabilities": ("8.6", "3.5")})
    with pytest.raises(ArtifactError, match=r"3\.5; .* 7\.5, 8\.0, 8\.6"):
        build(graphs / "fp32.onnx", tmp_path / "model.rtx", odd, silent)


def test_settings_report_all_problems_at_once() -> None:
    wrong = BuildSettings(flavour="rtx", max_batch=4, opt_batch=8, version_compatible=True, workspace_mib=64)
    with raises(InputError, "build.options") as caught:
        wrong.check()
    assert len(caught.value.problems) == 2


@pytest.mark.skipif(find_gpu() is not None, reason="needs a machine without a GPU")
def test_missing_tensorrt_gives_an_error_with_two_remedies() -> None:
    with raises(ArtifactError, "tensorrt.missing", "--in-container", "--rtx"):
        Trt().check_machine()
    builder_for("rtx").check_machine()


@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])
@pytest.mark.parametrize(
    ("type_name", "kind"), [("Half", "fp16"), ("Row major linear FP32", "fp32"), ("BFloat16", "bf16")]
)
def test_inspector_output_gives_the_precision_of_an_engine(key: str, type_name: str, kind: str) -> None:
    layers = [
        {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", key: type_name}]},
        {"Name": "reformat", "LayerType": "Reformat", "Inputs": [{"Name": "x", key: "Float"}]},
    ]
    assert precision_of_engine(json.dumps({"Layers": layers})) == {kind: 1}


def test_inspector_output_without_layers_is_refused() -> None:
    with raises(ArtifactError, "tensorrt.inspector"):
        precision_of_engine("[]")


@pytest.fixture
def job(tmp_path: Path, graphs: Path, checkpoint: Path, make_network: MakeNetwork) -> BuildJob:
    folder = tmp_path / "1"
    folder.mkdir()
    source = NetworkSource(checkpoint, None, "a test", make_network("test_resnet"))
    return BuildJob(source, graphs / "fp16.onnx", "fp16", folder, 8, None, silent)


def test_rtx_writes_the_graph_and_its_engine(job: BuildJob) -> None:
    kind = Rtx(BuildOptions(compute_capabilities=("8.6",)))
    artifact = kind.write(job)
    record = BuildRecord.model_validate_json((job.folder / BUILD_FILE).read_bytes())
    assert artifact.name == "model.onnx"
    assert record.graph_sha256 == file_sha256(artifact)
    assert record.sha256 == file_sha256(job.folder / RTX.file)
    assert record.compute_capabilities == ("8.6",)
    assert (record.inputs, record.outputs) == ((job.source.spec.input,), job.source.spec.outputs)
    if find_gpu() is None:
        assert "not run: no GPU here" in kind.verification_method(job)


@pytest.mark.parametrize(
    ("options", "capability", "runs"),
    [
        ({"flavour": "rtx"}, "8.9", True),
        ({"flavour": "rtx"}, "9.0", False),
        ({"flavour": "rtx", "compute_capabilities": ("9.0",)}, "9.0", True),
        ({}, "9.0", True),
    ],
)
def test_engine_is_opened_only_on_a_gpu_it_was_built_for(
    options: dict[str, object], capability: str, runs: bool
) -> None:
    assert BuildSettings.model_validate({"max_batch": 8, **options}).runs_on(capability) == runs


class FixedAnswers(Runner):
    """Gives a fixed answer for each image."""

    origin = "a test"

    def __init__(self, spec: ModelSpec, *answers: object) -> None:
        self.spec, self.answers = spec, np.array(answers, np.float32)
        self.closed = False

    def _infer(self, batch: ImageArray) -> Outputs:
        return {"probabilities": self.answers}

    def close(self) -> None:
        self.closed = True


def test_worst_case_runner_returns_the_output_with_the_larger_error(spec: ModelSpec) -> None:
    batch = np.zeros((3, 32, 32, 3), np.uint8)
    reference = FixedAnswers(spec, [0, 1], [0, 1], [0, 1])
    engine = FixedAnswers(spec, [0, 0.9], [0, 1], [np.nan, 1])
    graph = FixedAnswers(spec, [0.2, 1], [0, 0.5], [0, 0])
    with WorstCaseRunner(reference, (engine, graph)) as both:
        np.testing.assert_allclose(both.infer(batch)["probabilities"], [[0.2, 1], [0, 0.5], [np.nan, 1]])
    assert (engine.closed, graph.closed, reference.closed) == (True, True, False)
    misfit = FixedAnswers(spec, [0], [0], [0])
    assert WorstCaseRunner(reference, (engine, misfit)).infer(batch)["probabilities"].shape == (3, 1)


def test_rtx_refuses_bf16_that_triton_could_not_serve(job: BuildJob) -> None:
    with pytest.raises(ArtifactError, match="--trt bf16"):
        Rtx().write(replace(job, precision="bf16"))


def test_rtx_refuses_a_graph_of_another_precision(job: BuildJob, graphs: Path) -> None:
    with pytest.raises(ArtifactError, match="fp16"):
        Rtx().write(replace(job, graph=graphs / "fp32.onnx"))
    assert not (job.folder / BUILD_FILE).exists()


def test_build_ignores_modules_of_the_working_folder(
    tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('of another project')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert build(graphs / "fp32.onnx", tmp_path / "model.rtx", SETTINGS, silent).seconds > 0


def test_build_leaves_no_process_behind(tmp_path: Path, graphs: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    build(graphs / "fp32.onnx", tmp_path / "model.rtx", SETTINGS, silent)
    assert {child.pid for child in psutil.Process().children()} <= before
