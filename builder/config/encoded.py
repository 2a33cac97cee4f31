"""The configurations of `NAME_decode` and `NAME_encoded`, which make a model accept JPEG, PNG and WebP files.

Tuned settings of the current configurations (instances, batching, threads) are kept.
Ensembles: triton-inference-server/server, docs/user_guide/ensemble_models.md. The key of a map is a tensor of the
composing model, its value a tensor of the ensemble.
"""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2

from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.companions import ENCODED_INPUT, ENCODED_OF, ONE_PROCESS_BACKEND, decoder_of, ensemble_of
from tritonkit.triton.model_config import fit_sizes

_LATEST = -1
"""Triton's number for the newest version that the policy of the model loads."""
_CPU = model_config_pb2.ModelInstanceGroup.Kind.Value("KIND_CPU")


def decoder_config(model: ModelConfig, current: ModelConfig | None = None) -> ModelConfig:
    """The configuration of `NAME_decode`: `encoded` BYTES [1] in, the model's input out."""
    config = _base(model, current)
    if current is None:
        config.instance_group.add(count=1, kind=_CPU)
        config.dynamic_batching.SetInParent()
    config.name, config.backend = decoder_of(model.name), "python"
    for image in model.input:
        config.output.add(name=image.name, data_type=image.data_type, dims=image.dims)
    return config


def ensemble_config(model: ModelConfig, current: ModelConfig | None = None) -> ModelConfig:
    """The configuration of `NAME_encoded`: `encoded` BYTES [1] in, the model's outputs out.

    It has no labels: Triton takes those of the composing model.
    """
    config = _base(model, current)
    config.name, config.platform = ensemble_of(model.name), "ensemble"
    config.ClearField("ensemble_scheduling")
    for tensor in model.output:
        config.output.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    decode_step = config.ensemble_scheduling.step.add(model_name=decoder_of(model.name), model_version=_LATEST)
    decode_step.input_map[ENCODED_INPUT] = ENCODED_INPUT
    model_step = config.ensemble_scheduling.step.add(model_name=model.name, model_version=_LATEST)
    for image in model.input:
        decode_step.output_map[image.name] = image.name
        model_step.input_map[image.name] = image.name
    for tensor in model.output:
        model_step.output_map[tensor.name] = tensor.name
    return config


def one_process_config(model: ModelConfig, ensemble: ModelConfig) -> ModelConfig:
    """The second configuration of `NAME_encoded`: the same inputs and outputs, by tritonkit's backend."""
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(ensemble)
    for field in ("name", "platform", "ensemble_scheduling"):
        config.ClearField(field)
    config.backend = ONE_PROCESS_BACKEND
    config.instance_group.add(count=1, kind=_CPU)
    config.dynamic_batching.SetInParent()
    for output, labelled in zip(config.output, model.output, strict=True):  # an ensemble has those of its models
        if labelled.label_filename:
            output.label_filename = f"../{model.name}/{labelled.label_filename}"
    return config


def _base(model: ModelConfig, current: ModelConfig | None) -> ModelConfig:
    config = model_config_pb2.ModelConfig()
    if current is not None:
        config.CopyFrom(current)
        del config.input[:], config.output[:]
    config.max_batch_size = model.max_batch_size
    fit_sizes(config, model.max_batch_size)
    config.parameters[ENCODED_OF].string_value = model.name
    config.input.add(name=ENCODED_INPUT, data_type=model_config_pb2.DataType.Value("TYPE_STRING"), dims=[1])
    return config
