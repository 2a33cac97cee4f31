"""`config.pbtxt`, made with Triton's own protobuf, never by string templates.

Schema: triton-inference-server/common, protobuf/model_config.proto, as `tritonclient` ships it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, get_args

from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2

from builder.config.given_config import merge_config
from builder.config.serving import AS_BEFORE, Serving
from builder.config.serving_config import check_config, fit_graphs, apply_serving
from builder.interface import Interface, difference, interface_of
from model.errors import ArtifactError, InputError
from model.spec import METADATA_KEY, DType, ModelSpec, TensorSpec
from model.triton_backends import Loading, ModelConfig, loading_of
from model.triton_config import LAST_VERSION, config_from_text

ONNX = Loading()


def config_for(
    spec: ModelSpec,
    interface: Interface,
    max_batch: int,
    version: int,
    present: ModelConfig | None = None,
    *,
    loading: Loading = ONNX,
    serving: Serving = AS_BEFORE,
    given: ModelConfig | None = None,
    older: Collection[int] | None = None,
) -> ModelConfig:
    """The configuration of an artifact, whose own inputs and outputs are `interface`.

    What was tuned in the `present` configuration of the model (instances, batching, …) is kept; what a `given` one
    says goes before it, and what is asked in `serving` before both. older: the versions that stay beside the new one;
    None is not known, and taken for some.

    Raises ArtifactError when the artifact's interface is not the spec's, InputError for a given configuration that
    contradicts the artifact, a backend that the older versions do not load in, or what Triton would refuse.
    """
    _check_interface(spec, interface)
    if present is not None and (older is None or older):
        _check_older_versions_load(spec, present, loading)
    config = _base_config(present, max_batch, spec.input)
    config.name, config.backend, config.max_batch_size = spec.name, loading.backend, max_batch
    config.default_model_filename = loading.default_model_filename
    config.cc_model_filenames.update(loading.plans)
    _add_tensors(config, spec, interface)
    for key, value in loading.parameters.items():
        config.parameters[key].string_value = value
    if given is not None:
        config = merge_config(config, given, tuple(loading.parameters))
    config.parameters[METADATA_KEY].string_value = public_json(spec)
    config.parameters[LAST_VERSION].string_value = str(version)
    apply_serving(config, serving, spec.input)
    check_config(config)
    return config


def _check_interface(spec: ModelSpec, interface: Interface) -> None:
    if other := difference(interface, interface_of(spec), "its spec says"):
        raise ArtifactError(f"{spec.name}: the artifact {other}")


def _check_older_versions_load(spec: ModelSpec, present: ModelConfig, loading: Loading) -> None:
    """One configuration holds for all versions, and with it the backend and the name of the file it loads."""
    before = loading_of(present, loading.parameters)
    if not before.backend:  # left to Triton, which goes by the file
        before = replace(before, backend=loading.backend)
    if not before.same(loading):
        raise InputError(
            f"{spec.name}: its versions are {before}, the new one is {loading}. Triton has one config.pbtxt for all "
            "versions of a model, so the older ones would no longer load, or answer otherwise: export under another "
            "--name"
        )


def _base_config(present: ModelConfig | None, max_batch: int, image: TensorSpec) -> ModelConfig:
    """What is kept of the present configuration, fitted to the largest batch and the image as they are now."""
    config = model_config_pb2.ModelConfig()
    if present is None:
        config.dynamic_batching.SetInParent()
        return config
    config.CopyFrom(present)
    del config.input[:], config.output[:]
    for name in ("platform", "default_model_filename", "cc_model_filenames"):
        config.ClearField(name)
    for key in loading_of(present).parameters:
        del config.parameters[key]
    fit_sizes(config, max_batch)
    fit_graphs(config, image)
    return config


def _add_tensors(config: ModelConfig, spec: ModelSpec, interface: Interface) -> None:
    for tensor in interface[0]:
        config.input.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape)
    for tensor in interface[1]:
        config.output.add(
            name=tensor.name,
            data_type=_data_type(tensor),
            dims=tensor.shape,
            label_filename=_label_file(spec, tensor),
        )


def public_json(spec: ModelSpec) -> str:
    """The spec as clients see it: without its lineage, which tells of the training machine."""
    return spec.model_copy(update={"lineage": type(spec.lineage)()}).to_json()


def label_texts(spec: ModelSpec) -> dict[str, str]:
    """The files of labels beside a model and their content: one label a line, in the order of the classes."""
    task_specs = {f"labels.{name}.txt": head for name, head in spec.heads.items()} or {"labels.txt": spec}
    return {
        name: "".join(f"{label}\n" for label in question.labels)
        for name, question in task_specs.items()
        if question.labels
    }


def config_to_text(config: ModelConfig) -> str:
    """The text of `config.pbtxt`; reading it back must give the same message."""
    text: str = text_format.MessageToString(config, as_utf8=True)
    if config_from_text(text, origin=config.name) != config:
        raise ArtifactError(f"{config.name}: its configuration does not survive being written as text")
    return text


def tensors_of(entries: Any) -> tuple[TensorSpec, ...]:
    """A configuration's `input` or `output` as tensor specs.

    Raises ArtifactError for one whose type is not said or no image model's, or whose sizes are not fixed.
    """
    return tuple(map(_tensor, entries))


def _tensor(entry: Any) -> TensorSpec:
    dtype = model_config_pb2.DataType.Name(entry.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
    type_text = "no data_type" if dtype == "INVALID" else f"data_type {dtype}"
    try:
        return TensorSpec.model_validate({"name": entry.name, "dtype": dtype, "shape": list(entry.dims)})
    except ValidationError as error:
        raise ArtifactError(
            f"{entry.name!r} has {type_text} and dims {list(entry.dims)}; expected one of "
            f"{', '.join(get_args(DType))}, and fixed sizes of 1 or more"
        ) from error


def _label_file(spec: ModelSpec, tensor: TensorSpec) -> str:
    """The file that names an output's values, empty for one whose last axis is no labels, such as a mask."""
    question = spec.heads.get(tensor.name, spec)
    if not question.labels or question.embedding_size is not None or tensor.shape != (len(question.labels),):
        return ""
    return f"labels.{tensor.name}.txt" if spec.heads else "labels.txt"


def fit_sizes(config: ModelConfig, max_batch: int) -> None:
    """Triton refuses a preferred batch or a CUDA graph above the maximum."""
    if config.HasField("dynamic_batching"):
        sizes = config.dynamic_batching.preferred_batch_size
        sizes[:] = [size for size in sizes if size <= max_batch]
    specs = config.optimization.cuda.graph_spec if config.optimization.HasField("cuda") else []
    for index in reversed(range(len(specs))):
        if specs[index].batch_size > max_batch:
            del specs[index]


def _data_type(tensor: TensorSpec) -> int:
    number: int = model_config_pb2.DataType.Value("TYPE_" + tensor.dtype.replace("BYTES", "STRING"))
    return number
