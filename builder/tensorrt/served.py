"""A plan as it answers in the very image that will serve it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from builder.config.triton_config import config_for, config_to_text
from builder.failures import BuildStoppedError, CannotBuildError
from builder.onnx_export import onnx_interface
from builder.tensorrt.container import docker_here, reason_of
from model.compatibility import SERVE_COMPATIBLE
from model.docker_engine import Docker, all_gpus, remove_container, run_container
from model.errors import TritonkitError
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.runners.triton import TritonRunner, TritonServer
from model.spec import ModelSpec
from model.triton_config import CONFIG_FILE

READY_S = 180.0
_GRPC = "8001/tcp"
_TRITON = ("tritonserver", "--model-repository=/models", "--exit-on-error=true", "--allow-http=false")


class ServedPlan(Runner):
    """A plan in a container that ends when this is closed."""

    url: str
    """The address of Triton's gRPC port; the model's name there is the spec's."""

    def __init__(
        self, plan: Path, graph: Path, spec: ModelSpec, max_batch: int, image: str, version_compatible: bool = False
    ) -> None:
        """Start it. Raises what `served_in_container` raises."""
        self._held = ExitStack()
        served = served_in_container(plan, graph, spec, max_batch, image, version_compatible=version_compatible)
        self._runner = self._held.enter_context(served)
        self.url = self._runner.server.url
        self.spec, self.origin, self.max_batch = spec, f"{plan.name} in {image}", max_batch

    def _infer(self, batch: ImageArray) -> Outputs:
        return self._runner.infer(batch)

    def close(self) -> None:
        """End the container."""
        self._held.close()


@contextmanager
def served_in_container(
    plan: Path,
    graph: Path,
    spec: ModelSpec,
    max_batch: int,
    image: str,
    ready_s: float = READY_S,
    docker: Docker | None = None,
    version_compatible: bool = False,
) -> Iterator[TritonRunner]:
    """Serve a plan alone, by Triton in a container of `image`, on a free port of the loopback address.

    graph: the ONNX file it was built from. version_compatible: the plan was built so, and Triton is told.

    Raises BuildStoppedError where Docker does not answer or the image cannot be run, CannotBuildError where Triton
    does not load the plan within `ready_s` seconds, with the last lines of its log.
    """
    docker = docker or docker_here()
    module, _ = docker
    with tempfile.TemporaryDirectory(prefix="tritonkit-") as folder:
        repository = Path(folder)
        write_repository(repository, plan, graph, spec, max_batch)
        failures = (module.errors.DockerException, OSError)  # of requests, which the SDK asks by
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
            raise BuildStoppedError(f"{image} cannot be run: {reason_of(error)}") from error
        try:
            try:
                runner = _ready(container, spec, ready_s)
            except failures as error:
                raise BuildStoppedError(f"{image} was stopped, as Docker failed: {reason_of(error)}") from error
            with closing(runner):
                yield runner
        finally:
            remove_container(docker, container)


def write_repository(repository: Path, plan: Path, graph: Path, spec: ModelSpec, max_batch: int) -> None:
    """A repository with this one plan, which anyone may read: Triton runs as another user."""
    from model.triton_backends import Loading

    model = repository / spec.name
    (model / "1").mkdir(parents=True)
    shutil.copyfile(plan, model / "1" / "model.plan")
    config = config_for(spec, onnx_interface(graph), max_batch, 1, loading=Loading("tensorrt"))
    for tensor in config.output:  # its labels are of no use here
        tensor.label_filename = ""
    (model / CONFIG_FILE).write_text(config_to_text(config), encoding="utf-8")
    for path in (repository, *repository.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _ready(container: Any, spec: ModelSpec, ready_s: float) -> TritonRunner:
    until = time.monotonic() + ready_s
    while time.monotonic() < until:
        container.reload()
        if container.status in ("exited", "dead"):
            break
        bound = container.ports.get(_GRPC)
        if bound:
            server = TritonServer(f"127.0.0.1:{bound[0]['HostPort']}")
            try:
                return TritonRunner(server, spec.name)
            except TritonkitError:  # not yet
                server.close()
                time.sleep(0.5)
                continue
        time.sleep(0.2)
    log = container.logs(tail=20).decode(errors="replace").strip()
    raise CannotBuildError(f"{spec.name}: Triton in the container did not load the plan. Its last words:\n{log}")
