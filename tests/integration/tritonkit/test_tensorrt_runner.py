"""The TensorRT runner with a fake TensorRT that computes with ONNX Runtime on the CPU."""

from __future__ import annotations

import ctypes
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from builder.onnx.export import onnx_from_network
from tests.errors import raises
from tests.fixture_types import MakeNetwork
from tritonkit.errors import ArtifactError, BatchError, InferenceError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.runtimes.tensorrt import TensorRtRunner
from tritonkit.runtimes.tensorrt_plan import TRUST_VARIABLE
from tritonkit.system.gpu import find_gpu

HEADER = struct.Struct("<4s12xQ4B")
VERSION = "11.1.0.106"
TYPES = {"tensor(float)": "FLOAT", "tensor(uint8)": "UINT8"}


class Engine:
    """Result of `deserialize_cuda_engine` for a plan that is an ONNX file behind a header."""

    def __init__(self, plan: bytes, calls: list[str], succeeds: bool) -> None:
        self.session = onnxruntime.InferenceSession(plan[HEADER.size :])
        self.tensors = {tensor.name: tensor for tensor in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.tensors)
        self.calls, self.succeeds = calls, succeeds

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "image" else "out"

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=TYPES[self.tensors[name].type])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, *self.tensors[name].shape[1:]) for size in (1, 4, 4)]

    def create_execution_context(self) -> Context:
        self.calls.append("context")
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.engine.calls.append("shape")
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], *self.engine.tensors[name].shape[1:])

    def set_tensor_address(self, name: str, address: int) -> None:
        self.engine.calls.append(f"address of {name}")
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.engine.calls.append(f"execute on {stream}")
        if not self.engine.succeeds:
            return False
        size = int(np.prod(self.shape))
        image = np.frombuffer((ctypes.c_uint8 * size).from_address(self.addresses["image"]), np.uint8)
        names = [name for name in self.addresses if name != "image"]
        answers = self.engine.session.run(names, {"image": image.reshape(self.shape)})
        for name, answer in zip(names, answers, strict=True):
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(answer).ctypes.data, answer.nbytes)
        return True


def library(calls: list[str], opens: bool = True, succeeds: bool = True, version: str = VERSION) -> Any:
    """The part of TensorRT that the runner uses."""

    class ILogger:
        ERROR = 1

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if self.engine_host_code_allowed:
                calls.append("host code allowed")
            if opens:
                return Engine(plan, calls, succeeds)
            self.logger.log(1, "it is for another GPU")
            return None

    modes = SimpleNamespace(INPUT="in", OUTPUT="out")
    return SimpleNamespace(__version__=version, ILogger=ILogger, Runtime=Runtime, TensorIOMode=modes)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, make_network: MakeNetwork) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx_from_network(make_network("test_resnet"), path)
    return path


@pytest.fixture
def plan(tmp_path: Path, graph: Path) -> Path:
    """The graph behind the header of a plan, with its spec in the same folder."""
    content = graph.read_bytes()
    path = tmp_path / "model.plan"
    version = map(int, VERSION.split("."))
    path.write_bytes(HEADER.pack(b"ftrt", HEADER.size + len(content), *version) + content)
    (tmp_path / "model.json").write_text(OnnxRuntimeRunner(graph).spec.to_json())
    return path


def images(count: int) -> ImageArray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_runner_gives_the_graphs_answers(plan: Path, graph: Path) -> None:
    with TensorRtRunner(plan, trt=library([]), device="cpu") as runner:
        assert runner.max_batch == 4
        expected = OnnxRuntimeRunner(graph)
        for count in (1, 3, 4, 3):
            np.testing.assert_allclose(
                runner.infer(images(count))["probabilities"], expected.infer(images(count))["probabilities"], atol=1e-6
            )


def test_runner_binds_all_tensors_before_it_starts_the_engine(plan: Path) -> None:
    calls: list[str] = []
    TensorRtRunner(plan, trt=library(calls), device="cpu").infer(images(2))
    assert calls == ["context", "shape", "address of image", "address of probabilities", "execute on 0"]


