"""Run a plan in the Docker image that will serve it, to verify it there."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from builder.config.triton_config import config_for
from builder.failures import BuildStoppedError, CannotBuildError
from builder.onnx.interface import onnx_interface
from builder.tensorrt.container import docker_here, docker_reason
from tritonkit.errors import TritonkitError
from tritonkit.images.preprocess import ImageArray
from tritonkit.repository.compatibility import SERVE_COMPATIBLE
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import TRT
from tritonkit.spec import ModelSpec, Outputs
from tritonkit.system.docker_engine import Docker, all_gpus, remove_container, run_container
from tritonkit.triton.backends import BackendFiles
from tritonkit.triton.client import TritonClient
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text
from tritonkit.triton.runner import TritonRunner

READY_S = 180.0
_GRPC = "8001/tcp"
_TRITON = ("tritonserver", "--model-repository=/models", "--exit-on-error=true", "--allow-http=false")


class ServedPlan(Runner):
    """Runs a single plan with Triton in a container of an image, on a free port of the loopback address."""

    def __init__(
        self,
        plan: Path,
        graph: Path,
        spec: ModelSpec,
        max_batch: int,
        image: str,
        version_compatible: bool = False,
        docker: Docker | None = None,
    ) -> None:
        """Start the container, which `close` stops.

        graph: the ONNX file the plan was built from. version_compatible: the plan was built version-compatible.

        Raises BuildStoppedError where Docker does not answer or the image cannot be run, CannotBuildError, with the
        last lines of Triton's log, where Triton does not load the plan within `READY_S` seconds.
        """
        self.spec, self.origin, self.max_batch = spec, f"{plan.name} in {image}", max_batch
        docker = docker or docker_here()
        module, _ = docker
        failures = (module.errors.DockerException, OSError)  # OSError: from requests, which the SDK uses
        with ExitStack() as stack:
            repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tritonkit-")))
            write_repository(repository, plan, graph, spec, max_batch)
            try:
                container = run_container(
                    docker,
                    image,
                    [*_TRITON, *([SERVE_COMPATIBLE] if version_compatible else [])],
                    device_requests=all_gpus(module),
                    ports={_GRPC: ("127.0.0.1", None)},
                    volumes={str(repository): {"bind": "/models", "mode": "ro"}},
                    user="1000:1000",
                )
            except failures as error:
                raise BuildStoppedError(
                    f"{image} cannot be run: {docker_reason(error)}", code="docker.not_startable"
                ) from error
            stack.callback(remove_container, docker, container)
            try:
                self._runner = stack.enter_context(_wait_until_ready(container, spec))
            except failures as error:
                raise BuildStoppedError(
                    f"{image} was stopped because Docker failed: {docker_reason(error)}", code="docker.failed"
                ) from error
            self._exit_stack = stack.pop_all()

    def _infer(self, batch: ImageArray) -> Outputs:
        return self._runner.infer(batch)

    def close(self) -> None:
        """Stop the container."""
        self._exit_stack.close()


def write_repository(repository: Path, plan: Path, graph: Path, spec: ModelSpec, max_batch: int) -> None:
    """Write a repository with one plan, readable by all users: Triton runs as another user."""
    model = repository / spec.name
    (model / "1").mkdir(parents=True)
    shutil.copyfile(plan, model / "1" / TRT.file)
    config = config_for(spec, onnx_interface(graph), max_batch, 1, loading=BackendFiles(TRT.backend))
    for tensor in config.output:  # labels are not needed here
        tensor.label_filename = ""
    (model / CONFIG_FILE).write_text(config_to_text(config), encoding="utf-8")
    for path in (repository, *repository.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _wait_until_ready(container: Any, spec: ModelSpec) -> TritonRunner:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        container.reload()
        if container.status in ("exited", "dead"):
            break
        bound = container.ports.get(_GRPC)
        if bound:
            server = TritonClient(f"127.0.0.1:{bound[0]['HostPort']}")
            try:
                return TritonRunner(server, spec.name)
            except TritonkitError:  # not ready yet
                server.close()
                time.sleep(0.5)
                continue
        time.sleep(0.2)
    log = container.logs(tail=20).decode(errors="replace").strip()
    raise CannotBuildError(
        f"{spec.name}: Triton in the container did not load the plan. The end of its log:\n{log}",
        code="tensorrt.not_loaded",
    )
