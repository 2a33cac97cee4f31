"""Checks RAM, GPU memory, the shared memory of Triton's Python backend, and the age of the image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod

from server.doctor.machine import SHARED_MEMORY
from server.doctor.target_environment import TargetEnvironment
from server.runtimes.docker_runtime import DEFAULT_SHM_SIZE, SHM_VARIABLE
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.runtimes.formats import OPENVINO, model_files
from tritonkit.system.env_file import setting
from tritonkit.triton.backends import PYTHON
from tritonkit.triton.model_config import ENSEMBLE, TYPE_BYTES
from tritonkit.triton.releases import IMAGE_TAG, IMAGE_VARIABLE, NEWEST_CVE, release_of

_MIB = 2**20
_SEGMENT_BYTES = _MIB
"""Initial size and growth of the segment of a Python backend instance (python_backend, README.md)."""
_DOCKER_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?")
_DOCKER_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_ENCODED_IMAGE_BYTES = 2**20
"""Assumed size of an encoded image."""


def check_resources(models: Sequence[ModelFolder], target: TargetEnvironment) -> Iterator[Finding]:
    """Check what all models need together. Only weights are counted, so the real need is larger."""
    machine = target.machine
    on_gpu = [model for model in models if _is_on_gpu(model, target)]
    in_memory = [model for model in models if model not in on_gpu]
    if (shortage := _shortage(in_memory, machine.memory_bytes, "memory")) is not None:
        fix = "load fewer models with --model, or export with fewer --instances"
        yield error(
            target.repository, f"the weights of all model instances need {shortage}", fix, code="machine.memory"
        )
    if (shortage := _shortage(on_gpu, machine.gpu_memory_bytes, "GPU memory")) is not None:
        yield error(
            target.repository,
            f"the weights of all model instances need {shortage}",
            "load fewer models with --model, export with fewer --instances, or stop other GPU processes (`nvidia-smi`)",
            code="machine.gpu_memory",
        )
    yield from _check_shared_memory(models, target)
    yield from _check_release(target)


def _shortage(models: Sequence[ModelFolder], free_bytes: int | None, memory: str) -> str | None:
    """Say how much of a memory these models need, if it is more than is free; None if it fits or is unknown."""
    needed_bytes = sum(_weights_bytes(model) * _instances(model) for model in models)
    if free_bytes is None or needed_bytes <= free_bytes:
        return None
    largest = sorted(models, key=lambda model: _weights_bytes(model) * _instances(model), reverse=True)[:3]
    names = ", ".join(f"{model.name} {_mib_text(_weights_bytes(model))} x {_instances(model)}" for model in largest)
    return f"{_mib_text(needed_bytes)} of {memory}; {_mib_text(free_bytes)} are free. The largest: {names}"


def _check_shared_memory(models: Sequence[ModelFolder], target: TargetEnvironment) -> Iterator[Finding]:
    needed_bytes = 0
    for model in models:
        if target.is_python_based(model.backend):
            image_bytes = sum(
                prod(max(dim, 1) for dim in tensor.dims) * (TYPE_BYTES.get(tensor.data_type, 1) or _ENCODED_IMAGE_BYTES)
                for tensor in (*model.config.input, *model.config.output)
            )
            instance_bytes = _SEGMENT_BYTES + max(model.config.max_batch_size, 1) * image_bytes
            needed_bytes += _instances(model) * max(len(model.loaded_versions), 1) * instance_bytes
    free_bytes = target.machine.shared_memory_bytes
    in_container = target.options.runtime == "docker"
    if in_container:
        size = _DOCKER_SIZE.fullmatch((setting(SHM_VARIABLE, target.repository) or DEFAULT_SHM_SIZE).lower())
        free_bytes = int(float(size[1]) * _DOCKER_UNITS[size[2]]) if size else 0
    if needed_bytes > free_bytes:
        needed, free = _mib_text(needed_bytes), _mib_text(free_bytes)
        message = f"Python models need about {needed} of shared memory at full batches; {free} are free"
        advised_mib = 2 * needed_bytes // _MIB + 1
        advice = (
            f"set SHM_SIZE={advised_mib}mb in .env"
            if in_container
            else f"mount -o remount,size={advised_mib}m {SHARED_MEMORY}"
        )
        fix = f"{advice}; or export with a smaller --max-batch or fewer --instances"
        yield warning(SHARED_MEMORY, message, fix, code="machine.shared_memory")


def _check_release(target: TargetEnvironment) -> Iterator[Finding]:
    release = release_of(target.image or "")
    oldest = release_of(IMAGE_TAG)
    if release is not None and oldest is not None and release.release < oldest.release:
        yield warning(
            target.repository,
            f"Triton {release.triton} of {target.image} has known vulnerabilities ({NEWEST_CVE} and others), which "
            f"release {oldest.release} fixes",
            f"set {IMAGE_VARIABLE} to {IMAGE_TAG} or newer, and rebuild the plans in that image",
            code="server.vulnerable_release",
        )
    elif target.options.runtime == "pip" and target.options.is_exposed:
        yield warning(
            target.repository,
            f"the pip runtime is Triton 2.51.0 (24.10) without the security fixes of {IMAGE_TAG}, and other "
            "machines can reach it",
            "use --runtime docker",
            code="server.exposed_old_release",
        )


def _instances(model: ModelFolder) -> int:
    """The number of instances of each version."""
    return sum(max(group.count, 1) * max(len(group.gpus), 1) for group in model.config.instance_group) or 1


def _weights_bytes(model: ModelFolder) -> int:
    """The total size of the weights of all loaded versions, for one instance."""
    paths = [version.path / name for version in model.loaded_versions for name in model.files]
    files = {file for path in paths for file in model_files(path)}
    return sum(file.stat().st_size for file in files if file.is_file())


def _is_on_gpu(model: ModelFolder, target: TargetEnvironment) -> bool:
    """Whether the model runs on the GPU: Triton's default, if there is a GPU and the backend supports it."""
    kinds = {group.kind for group in model.config.instance_group}
    if target.machine.gpu is None or target.image is None or model.backend in (PYTHON, ENSEMBLE, OPENVINO.backend):
        return False
    group = next(iter(model.config.instance_group), None)
    return group is None or group.KIND_CPU not in kinds


def _mib_text(byte_count: int) -> str:
    return f"{byte_count / _MIB:.0f} MiB"
