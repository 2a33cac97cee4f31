"""Our backends on a real Triton: the answers of the file in process, by the parameters that NVIDIA's backends read."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from builder.config.triton_config import config_for
from builder.formats import BuildJob, builder_for
from builder.onnx.interface import onnx_interface
from builder.sources.base import NetworkSource
from server.process import Server
from tests.fixture_types import Command, NetworkOf, Ports
from tests.programs import ROOT
from tests.serving import options_for, serving
from tests.task_specs import COLOUR_AND_MARKS
from tritonkit.errors import ServerError
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.formats import Precision, format_named
from tritonkit.runtimes.openvino import OpenVinoRunner, has_bf16
from tritonkit.runtimes.tensorrt_plan import TRUST_VARIABLE
from tritonkit.triton.client import Statistics, TritonClient
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text, read_config
from tritonkit.triton.runner import TritonRunner

MODELS: dict[str, tuple[str, Precision]] = {
    "onnx_fp32": ("onnx", "fp32"),
    "openvino_fp32": ("openvino", "fp32"),
    "torchscript_fp32": ("torchscript", "fp32"),
}
if has_bf16():
    MODELS["openvino_bf16"] = ("openvino", "bf16")
ACCELERATORS = ROOT / "server" / "backends" / "onnxruntime" / "accelerators.py"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, network_of: NetworkOf) -> Path:
    """A repository of the same network in several formats, two instances each."""
    folder = tmp_path_factory.mktemp("exported")
    network = network_of(COLOUR_AND_MARKS)
    source = NetworkSource(folder / "heads.safetensors", None, "a test", network)
    source.write_graph(folder / "heads.onnx")
    interface = onnx_interface(folder / "heads.onnx")
    for name, (kind, precision) in MODELS.items():
        job = BuildJob(source, folder / "heads.onnx", precision, folder / "repository" / name / "1", 8, None, print)
        job.folder.mkdir(parents=True)
        builder_for(kind).write(job)
        config = config_for(network.spec.renamed(name), interface, 8, 1)
        config.backend = format_named(kind).backend
        config.instance_group[0].count = 2
        for key, value in builder_for(kind).parameters(job).items():
            config.parameters[key].string_value = value
        for file, text in {CONFIG_FILE: config_to_text(config), **network.spec.label_files}.items():
            (job.folder.parent / file).write_text(text)
    return folder / "repository"


@pytest.fixture(scope="module")
def heads(exported: Path) -> Iterator[Server]:
    """A Triton that serves them all."""
    with serving(options_for(exported)) as server:
        yield server


@pytest.mark.parametrize("name", MODELS)
def test_served_answers_are_those_of_the_file_in_process(
    heads: Server, exported: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "1")  # no manifest names the TorchScript file
    kind = format_named(MODELS[name][0])
    served = TritonRunner(TritonClient(heads.options.grpc_url), name)
    local_outputs = open_artifact(exported / name / "1" / kind.file)
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    expected = local_outputs.infer(images)
    atol = 1e-5 if MODELS[name][1] == "fp32" else 0.01
    for size in (1, 3, 8):
        for output, array in served.infer(images[:size]).items():
            np.testing.assert_allclose(array, expected[output][:size], atol=atol)
    with ThreadPoolExecutor(12) as pool:
        single = list(pool.map(lambda i: served.infer(images[i : i + 1]), range(24)))
    for output, array in expected.items():
        np.testing.assert_allclose([outputs[output][0] for outputs in single], array, atol=atol)
    deadline = time.monotonic() + 10  # an answer is counted just after it was given
    while Statistics.total(served.server.statistics(name).values()).images < 1 + 3 + 8 + 24:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert served.server.model(name).instances == 2


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("openvino")])
def test_openvino_file_runs_in_the_precision_that_it_has_in_process(heads: Server, exported: Path, name: str) -> None:
    local_outputs = open_artifact(exported / name / "1" / "model.xml")
    assert isinstance(local_outputs, OpenVinoRunner)
    assert local_outputs.precision == {"openvino_fp32": "f32", "openvino_bf16": "bf16"}[name]
    assert f"{name}/1/model.xml: OpenVINO runs it in {local_outputs.precision}" in heads.log.read_text()


def only(exported: Path, name: str, folder: Path) -> Path:
    """A repository with one of the models, to be spoiled."""
    return Path(shutil.copytree(exported / name, folder / "repository" / name))


@pytest.fixture
def refused(own_state: None, command: Command, free_ports: Ports) -> Callable[[Path], str]:
    """Serve a model that must not load; what `server up` says of it."""

    def failed_start_text(model: Path) -> str:
        up = command("server", "up", "--repository", model.parent, *free_ports())
        assert up.exit_code == 3, up.stdout
        assert "Traceback" not in up.stderr
        return up.stderr

    return failed_start_text


@pytest.mark.parametrize(
    ("name", "artifact", "reason"),
    [
        ("openvino_fp32", "model.xml", "OpenVINO cannot load it: Error parsing"),
        ("torchscript_fp32", "model.pt", "torch cannot load it: "),
    ],
)
def test_server_names_the_reason_when_the_artifact_is_broken(
    exported: Path, tmp_path: Path, refused: Callable[[Path], str], name: str, artifact: str, reason: str
) -> None:
    model = only(exported, name, tmp_path)
    (model / "1" / artifact).write_text("<net is not")
    assert f"model {name} version 1: " in (stderr := refused(model))
    assert reason in stderr


def test_server_says_where_to_get_torch_when_there_is_none(
    exported: Path, tmp_path: Path, refused: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONKIT_TORCH_SITE", str(tmp_path / "nothing"))
    stderr = refused(only(exported, "torchscript_fp32", tmp_path))
    assert "TorchScript needs torch" in stderr
    assert "$TRITONKIT_TORCH_SITE" in stderr


def test_accelerator_that_is_not_there_fails_the_model(
    exported: Path, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    model = only(exported, "onnx_fp32", tmp_path)
    config = read_config(model)
    config.optimization.execution_accelerators.cpu_execution_accelerator.add(name="openvino")
    (model / CONFIG_FILE).write_text(config_to_text(config))
    assert "accelerator OpenVINOExecutionProvider is not in this ONNX Runtime, which has" in refused(model)


def test_accelerator_for_gpus_is_passed_over_on_a_cpu(exported: Path, tmp_path: Path) -> None:
    model = only(exported, "onnx_fp32", tmp_path)
    config = read_config(model)
    config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    config.instance_group[0].kind = config.instance_group[0].KIND_CPU
    (model / CONFIG_FILE).write_text(config_to_text(config))
    with serving(options_for(model.parent)) as server:
        assert "onnx_fp32: tensorrt applies to GPU instances" in server.log.read_text()


def test_bf16_graph_on_a_cpu_is_told_what_it_needs(
    exported: Path, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    model = only(exported, "onnx_fp32", tmp_path)
    nodes = [
        helper.make_node("Cast", ["image"], ["narrow"], to=TensorProto.BFLOAT16),
        helper.make_node("Relu", ["narrow"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["colour"], to=TensorProto.FLOAT),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 3])
    colour = helper.make_tensor_value_info("colour", TensorProto.FLOAT, ["batch", 32, 32, 3])
    graph = helper.make_graph(nodes, "bf16", [image], [colour])
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), model / "1" / "model.onnx")
    assert "a graph in bf16 needs the TensorRT accelerator on a GPU" in refused(model)


class FakeLogger:
    warnings: list[str] = []

    @classmethod
    def log_warn(cls, message: str) -> None:
        cls.warnings.append(message)


@pytest.fixture
def providers_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, dict[str, str]]]]:
    """The function, with what Triton's stub would give it."""
    stub = types.ModuleType("triton_python_backend_utils")
    stub.Logger, stub.TritonModelException = FakeLogger, ServerError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    spec = importlib.util.spec_from_file_location("accelerators", ACCELERATORS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., list[tuple[str, dict[str, str]]]] = module.providers_for
    return function


