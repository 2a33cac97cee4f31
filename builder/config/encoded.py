"""The configurations of the two models that have a model take encoded pictures.

What was tuned in the present ones (instances, batching, threads) is kept, as with the model itself.
Ensembles: triton-inference-server/server, docs/user_guide/ensemble_models.md. A map's key is the composing model's
tensor, its value the ensemble's.
"""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2

from builder.config.triton_config import fit_sizes
from model.encoded import ENCODED_INPUT, ENCODED_OF, decoder_of, ensemble_of
from model.triton_backends import ModelConfig

_LATEST = -1
"""Triton's word for the newest version that the model's policy loads: a step follows the model by itself."""
_CPU = model_config_pb2.ModelInstanceGroup.Kind.Value("KIND_CPU")


def decoder_config(model: ModelConfig, present: ModelConfig | None = None) -> ModelConfig:
    """The configuration of `NAME_decode`: `encoded` BYTES [1] in, the model's input out."""
    config = _base(model, present)
    if present is None:
        config.instance_group.add(count=1, kind=_CPU)
        config.dynamic_batching.SetInParent()
    config.name, config.backend = decoder_of(model.name), "python"
    for image in model.input:
        config.output.add(name=image.name, data_type=image.data_type, dims=image.dims)
    return config


def ensemble_config(model: ModelConfig, present: ModelConfig | None = None) -> ModelConfig:
    """The configuration of `NAME_encoded`: `encoded` BYTES [1] in, the model's outputs out.

    It names no labels: Triton takes those of the composing model.
    """
    config = _base(model, present)
    config.name, config.platform = ensemble_of(model.name), "ensemble"
    config.ClearField("ensemble_scheduling")
    for tensor in model.output:
        config.output.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    decoding = config.ensemble_scheduling.step.add(model_name=decoder_of(model.name), model_version=_LATEST)
    decoding.input_map[ENCODED_INPUT] = ENCODED_INPUT
    answering = config.ensemble_scheduling.step.add(model_name=model.name, model_version=_LATEST)
    for image in model.input:
        decoding.output_map[image.name] = image.name
        answering.input_map[image.name] = image.name
    for tensor in model.output:
        answering.output_map[tensor.name] = tensor.name
    return config


def _base(model: ModelConfig, present: ModelConfig | None) -> ModelConfig:
    config = model_config_pb2.ModelConfig()
    if present is not None:
        config.CopyFrom(present)
        del config.input[:], config.output[:]
    config.max_batch_size = model.max_batch_size
    fit_sizes(config, model.max_batch_size)
    config.parameters[ENCODED_OF].string_value = model.name
    config.input.add(name=ENCODED_INPUT, data_type=model_config_pb2.DataType.Value("TYPE_STRING"), dims=[1])
    return config
