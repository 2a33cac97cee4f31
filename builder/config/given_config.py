"""A `config.pbtxt` written by hand: what it says is taken over, unless it contradicts the artifact."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from builder.config.warmup import WARMUP_FILE, warmup_sizes
from model.errors import InputError
from model.triton_backends import ModelConfig, backend_of, loading_of

_ARTIFACT_FIELDS = {
    "name",
    "platform",
    "backend",
    "max_batch_size",
    "input",
    "output",
    "default_model_filename",
    "cc_model_filenames",
}
_MAP_FIELDS = ("parameters", "metric_tags")
_TENSOR_FIELDS = ("name", "data_type", "dims", "label_filename", "format")


def merge_config(generated: ModelConfig, user_config: ModelConfig, fixed: Collection[str] = ()) -> ModelConfig:
    """The configuration of an artifact with what the given one says of serving it.

    A field that `given` sets replaces ours as a whole; parameters and tags are replaced one by one. Its
    `max_batch_size` may be smaller than the one that was proven, and what it leaves out is ours.
    fixed: the parameters of ours that the artifact cannot do without. What a file cannot say is that dynamic batching
    is off: a file without `dynamic_batching` leaves it as it is.
    Raises InputError that lists every contradiction of the artifact, with both values.
    """
    if found := list(conflicts(generated, user_config, fixed)):
        heading = f"{generated.name}: the given config.pbtxt contradicts the artifact:"
        raise InputError("\n".join([heading, *(f"  {conflict}" for conflict in found)]))
    result = type(generated)()
    result.CopyFrom(generated)
    result.max_batch_size = user_config.max_batch_size or generated.max_batch_size
    for field, _ in user_config.ListFields():
        if field.name in _MAP_FIELDS:
            _merge_entries(result, user_config, field.name)
        elif field.name not in _ARTIFACT_FIELDS:
            result.ClearField(field.name)
            _copy_field(result, user_config, field.name)
    formats = {tensor.name: tensor.format for tensor in user_config.input}
    for tensor in result.input:
        tensor.format = formats.get(tensor.name, tensor.format)
    return result


def conflicts(generated: ModelConfig, user_config: ModelConfig, fixed: Collection[str] = ()) -> Iterator[str]:
    """What a given configuration says otherwise than the artifact has it, with both values."""
    if user_config.name not in ("", generated.name):
        yield f"name: the file says {user_config.name!r}, the model is {generated.name!r}"
    if backend_of(user_config) not in ("", backend_of(generated)):
        yield f"backend: the file says {backend_of(user_config)!r}, the artifact is for {backend_of(generated)!r}"
    if user_config.max_batch_size < 0 or user_config.max_batch_size > generated.max_batch_size:
        yield f"max_batch_size: the file says {user_config.max_batch_size}, proven is up to {generated.max_batch_size}"
    for kind in ("ensemble_scheduling", "sequence_batching"):
        if user_config.HasField(kind):
            yield f"{kind}: the file has it, the artifact is a network without it"
    for side in ("input", "output"):
        yield from _tensor_conflicts(side, getattr(generated, side), getattr(user_config, side))
    yield from _file_conflicts(generated, user_config)
    for key in fixed:
        said, has = (
            side.parameters[key].string_value if key in side.parameters else "" for side in (user_config, generated)
        )
        if said not in ("", has):
            yield f"parameter {key!r}: the file says {said!r}, the artifact needs {has!r}"


def _file_conflicts(generated: ModelConfig, user_config: ModelConfig) -> Iterator[str]:
    if user_config.default_model_filename not in ("", expected := loading_of(generated).file):
        yield f"default_model_filename: the file says {user_config.default_model_filename!r}, the artifact is {expected!r}"
    for capability, said in user_config.cc_model_filenames.items():
        if (has := generated.cc_model_filenames.get(capability, "no plan for it")) != said:
            yield f"cc_model_filenames {capability!r}: the file says {said!r}, the artifact has {has!r}"
    carried = {WARMUP_FILE, *warmup_sizes(generated)}
    for name in warmup_sizes(user_config):
        if name not in carried:
            yield f"model_warmup: the file reads {name!r}, which is not carried along; use random_data, or --warmup"


def _tensor_conflicts(side: str, generated: Any, user_tensors: Any) -> Iterator[str]:
    artifact = {entry.name: entry for entry in generated}
    for tensor in user_tensors:
        if tensor.name not in artifact:
            yield f"{side} {tensor.name!r}: the artifact has {', '.join(map(repr, artifact))}"
            continue
        entry = artifact[tensor.name]
        types = type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
        if tensor.data_type not in (0, entry.data_type):
            said, has = types[tensor.data_type].name, types[entry.data_type].name
            yield f"{side} {tensor.name!r}: the file says {said}, the artifact has {has}"
        if tensor.dims and tensor.dims != entry.dims:
            yield f"{side} {tensor.name!r}: the file says dims {list(tensor.dims)}, the artifact has {list(entry.dims)}"
        if side == "output" and tensor.label_filename not in ("", entry.label_filename):
            has = entry.label_filename or "no labels"
            yield f"output {tensor.name!r}: the file says labels in {tensor.label_filename!r}, the model has {has!r}"
        for field, _ in tensor.ListFields():
            if field.name not in _TENSOR_FIELDS:
                yield f"{side} {tensor.name!r}: the file sets {field.name}, the artifact has none"


def _merge_entries(result: ModelConfig, user_config: ModelConfig, name: str) -> None:
    for key, value in getattr(user_config, name).items():
        if isinstance(value, str):
            getattr(result, name)[key] = value
        else:
            getattr(result, name)[key].CopyFrom(value)


def _copy_field(result: ModelConfig, user_config: ModelConfig, name: str) -> None:
    one = type(user_config)()
    one.CopyFrom(user_config)
    for field, _ in user_config.ListFields():
        if field.name != name:
            one.ClearField(field.name)
    result.MergeFrom(one)