ON_GPU = {"model_instance_kind": "GPU", "model_instance_device_id": "1"}
ALL = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider")


def accelerator_config(**entries: list[Mapping[str, object]]) -> dict[str, object]:
    accelerators = {
        f"{kind}_execution_accelerator": accelerators_of_kind for kind, accelerators_of_kind in entries.items()
    }
    return {"name": "m", "optimization": {"execution_accelerators": accelerators}}


def test_accelerators_become_providers_with_their_options(
    providers_for: Callable[..., list[tuple[str, dict[str, str]]]],
) -> None:
    tensorrt = {
        "name": "tensorrt",
        "parameters": {
            "precision_mode": "FP16",
            "max_workspace_size_bytes": "1073741824",
            "trt_engine_cache_enable": "1",
        },
    }
    cuda = {"name": "cuda", "parameters": {"cudnn_conv_algo_search": "HEURISTIC"}}
    assert providers_for(accelerator_config(gpu=[cuda, tensorrt], cpu=[{"name": "openvino"}]), ON_GPU, ALL) == [
        (
            "TensorrtExecutionProvider",
            {
                "device_id": "1",
                "trt_fp16_enable": "1",
                "trt_max_workspace_size": "1073741824",
                "trt_engine_cache_enable": "1",
            },
        ),
        ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC", "device_id": "1"}),
        ("OpenVINOExecutionProvider", {"device_type": "CPU"}),
        ("CPUExecutionProvider", {}),
    ]
    assert [name for name, _ in providers_for({}, ON_GPU, ALL)] == ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ({"name": "tensorflow"}, ("accelerator 'tensorflow'",)),
        ({"name": "tensorrt", "parameters": {"precision_mode": "FP8"}}, ("precision_mode", "'FP8'")),
        ({"name": "tensorrt", "parameters": {"speed": "1"}}, ("speed", "'1'")),
    ],
)
def test_accelerator_that_nvidia_s_backend_refuses_is_refused(
    providers_for: Callable[..., list[tuple[str, dict[str, str]]]], entry: dict[str, object], parts: tuple[str, ...]
) -> None:
    with pytest.raises(ServerError) as caught:
        providers_for(accelerator_config(gpu=[entry]), ON_GPU, ALL)
    for part in parts:
        assert part in str(caught.value)
