"""The rules of `config.pbtxt`: settings that Triton would refuse, and settings that it ignores.

They are those of model_config.proto and of Triton's own checks (core, model_config_utils.cc). Triton itself reports
only the first problem, when it loads the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from tritonkit.errors import InputError, Problem
from tritonkit.runtimes.formats import ONNX, TRT
from tritonkit.triton.backends import ModelConfig, backend_of, default_file, platform_backend
from tritonkit.triton.model_config import shapes_fit

ACCELERATORS: dict[str, Literal["gpu", "cpu"]] = {"tensorrt": "gpu", "cuda": "gpu", "openvino": "cpu"}
"""Execution accelerators of Triton's onnxruntime backend, and the kind of instances that use them."""
PRECISION_MODES = ("FP32", "FP16", "INT8")


def unverified_accelerators(config: ModelConfig) -> list[str]:
    """A sentence for each accelerator that makes the served model compute differently from the verified artifact."""
    return [
        f"execution accelerator {entry.name}{f' in {mode}' if mode else ''}: the served model runs in another runtime "
        "than the one that was verified"
        for entry in _accelerators(config)
        for mode in [entry.parameters.get("precision_mode")]
        if entry.name != "cuda"
    ]


def config_problems(config: ModelConfig) -> Iterator[Problem]:
    """All settings that Triton would refuse, or ignore without a message."""
    yield from load_problems(config)
    yield from ignored_settings(config)


def check_config(config: ModelConfig) -> None:
    """Raise InputError that lists all settings that Triton would refuse."""
    if problems := list(config_problems(config)):
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(
            f"{config.name}: Triton would refuse this configuration:\n{lines}",
            code="config.refused_by_triton",
            problems=problems,
        )


def load_problems(config: ModelConfig) -> Iterator[Problem]:
    """The settings that prevent a model from loading."""
    yield from _instance_problems(config)
    yield from _batching_problems(config)
    yield from _other_problems(config)


def ignored_settings(config: ModelConfig) -> Iterator[Problem]:
    """The settings that Triton ignores without a message, or that only some backends refuse."""
    yield from _cuda_graph_problems(config)
    yield from _accelerator_problems(config)
    for capability in config.cc_model_filenames:
        if not re.fullmatch(r"[0-9]+\.[0-9]+", capability):
            yield Problem(
                "config.compute_capability",
                f"cc_model_filenames: expected a compute capability such as 8.6, got {capability!r}",
            )


def _instance_problems(config: ModelConfig) -> Iterator[Problem]:
    if config.HasField("ensemble_scheduling") and config.instance_group:
        yield Problem("config.ensemble_instances", "instance_group: an ensemble has no instances")
    for number, group in enumerate(config.instance_group):
        location, kind = f"instance_group {number}", group.Kind.Name(group.kind)
        if group.count < 0:
            yield Problem("config.instance_count", f"{location}: count is {group.count}, expected 1 or more")
        if group.gpus and kind in ("KIND_CPU", "KIND_MODEL"):
            yield Problem("config.instance_gpus", f"{location}: {kind} takes no gpus, got {list(group.gpus)}")
        if group.profile and backend_of(config) != TRT.backend:
            yield Problem(
                "config.instance_profile",
                f"{location}: profiles are for backend tensorrt, not for {backend_of(config)}",
            )
        if kind == "KIND_CPU" and backend_of(config) == TRT.backend:
            yield Problem("config.instance_kind", f"{location}: backend tensorrt runs on GPUs, got {kind}")


def _batching_problems(config: ModelConfig) -> Iterator[Problem]:
    if not config.HasField("dynamic_batching"):
        return
    batching, largest = config.dynamic_batching, config.max_batch_size
    for size in batching.preferred_batch_size:
        if not 0 < size <= largest:
            yield Problem(
                "config.preferred_batch",
                f"dynamic_batching: preferred batch {size} is not from 1 to max_batch_size {largest}",
            )
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    delays = any(policy.default_timeout_microseconds and policy.timeout_action for policy in policies)
    if batching.preserve_ordering and delays:
        yield Problem(
            "config.ordering_timeout",
            "dynamic_batching: preserve_ordering and the timeout action DELAY exclude each other",
        )
    if batching.preserve_ordering and batching.priority_levels > 1:
        yield Problem(
            "config.ordering_priorities",
            f"dynamic_batching: preserve_ordering allows one priority level, got {batching.priority_levels}",
        )
    if batching.priority_levels and not 0 < batching.default_priority_level <= batching.priority_levels:
        yield Problem(
            "config.default_priority",
            f"dynamic_batching: default_priority_level {batching.default_priority_level} is not from 1 to "
            f"priority_levels {batching.priority_levels}",
        )


