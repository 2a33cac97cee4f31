"""Generate `config.pbtxt` with Triton's own protobuf.

Schema: triton-inference-server/common, protobuf/model_config.proto, as `tritonclient` ships it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, get_args

from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2

from builder.config.config_merge import merge_config
from builder.config.serving_config import apply_serving, fit_graphs
from builder.interface import Interface, check_interface
from tritonkit.errors import ArtifactError, InputError
from tritonkit.export_options import UNCHANGED_SERVING, ServingOptions
from tritonkit.repository.config_rules import check_config
from tritonkit.spec import METADATA_KEY, DType, ModelSpec, TensorSpec
from tritonkit.triton.backends import BackendFiles, ModelConfig, backend_files
from tritonkit.triton.model_config import LAST_VERSION, fit_sizes

ONNX = BackendFiles()


def config_for(
    spec: ModelSpec,
    interface: Interface,
    max_batch: int,
    version: int,
    current_config: ModelConfig | None = None,
    *,
    loading: BackendFiles = ONNX,
    serving: ServingOptions = UNCHANGED_SERVING,
    user_config: ModelConfig | None = None,
    other_versions: Collection[int] | None = None,
) -> ModelConfig:
    """Return the configuration of an artifact with the inputs and outputs `interface`.

    Tuned settings (instances, batching, …) of `current_config` are kept. Those of `user_config` override them, and
    `serving` overrides both. other_versions: the other versions of the model; None if they are not known.

    Raises ArtifactError where the artifact's interface is not the spec's, InputError where the user's configuration
    contradicts the artifact, where older versions do not load with this backend, or for what Triton would refuse.
    """
    check_interface(spec, interface)
    if current_config is not None and (other_versions is None or other_versions):
        current = backend_files(current_config, loading.parameters)
        if not current.backend:  # Triton chooses the backend by the file
            current = replace(current, backend=loading.backend)
        if not current.same(loading):
            raise InputError(
                f"{spec.name}: its versions are {current}, the new one is {loading}. Triton has one config.pbtxt for "
                "all versions of a model, so the older ones would not load, or give other answers: export with another "
                "--name",
                code="config.other_backend",
            )
    config = model_config_pb2.ModelConfig()
    if current_config is None:
        config.dynamic_batching.SetInParent()
        if loading.backend != "tensorrt":  # Triton's default on a CPU is two, which share the cores
            config.instance_group.add(count=1)
    else:  # keep its settings, adapted to the largest batch and the image size
        config.CopyFrom(current_config)
        del config.input[:], config.output[:]
        for name in ("platform", "default_model_filename", "cc_model_filenames"):
            config.ClearField(name)
        for key in backend_files(current_config).parameters:
            del config.parameters[key]
        fit_sizes(config, max_batch)
        fit_graphs(config, spec.input)
    config.name, config.backend, config.max_batch_size = spec.name, loading.backend, max_batch
    config.default_model_filename = loading.default_model_filename
    config.cc_model_filenames.update(loading.plans)
    inputs, outputs = interface
    for tensor in inputs:
        config.input.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape)
    for tensor in outputs:
        entry = config.output.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape)
        task = spec.heads.get(tensor.name, spec)
        # The last axis is not the labels in a mask.
        if task.labels and task.embedding_size is None and tensor.shape == (len(task.labels),):
            entry.label_filename = f"labels.{tensor.name}.txt" if spec.heads else "labels.txt"
    for key, value in loading.parameters.items():
        config.parameters[key].string_value = value
    if user_config is not None:
        config = merge_config(config, user_config, tuple(loading.parameters))
    config.parameters[METADATA_KEY].string_value = spec.public().to_json()
    config.parameters[LAST_VERSION].string_value = str(version)
    apply_serving(config, serving, spec.input)
    check_config(config)
    return config


def tensors_of(entries: Any, variable_sizes: bool = False) -> tuple[TensorSpec, ...]:
    """Convert the `input` or `output` of a configuration to tensor specs.

    variable_sizes: whether sizes may be -1, as in a pipeline. Raises ArtifactError for a tensor without a type that
    image models use, or with other sizes.
    """
    tensors = []
    for entry in entries:
        dtype = model_config_pb2.DataType.Name(entry.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
        try:
            sizes = [size if variable_sizes else max(size, 0) for size in entry.dims]
            tensor = TensorSpec.model_validate({"name": entry.name, "dtype": dtype, "shape": sizes})
        except ValidationError as error:
            type_text = "no data_type" if dtype == "INVALID" else f"data_type {dtype}"
            raise ArtifactError(
                f"{entry.name!r} has {type_text} and dims {list(entry.dims)}; expected one of "
                f"{', '.join(get_args(DType))}, and fixed sizes of 1 or more",
                code="config.tensor",
            ) from error
        tensors.append(tensor)
    return tuple(tensors)


def _data_type(tensor: TensorSpec) -> int:
    number: int = model_config_pb2.DataType.Value("TYPE_" + tensor.dtype.replace("BYTES", "STRING"))
    return number