def test_runner_refuses_a_batch_that_is_larger_than_the_plans(plan: Path) -> None:
    with raises(BatchError, "batch.too_large", "5") as caught:
        TensorRtRunner(plan, trt=library([]), device="cpu").infer(images(5))
    assert str(caught.value).endswith(" 4")


def test_error_is_raised_when_the_engine_fails(plan: Path) -> None:
    with raises(InferenceError, "tensorrt.run_failed"):
        TensorRtRunner(plan, trt=library([], succeeds=False), device="cpu").infer(images(1))


def test_runner_gives_the_librarys_reason_when_a_plan_does_not_open(plan: Path) -> None:
    with raises(ArtifactError, "tensorrt.unreadable", "it is for another GPU"):
        TensorRtRunner(plan, trt=library([], opens=False), device="cpu")


@pytest.mark.parametrize(
    ("version", "compatible"),
    [("11.0.0.1", True), ("11.2.0.1", False)],
)
def test_runner_refuses_a_version_before_it_opens_the_plan(plan: Path, version: str, compatible: bool) -> None:
    with raises(ArtifactError, "tensorrt.version_mismatch", f"{VERSION}, installed is {version}"):
        TensorRtRunner(plan, version_compatible=compatible, trt=library([], opens=False, version=version))


def test_runner_opens_an_older_plan_when_it_is_version_compatible(plan: Path) -> None:
    runner = TensorRtRunner(plan, version_compatible=True, trt=library([], version="11.2.0.1"), device="cpu")
    assert runner.max_batch == 4


@pytest.mark.parametrize("compatible", [False, True])
def test_runner_reads_from_the_record_beside_a_plan_whether_it_is_version_compatible(
    plan: Path, compatible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    calls: list[str] = []
    record = {"tensorrt": VERSION, "settings": {"version_compatible": compatible}}
    plan.with_name("build.json").write_text(json.dumps(record))
    TensorRtRunner(plan, trt=library(calls), device="cpu")
    assert ("host code allowed" in calls) == compatible


def test_code_in_a_plan_is_not_run_when_only_the_record_beside_it_asks_for_that(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    record = {"tensorrt": VERSION, "settings": {"version_compatible": True}}
    plan.with_name("build.json").write_text(json.dumps(record))
    for value in ("", "0", "false"):
        monkeypatch.setenv(TRUST_VARIABLE, value)
        with raises(ArtifactError, "tensorrt.untrusted", f"{TRUST_VARIABLE}=1"):
            TensorRtRunner(plan, trt=library(calls), device="cpu")
    assert calls == []
    TensorRtRunner(plan, version_compatible=True, trt=library(calls), device="cpu")  # the caller says so
    assert "host code allowed" in calls


def test_runner_refuses_a_record_that_cannot_be_read(plan: Path) -> None:
    plan.with_name("build.json").write_text("{")
    with raises(ArtifactError, "artifact.unreadable_record", "build.json"):
        TensorRtRunner(plan, trt=library([]), device="cpu")


def test_runner_refuses_a_plan_without_a_spec(plan: Path) -> None:
    (plan.parent / "model.json").unlink()
    with raises(ArtifactError, "artifact.no_spec", "model.json"):
        TensorRtRunner(plan, trt=library([]), device="cpu")


@pytest.mark.skipif(find_gpu() is not None, reason="needs a machine without a GPU")
def test_plan_names_what_is_missing_when_there_is_no_gpu(plan: Path) -> None:
    with raises(ArtifactError, "tensorrt.missing", "--url"):
        open_artifact(plan)
    with raises(ArtifactError, "tensorrt.no_gpu"):
        TensorRtRunner(plan, trt=library([]))


def test_plan_is_refused_before_a_library_is_loaded_when_it_is_cut_short(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:1000])
    with raises(ArtifactError, "tensorrt.truncated"):
        open_artifact(plan)
