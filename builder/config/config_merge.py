"""Merge a `config.pbtxt` of the user into the generated one; it must not contradict the artifact."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any

from builder.config.serving_config import WARMUP_FILE
from tritonkit.errors import InputError, Problem
from tritonkit.triton.backends import ModelConfig, backend_files, backend_of
from tritonkit.triton.model_config import warmup_sizes

_ARTIFACT_FIELDS = {
    *("name", "platform", "backend", "max_batch_size", "input", "output"),
    *("default_model_filename", "cc_model_filenames"),
}
_TENSOR_FIELDS = ("name", "data_type", "dims", "label_filename", "format")


def merge_config(generated: ModelConfig, user_config: ModelConfig, fixed: Collection[str] = ()) -> ModelConfig:
    """The generated configuration with the serving settings of the user's.

    A field that the user sets replaces the generated one; parameters and tags are replaced one by one. The user's
    `max_batch_size` may be smaller than the verified one. A file cannot turn dynamic batching off: without
    `dynamic_batching` the generated setting stays.
    fixed: the generated parameters that the artifact needs.
    Raises InputError that lists all contradictions, with both values.
    """
    if problems := list(conflicts(generated, user_config, fixed)):
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(
            f"{generated.name}: the user's config.pbtxt contradicts the artifact:\n{lines}",
            code="config.contradicts_artifact",
            problems=problems,
        )
    result, settings = copy.deepcopy(generated), copy.deepcopy(user_config)
    result.max_batch_size = user_config.max_batch_size or generated.max_batch_size
    for field, _ in user_config.ListFields():
        if field.name in _ARTIFACT_FIELDS:
            settings.ClearField(field.name)
        elif field.name not in ("parameters", "metric_tags"):
            result.ClearField(field.name)
    result.MergeFrom(settings)  # merges maps entry by entry
    formats = {tensor.name: tensor.format for tensor in user_config.input}
    for tensor in result.input:
        tensor.format = formats.get(tensor.name, tensor.format)
    return result


def conflicts(generated: ModelConfig, user_config: ModelConfig, fixed: Collection[str] = ()) -> Iterator[Problem]:
    """The values of the user's configuration that contradict the artifact, with both values."""
    if user_config.name not in ("", generated.name):
        yield Problem("config.name", f"name: the file says {user_config.name!r}, the model is {generated.name!r}")
    if backend_of(user_config) not in ("", backend_of(generated)):
        names = f"the file says {backend_of(user_config)!r}, the artifact is for {backend_of(generated)!r}"
        yield Problem("config.backend", f"backend: {names}")
    if user_config.max_batch_size < 0 or user_config.max_batch_size > generated.max_batch_size:
        sizes = f"the file says {user_config.max_batch_size}, verified is up to {generated.max_batch_size}"
        yield Problem("config.max_batch_size", f"max_batch_size: {sizes}")
    for field in ("ensemble_scheduling", "sequence_batching"):
        if user_config.HasField(field):
            yield Problem("config.not_for_a_network", f"{field}: the file has it, but the artifact is a single network")
    for side in ("input", "output"):
        yield from _tensor_conflicts(side, getattr(generated, side), getattr(user_config, side))
    if user_config.default_model_filename not in ("", expected := backend_files(generated).file):
        names = f"the file says {user_config.default_model_filename!r}, the artifact is {expected!r}"
        yield Problem("config.model_file", f"default_model_filename: {names}")
    for capability, name in user_config.cc_model_filenames.items():
        if (plan := generated.cc_model_filenames.get(capability, "no plan for it")) != name:
            names = f"the file says {name!r}, the artifact has {plan!r}"
            yield Problem("config.plan_file", f"cc_model_filenames {capability!r}: {names}")
    for name in warmup_sizes(user_config):
        if name not in {WARMUP_FILE, *warmup_sizes(generated)}:
            yield Problem(
                "config.warmup_file",
                f"model_warmup: the file reads {name!r}, which is not published; use random_data, or --warmup",
            )
    for key in fixed:
        actual, needed = (
            config.parameters[key].string_value if key in config.parameters else ""
            for config in (user_config, generated)
        )
        if actual not in ("", needed):
            yield Problem(
                "config.parameter", f"parameter {key!r}: the file says {actual!r}, the artifact needs {needed!r}"
            )


def _tensor_conflicts(side: str, generated: Any, user_tensors: Any) -> Iterator[Problem]:
    artifact = {entry.name: entry for entry in generated}
    for tensor in user_tensors:
        if tensor.name not in artifact:
            names = ", ".join(map(repr, artifact))
            yield Problem("config.unknown_tensor", f"{side} {tensor.name!r}: the artifact has {names}")
            continue
        entry = artifact[tensor.name]
        types = type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
        if tensor.data_type not in (0, entry.data_type):
            names = f"the file says {types[tensor.data_type].name}, the artifact has {types[entry.data_type].name}"
            yield Problem("config.data_type", f"{side} {tensor.name!r}: {names}")
        if tensor.dims and tensor.dims != entry.dims:
            dims = f"the file says dims {list(tensor.dims)}, the artifact has {list(entry.dims)}"
            yield Problem("config.dims", f"{side} {tensor.name!r}: {dims}")
        if side == "output" and tensor.label_filename not in ("", entry.label_filename):
            expected = entry.label_filename or "no labels"
            names = f"the file says labels in {tensor.label_filename!r}, the model has {expected!r}"
            yield Problem("config.label_file", f"output {tensor.name!r}: {names}")
        for field, _ in tensor.ListFields():
            if field.name not in _TENSOR_FIELDS:
                yield Problem(
                    "config.tensor_field", f"{side} {tensor.name!r}: the file sets {field.name}, the artifact has none"
                )
