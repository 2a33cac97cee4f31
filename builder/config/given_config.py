"""A `config.pbtxt` written by hand: what it says is taken over, unless it contradicts the artifact."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from builder.config.warmup import WARMUP_FILE, warmup_sizes
from model.errors import InputError
from model.triton_backends import ModelConfig, backend_of, loading_of

_OF_THE_ARTIFACT = {
    "name",
    "platform",
    "backend",
    "max_batch_size",
    "input",
    "output",
    "default_model_filename",
    "cc_model_filenames",
}
_BY_KEY = ("parameters", "metric_tags")
_KEPT_OF_A_TENSOR = ("name", "data_type", "dims", "label_filename", "format")


def merged(ours: ModelConfig, given: ModelConfig, fixed: Collection[str] = ()) -> ModelConfig:
    """The configuration of an artifact with what the given one says of serving it.

    A field that `given` sets replaces ours as a whole; parameters and tags are replaced one by one. Its
    `max_batch_size` may be smaller than the one that was proven, and what it leaves out is ours.
    fixed: the parameters of ours that the artifact cannot do without. What a file cannot say is that dynamic batching
    is off: a file without `dynamic_batching` leaves it as it is.
    Raises InputError that lists every contradiction of the artifact, with both values.
    """
    if found := list(conflicts(ours, given, fixed)):
        heading = f"{ours.name}: the given config.pbtxt contradicts the artifact:"
        raise InputError("\n".join([heading, *(f"  {conflict}" for conflict in found)]))
    result = type(ours)()
    result.CopyFrom(ours)
    result.max_batch_size = given.max_batch_size or ours.max_batch_size
    for field, _ in given.ListFields():
        if field.name in _BY_KEY:
            _take_entries(result, given, field.name)
        elif field.name not in _OF_THE_ARTIFACT:
            result.ClearField(field.name)
            _copy_field(result, given, field.name)
    formats = {tensor.name: tensor.format for tensor in given.input}
    for tensor in result.input:
        tensor.format = formats.get(tensor.name, tensor.format)
    return result


def conflicts(ours: ModelConfig, given: ModelConfig, fixed: Collection[str] = ()) -> Iterator[str]:
    """What a given configuration says otherwise than the artifact has it, with both values."""
    if given.name not in ("", ours.name):
        yield f"name: the file says {given.name!r}, the model is {ours.name!r}"
    if backend_of(given) not in ("", backend_of(ours)):
        yield f"backend: the file says {backend_of(given)!r}, the artifact is for {backend_of(ours)!r}"
    if given.max_batch_size < 0 or given.max_batch_size > ours.max_batch_size:
        yield f"max_batch_size: the file says {given.max_batch_size}, proven is up to {ours.max_batch_size}"
    for kind in ("ensemble_scheduling", "sequence_batching"):
        if given.HasField(kind):
            yield f"{kind}: the file has it, the artifact is a network without it"
    for side in ("input", "output"):
        yield from _tensor_conflicts(side, getattr(ours, side), getattr(given, side))
    yield from _file_conflicts(ours, given)
    for key in fixed:
        said, has = (side.parameters[key].string_value if key in side.parameters else "" for side in (given, ours))
        if said not in ("", has):
            yield f"parameter {key!r}: the file says {said!r}, the artifact needs {has!r}"


def _file_conflicts(ours: ModelConfig, given: ModelConfig) -> Iterator[str]:
    if given.default_model_filename not in ("", expected := loading_of(ours).file):
        yield f"default_model_filename: the file says {given.default_model_filename!r}, the artifact is {expected!r}"
    for capability, said in given.cc_model_filenames.items():
        if (has := ours.cc_model_filenames.get(capability, "no plan for it")) != said:
            yield f"cc_model_filenames {capability!r}: the file says {said!r}, the artifact has {has!r}"
    carried = {WARMUP_FILE, *warmup_sizes(ours)}
    for name in warmup_sizes(given):
        if name not in carried:
            yield f"model_warmup: the file reads {name!r}, which is not carried along; use random_data, or --warmup"


def _tensor_conflicts(side: str, ours: Any, given: Any) -> Iterator[str]:
    artifact = {entry.name: entry for entry in ours}
    for tensor in given:
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
            if field.name not in _KEPT_OF_A_TENSOR:
                yield f"{side} {tensor.name!r}: the file sets {field.name}, the artifact has none"


def _take_entries(result: ModelConfig, given: ModelConfig, name: str) -> None:
    for key, value in getattr(given, name).items():
        if isinstance(value, str):
            getattr(result, name)[key] = value
        else:
            getattr(result, name)[key].CopyFrom(value)


def _copy_field(result: ModelConfig, given: ModelConfig, name: str) -> None:
    one = type(given)()
    one.CopyFrom(given)
    for field, _ in given.ListFields():
        if field.name != name:
            one.ClearField(field.name)
    result.MergeFrom(one)
