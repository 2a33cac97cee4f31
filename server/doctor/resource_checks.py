"""Whether the machine has the memory: RAM, that of the GPU, and the shared memory of Triton's Python backend."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod

from model.env_file import setting
from model.finding import Finding, error, warning
from model.releases import IMAGE_TAG, IMAGE_VARIABLE, NEWEST_CVE, release_of
from server.doctor.machine import SHARED_MEMORY
from server.doctor.place import ENSEMBLE, TargetEnvironment
from server.doctor.served import ModelToLoad

SHM_VARIABLE = "SHM_SIZE"
DEFAULT_CONTAINER_SHM = "1gb"
"""What the containers of this kit have unless `.env` says otherwise, in Docker's words."""
_MIB = 2**20
_SEGMENT_BYTES = _MIB
"""What an instance of the Python backend takes at its start, and grows by (python_backend, README.md)."""
_DOCKER_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?")
_DOCKER_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_ENCODED_IMAGE_BYTES = 2**20
"""An encoded picture, which has no size of its own."""
_TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 2,
    8: 4,
    9: 8,
    10: 2,
    11: 4,
    12: 8,
    13: _ENCODED_IMAGE_BYTES,
    14: 2,
}
"""By the number of Triton's `DataType`, TYPE_BOOL to TYPE_BF16."""


def check_resources(models: Sequence[ModelToLoad], target: TargetEnvironment) -> Iterator[Finding]:
    """What the models together need. Weights alone are counted: what runs needs more, never less."""
    yield from _check_memory(models, target)
    yield from _check_gpu_memory(models, target)
    yield from _check_shared_memory(models, target)
    yield from _check_release(target)


def _check_memory(models: Sequence[ModelToLoad], target: TargetEnvironment) -> Iterator[Finding]:
    in_memory = [one for one in models if not _is_on_gpu(one, target)]
    needed_bytes = sum(one.weights_bytes * one.instances for one in in_memory)
    if needed_bytes > target.machine.memory_bytes:
        yield error(
            target.repository,
            f"the models' weights take {_mib_text(needed_bytes)} of memory, times their instances; "
            f"{_mib_text(target.machine.memory_bytes)} are free. The largest: {_largest_models(in_memory)}",
            "load fewer with --model, or export with fewer --instances",
        )


def _check_gpu_memory(models: Sequence[ModelToLoad], target: TargetEnvironment) -> Iterator[Finding]:
    free_bytes = target.machine.gpu_memory_bytes
    on_gpu = [one for one in models if _is_on_gpu(one, target)]
    needed_bytes = sum(one.weights_bytes * one.instances for one in on_gpu)
    if free_bytes is not None and needed_bytes > free_bytes:
        yield error(
            target.repository,
            f"the models' weights take {_mib_text(needed_bytes)} of the GPU's memory, times their instances; {_mib_text(free_bytes)} are "
            f"free. The largest: {_largest_models(on_gpu)}",
            "load fewer with --model, export with fewer --instances, or end what else runs there (`nvidia-smi`)",
        )


def _check_shared_memory(models: Sequence[ModelToLoad], target: TargetEnvironment) -> Iterator[Finding]:
    needed_bytes = sum(_shared_bytes(one) for one in models if target.is_python_based(one.backend))
    in_container = target.options.runtime == "docker"
    free_bytes = _container_shm_bytes(target) if in_container else target.machine.shared_memory_bytes
    if needed_bytes > free_bytes:
        message = f"Python models need about {_mib_text(needed_bytes)} of shared memory at full batches; {_mib_text(free_bytes)} are free"
        advised_mib = 2 * needed_bytes // _MIB + 1
        advice = (
            f"set SHM_SIZE={advised_mib}mb in .env"
            if in_container
            else f"mount -o remount,size={advised_mib}m {SHARED_MEMORY}"
        )
        yield warning(SHARED_MEMORY, message, f"{advice}; or export with a smaller --max-batch or fewer --instances")


def _container_shm_bytes(target: TargetEnvironment) -> int:
    size = _DOCKER_SIZE.fullmatch((setting(SHM_VARIABLE, target.repository) or DEFAULT_CONTAINER_SHM).lower())
    return int(float(size[1]) * _DOCKER_UNITS[size[2]]) if size else 0


def _check_release(target: TargetEnvironment) -> Iterator[Finding]:
    release = release_of(target.image or "")
    oldest = release_of(IMAGE_TAG)
    if release is not None and oldest is not None and release.release < oldest.release:
        yield warning(
            target.repository,
            f"Triton {release.triton} of {target.image} has known security faults ({NEWEST_CVE} and others), which "
            f"release {oldest.release} fixes",
            f"set {IMAGE_VARIABLE} to {IMAGE_TAG} or newer, and build the plans in it again",
        )
    elif target.options.runtime == "pip" and target.options.is_exposed:
        yield warning(
            target.repository,
            f"the pip runtime is Triton 2.51.0 (24.10), without the security fixes of {IMAGE_TAG}, and others reach it",
            "serve others with --runtime docker",
        )


def _is_on_gpu(model: ModelToLoad, target: TargetEnvironment) -> bool:
    """As Triton decides where nothing is said: on the GPU where there is one and the backend can."""
    kinds = {group.kind for group in model.config.instance_group}
    if target.machine.gpu is None or target.image is None or model.backend in ("python", ENSEMBLE, "openvino"):
        return False
    group = next(iter(model.config.instance_group), None)
    return group is None or group.KIND_CPU not in kinds


def _shared_bytes(model: ModelToLoad) -> int:
    batch = max(model.config.max_batch_size, 1)
    tensors = [*model.config.input, *model.config.output]
    image_bytes: int = sum(prod(max(dim, 1) for dim in one.dims) * _TYPE_BYTES.get(one.data_type, 1) for one in tensors)
    instance_bytes: int = _SEGMENT_BYTES + batch * image_bytes
    return model.instances * max(len(model.versions), 1) * instance_bytes


def _largest_models(models: Sequence[ModelToLoad]) -> str:
    largest = sorted(models, key=lambda one: one.weights_bytes * one.instances, reverse=True)[:3]
    return ", ".join(f"{one.name} {_mib_text(one.weights_bytes)} x {one.instances}" for one in largest)


def _mib_text(byte_count: int) -> str:
    return f"{byte_count / _MIB:.0f} MiB"
