"""Plans that are built and run in a container: the Docker calls, their errors, and the cleanup."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import docker
import pytest

from builder.failures import BuildStoppedError, CannotBuildError
from builder.tensorrt.container import TRTEXEC, build_in_container, check_image, container_for_build, docker_here
from builder.tensorrt.served import ServedPlan, write_repository
from tests.errors import raises
from tests.fixture_types import Command
from tests.plans import IMAGE, PLAN
from tritonkit.errors import ArtifactError, TritonkitError
from tritonkit.repository.build_record import BuildRecord, BuildSettings
from tritonkit.repository.compatibility import SERVE_COMPATIBLE
from tritonkit.spec import ModelSpec
from tritonkit.triton.model_config import read_config


def test_command_line_is_the_equivalent_docker_run(spec: ModelSpec, tmp_path: Path) -> None:
    settings = BuildSettings(max_batch=8, opt_batch=4, workspace_mib=512, optimization_level=2, hardware="ampere_plus")
    words = shlex.split(container_for_build(IMAGE, spec.input, settings, tmp_path).command_line())
    assert words[:7] == ["docker", "run", "--rm", "--gpus", "all", "--network", "none"]
    assert f"{tmp_path}:/work" in words
    assert words[words.index("--entrypoint") + 1 :][:2] == [TRTEXEC, IMAGE]
    assert {
        "--onnx=/work/model.onnx",
        "--saveEngine=/work/model.plan",
        "--stronglyTyped",
        "--minShapes=image:1x32x32x3",
        "--optShapes=image:4x32x32x3",
        "--maxShapes=image:8x32x32x3",
        "--skipInference",
        "--noTF32",
        "--memPoolSize=workspace:512M",
        "--builderOptimizationLevel=2",
        "--hardwareCompatibilityLevel=ampere+",
    } < set(words)
    assert not [word for word in words if word in ("--fp16", "--int8", "--best")]


def test_docker_error_has_a_remedy_when_no_daemon_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with raises(BuildStoppedError, "docker.unreachable", "none.sock"):
        docker_here()


NO_GPU = docker.errors.APIError("500 Server Error", explanation="could not select device driver")


class Containers:
    """A Docker client that runs one container; `write` replaces the program in it.

    broken: by method name, the error of creating, starting or waiting for it.
    """

    def __init__(
        self, code: int = 0, log: str = "", write: Any = None, broken: dict[str, Exception] | None = None
    ) -> None:
        self.containers = self.images = self
        self.code, self.log, self.write, self.broken = code, log, write, broken or {}
        self.asked: dict[str, Any] = {}
        self.pulled: list[str] = []
        self.ports: dict[str, Any] = {}
        self.status, self.removed = "exited", False

    def create(self, image: str, command: list[str], **preprocess: Any) -> Containers:
        if not self.pulled:
            self._fail("create")
        self.asked = {"image": image, "command": command, **preprocess}
        return self

    def pull(self, image: str) -> None:
        self.pulled.append(image)

    def start(self) -> None:
        self._fail("start")
        if self.write is not None:
            self.write(Path(next(iter(self.asked["volumes"]))))

    def wait(self, timeout: float) -> dict[str, int]:
        self._fail("wait")
        return {"StatusCode": self.code}

    def _fail(self, step: str) -> None:
        if step in self.broken:
            raise self.broken[step]

    def logs(self, **preprocess: Any) -> bytes:
        return self.log.encode()

    def reload(self) -> None:
        pass

    def remove(self, force: bool, v: bool) -> None:
        self.removed = force and v


def in_container(client: Containers, tmp_path: Path, spec: ModelSpec, limit_s: float = 3600) -> BuildRecord:
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"a graph")
    module: ModuleType = docker
    settings = BuildSettings(max_batch=8, timing_cache=False, time_limit_s=limit_s)
    return build_in_container(
        graph, tmp_path / "model.plan", spec.input, settings, IMAGE, lambda step: None, (module, client)
    )


def test_container_build_is_recorded_from_the_output_of_trtexec(tmp_path: Path, spec: ModelSpec) -> None:
    def write(work: Path) -> None:
        (work / "model.plan").write_bytes(PLAN)
        layers = [{"Name": "conv", "LayerType": "Convolution", "Inputs": [{"Name": "x", "DataType": "Half"}]}]
        (work / "layers.json").write_text(json.dumps({"Layers": layers}))

    client = Containers(log="[I] Selected Device: NVIDIA L4\n[I] Compute Capability: 8.9\n", write=write)
    record = in_container(client, tmp_path, spec)
    assert (tmp_path / "model.plan").read_bytes() == PLAN
    assert (record.tensorrt, record.gpu, record.compute_capabilities) == ("11.1.0.106", "NVIDIA L4", ("8.9",))
    assert (record.engine, record.image) == ({"fp16": 1}, IMAGE)
    assert client.asked["network_mode"] == "none"
    assert client.asked["entrypoint"] == TRTEXEC
    assert client.removed


def test_container_build_names_the_first_error_when_trtexec_refuses(tmp_path: Path, spec: ModelSpec) -> None:
    client = Containers(code=1, log="[I] fine\n[E] Antialiasing is not supported\n[E] more")
    with raises(CannotBuildError, "tensorrt.build_refused", "code 1: [E] Antialiasing"):
        in_container(client, tmp_path, spec)
    assert client.removed
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.parametrize(
    ("code", "log", "expected", "part"),
    [
        (
            1,
            "[I] fine\n[E] Could not build\n[E] Error Code 2: OutOfMemory (no further information)",
            "tensorrt.out_of_memory",
            "OutOfMemory",
        ),
        (137, "[I] building", "tensorrt.out_of_memory", "code 137"),
        (139, "[I] building", "tensorrt.build_crashed", "signal 11"),
    ],
)
def test_container_build_is_stopped_when_memory_is_short_or_it_is_killed(
    code: int, log: str, expected: str, part: str, tmp_path: Path, spec: ModelSpec
) -> None:
    with raises(BuildStoppedError, expected, part):
        in_container(Containers(code=code, log=log), tmp_path, spec)


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        (3, CannotBuildError, "docker.no_trtexec"),
        (4, CannotBuildError, "docker.no_triton"),
        (127, BuildStoppedError, "docker.image_check"),
    ],
)
def test_image_is_refused_before_the_build_when_a_program_is_missing(
    code: int, kind: type[TritonkitError], expected: str
) -> None:
    client = Containers(code=code, log="sh: not found\n")
    with raises(kind, expected):
        check_image(IMAGE, (docker, client))
    assert client.asked["device_requests"]
    assert client.removed


def test_image_is_refused_before_the_build_when_docker_has_no_gpu() -> None:
    client = Containers(broken={"start": NO_GPU})
    with pytest.raises(BuildStoppedError, match="NVIDIA Container Toolkit"):
        check_image(IMAGE, (docker, client))
    assert client.removed, "the SDK's own run leaves it behind"
    check_image(IMAGE, (docker, Containers()))


def test_missing_image_is_pulled() -> None:
    client = Containers(broken={"create": docker.errors.ImageNotFound("no such image")})
    check_image(IMAGE, (docker, client))
    assert client.pulled == [IMAGE]


@pytest.mark.parametrize(
    ("limit_s", "error", "code", "part"),
    [
        (1e-9, ConnectionError("Read timed out"), "tensorrt.timeout", "1e-09 s"),
        (3600, ConnectionError("Connection aborted"), "docker.failed", "Connection aborted"),
        (3600, docker.errors.APIError("500", explanation="no space left"), "docker.failed", "no space left"),
    ],
)
def test_error_names_the_time_limit_only_after_a_timeout(
    limit_s: float, error: Exception, code: str, part: str, tmp_path: Path, spec: ModelSpec
) -> None:
    client = Containers(broken={"wait": error})
    with raises(BuildStoppedError, code, part):
        in_container(client, tmp_path, spec, limit_s)
    assert client.removed


def test_dry_run_prints_the_profile_that_the_export_would_build(
    command: Command, checkpoint: Path, tiny_repository: Path
) -> None:
    words = ["builder", "export", checkpoint, "--trt", "fp16", "--in-container", "--dry-run"]
    result = command(*words, "--repository", tiny_repository, "--name", "pets")
    assert result.exit_code == 0, result.stderr
    assert "--maxShapes=image:8x32x32x3" in result.stdout  # as the published model
    assert "neither verified nor published" in result.stderr
    assert "--maxShapes=image:2x32x32x3" in command(*words, "--max-batch", 2).stdout


@pytest.mark.parametrize("compatible", [False, True])
def test_triton_in_the_container_gets_the_flag_for_version_compatible_plans(
    tmp_path: Path, tiny_repository: Path, spec: ModelSpec, compatible: bool
) -> None:
    (tmp_path / "model.plan").write_bytes(PLAN)
    client, graph = Containers(), tiny_repository / "pets/1/model.onnx"
    with raises(CannotBuildError, "tensorrt.not_loaded"):
        ServedPlan(tmp_path / "model.plan", graph, spec, 8, IMAGE, compatible, (docker, client))
    assert (SERVE_COMPATIBLE in client.asked["command"]) == compatible


def test_served_plan_error_contains_the_end_of_the_triton_log(
    tmp_path: Path, tiny_repository: Path, spec: ModelSpec
) -> None:
    (tmp_path / "model.plan").write_bytes(PLAN)
    client = Containers(log="unable to load plan file to auto complete config")
    graph = tiny_repository / "pets/1/model.onnx"
    with pytest.raises(ArtifactError, match="unable to load plan file"):
        ServedPlan(tmp_path / "model.plan", graph, spec, 8, IMAGE, docker=(docker, client))
    assert client.removed


def test_served_plan_leaves_no_container_when_it_cannot_be_started(
    tmp_path: Path, tiny_repository: Path, spec: ModelSpec
) -> None:
    (tmp_path / "model.plan").write_bytes(PLAN)
    client, graph = Containers(broken={"start": NO_GPU}), tiny_repository / "pets/1/model.onnx"
    with pytest.raises(BuildStoppedError, match="could not select device driver"):
        ServedPlan(tmp_path / "model.plan", graph, spec, 8, IMAGE, docker=(docker, client))
    assert client.removed


def test_served_repository_is_one_that_triton_reads(tmp_path: Path, tiny_repository: Path, spec: ModelSpec) -> None:
    (tmp_path / "model.plan").write_bytes(PLAN)
    write_repository(tmp_path / "models", tmp_path / "model.plan", tiny_repository / "pets/1/model.onnx", spec, 8)
    config = read_config(tmp_path / "models" / "pets")
    assert (config.backend, config.max_batch_size) == ("tensorrt", 8)
    assert (tmp_path / "models/pets/1/model.plan").read_bytes() == PLAN
