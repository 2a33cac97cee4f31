"""The environment that will serve a repository: server options, image, backends and machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.doctor.machine import Machine
from server.options import Options
from server.runtimes.pip_environment import TORCH_VARIABLE, find_pip_environment
from tritonkit.errors import InputError, ServerError
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.runtimes.formats import FAISS, ONNX, OPENVINO, TORCHSCRIPT
from tritonkit.triton.backends import PYTHON
from tritonkit.triton.model_config import ENSEMBLE
from tritonkit.triton.releases import image_for

PYTHON_BACKENDS = frozenset({ONNX.backend, OPENVINO.backend, TORCHSCRIPT.backend, FAISS.backend})
"""Backends that `server/backends` implements on Triton's Python backend."""
_INSTALL_TOOLKIT = (
    "install the NVIDIA Container Toolkit, run `nvidia-ctk runtime configure --runtime=docker`, restart Docker"
)


@dataclass(frozen=True)
class TargetEnvironment:
    """The environment that will serve a repository."""

    options: Options
    machine: Machine
    image: str | None = None
    """NVIDIA's image or one like it. None: Triton from the wheel, which has no TensorRT."""
    backends: frozenset[str] | None = None
    """Available backends; None if unknown."""

    @property
    def title(self) -> str:
        """The runtime, as shown to a user."""
        return "the pip runtime" if self.options.runtime == "pip" else f"the image {self.image or 'without a GPU'}"

    @property
    def repository(self) -> Path:
        """The model repository."""
        return self.options.repository

    def is_python_based(self, backend: str) -> bool:
        """Whether each model instance of this backend runs in its own Python process."""
        return backend == PYTHON or (self.image is None and backend in PYTHON_BACKENDS)


def inspect_target(options: Options, machine: Machine) -> tuple[TargetEnvironment, list[Finding]]:
    """Return the target environment, and findings that concern every repository."""
    if options.runtime == "docker":
        return _container_environment(options, machine)
    try:
        environment = find_pip_environment()
    except ServerError as reason:
        return TargetEnvironment(options, machine), [
            error(options.repository, str(reason), "make setup", code=reason.code)
        ]
    site = Path(environment.interpreter.site)
    libraries = {known.backend for known in (ONNX, OPENVINO, FAISS) if (site / known.library).is_dir()}
    torch = {TORCHSCRIPT.backend} if environment.environment()[TORCH_VARIABLE] else set()
    return TargetEnvironment(options, machine, backends=frozenset({PYTHON, ENSEMBLE} | libraries | torch)), []


def _container_environment(options: Options, machine: Machine) -> tuple[TargetEnvironment, list[Finding]]:
    """Return the environment of the docker runtime. The engine decides whether containers have the GPU."""
    image, findings = options.image, []
    gpu = machine.gpu
    containers_have_gpu = gpu is not None if machine.containers_have_gpu is None else machine.containers_have_gpu
    if gpu is not None and not containers_have_gpu:
        message = f"Docker gives no GPU to containers, so the {gpu.name} of this machine is not used"
        findings.append(warning(options.repository, message, _INSTALL_TOOLKIT, code="docker.no_gpu"))
        machine = machine.without_gpu()
    try:
        image = image or (image_for(options.repository) if containers_have_gpu else None)
    except InputError as reason:
        return TargetEnvironment(options, machine), [
            *findings,
            error(options.repository, str(reason), "then run `server doctor` again", code=reason.code),
        ]
    # The CPU image of deploy/Dockerfile.
    cpu_backends = frozenset({ONNX.backend, OPENVINO.backend, FAISS.backend, PYTHON, ENSEMBLE})
    return TargetEnvironment(options, machine, image, None if image else cpu_backends), findings