def _cuda_graph_problems(config: ModelConfig) -> Iterator[Problem]:
    cuda = config.optimization.cuda
    if (cuda.graphs or cuda.graph_spec) and backend_of(config) != TRT.backend:
        yield Problem(
            "config.cuda_graph_backend",
            f"optimization.cuda: CUDA graphs are for backend tensorrt, not for {backend_of(config)}",
        )
    for spec in cuda.graph_spec:
        if not 0 < spec.batch_size <= config.max_batch_size:
            yield Problem(
                "config.cuda_graph_batch",
                f"optimization.cuda: graph batch {spec.batch_size} is not from 1 to max_batch_size "
                f"{config.max_batch_size}",
            )
        yield from _graph_size_problems(config, spec)


def _graph_size_problems(config: ModelConfig, spec: Any) -> Iterator[Problem]:
    """CUDA graphs of a size that the model does not accept; -1 accepts any. Skipped for a config without inputs."""
    inputs = {tensor.name: list(tensor.reshape.shape or tensor.dims) for tensor in config.input}
    for name, shape in spec.input.items() if inputs else ():
        expected, actual = inputs.get(name), list(shape.dim)
        if expected is None:
            yield Problem(
                "config.cuda_graph_input",
                f"optimization.cuda: graph batch {spec.batch_size} is of {name!r}; the inputs are {', '.join(inputs)}",
            )
        elif expected and not shapes_fit(actual, expected):
            yield Problem(
                "config.cuda_graph_size",
                f"optimization.cuda: graph batch {spec.batch_size} is of {name!r} {actual}; the model takes {expected}",
            )


def _accelerator_problems(config: ModelConfig) -> Iterator[Problem]:
    entries, groups, backend = _accelerators(config), config.instance_group, backend_of(config)
    if backend != ONNX.backend:  # a third-party backend may have its own accelerators
        if entries and default_file(backend):
            names = ", ".join(entry.name for entry in entries)
            yield Problem(
                "config.accelerator_backend",
                f"execution_accelerators: {names} are for backend onnxruntime, not for {backend}",
            )
        return
    section = config.optimization.execution_accelerators
    for kind, accelerators in (("gpu", section.gpu_execution_accelerator), ("cpu", section.cpu_execution_accelerator)):
        supported = [name for name, device in ACCELERATORS.items() if device == kind]
        for entry in accelerators:
            if entry.name not in supported:
                yield Problem(
                    "config.accelerator_unknown",
                    f"{kind}_execution_accelerator: expected {' or '.join(supported)}, got {entry.name!r}",
                )
            mode = entry.parameters.get("precision_mode", "FP32")
            if entry.name == "tensorrt" and mode not in PRECISION_MODES:
                yield Problem(
                    "config.accelerator_precision",
                    f"accelerator tensorrt: expected precision_mode {', '.join(PRECISION_MODES)}, got {mode!r}",
                )
    if section.gpu_execution_accelerator and groups and all(group.kind == group.KIND_CPU for group in groups):
        yield Problem(
            "config.accelerator_on_cpu", "gpu_execution_accelerator: all instances are on the CPU, so it is never used"
        )


def _other_problems(config: ModelConfig) -> Iterator[Problem]:
    if config.platform and config.backend and platform_backend(config.platform) != config.backend:
        yield Problem(
            "config.platform_backend",
            f"platform {config.platform} does not belong to backend {config.backend}: set one of them",
        )
    if config.platform == "ensemble" and not config.HasField("ensemble_scheduling"):
        yield Problem("config.ensemble_scheduling", "has no ensemble_scheduling, which platform ensemble needs")
    policy = config.version_policy
    if policy.HasField("latest") and not policy.latest.num_versions:
        yield Problem("config.no_version", "version_policy: latest 0 loads no version")
    if policy.HasField("specific") and not policy.specific.versions:
        yield Problem("config.no_version", "version_policy: specific names no version")
    for sample in config.model_warmup:
        # model_config.proto: a model without batches is warmed up with a batch of 1.
        if not 0 <= sample.batch_size <= max(1, config.max_batch_size):
            yield Problem(
                "config.warmup_batch",
                f"model_warmup {sample.name!r}: batch {sample.batch_size} is above max_batch_size "
                f"{config.max_batch_size}",
            )
        if missing := [
            tensor.name for tensor in config.input if not tensor.optional and tensor.name not in sample.inputs
        ]:
            yield Problem("config.warmup_input", f"model_warmup {sample.name!r}: has no data for {', '.join(missing)}")
    if config.response_cache.enable and config.HasField("sequence_batching"):
        yield Problem("config.cache_sequence", "response_cache: cannot be combined with sequence_batching")
    if config.response_cache.enable and config.model_transaction_policy.decoupled:
        yield Problem("config.cache_decoupled", "response_cache: cannot be combined with a decoupled model")


def _accelerators(config: ModelConfig) -> list[Any]:
    section = config.optimization.execution_accelerators
    return [*section.gpu_execution_accelerator, *section.cpu_execution_accelerator]
