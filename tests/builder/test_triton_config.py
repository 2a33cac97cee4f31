"""`config.pbtxt` is Triton's own message, survives being written, and keeps what was tuned."""

from __future__ import annotations

import pytest

from builder.triton_config import config_for, config_from_text, config_to_text, public_json, tensors_of
from model.errors import ArtifactError
from model.spec import METADATA_KEY, Lineage, ModelSpec, TensorSpec


def test_config_says_what_the_artifact_has(spec: ModelSpec) -> None:
    config = config_from_text(config_to_text(config_for(spec, ((spec.input,), spec.outputs), 16, 4)), "x")
    assert (config.name, config.backend, config.max_batch_size) == ("pets", "onnxruntime", 16)
    assert tensors_of(config.input) == (spec.input,)
    assert tensors_of(config.output) == spec.outputs
    assert config.output[0].label_filename == "labels.txt"
    assert config.HasField("dynamic_batching")
    assert ModelSpec.from_json(config.parameters[METADATA_KEY].string_value, "x") == spec


def test_config_tells_clients_nothing_of_the_training_machine(spec: ModelSpec) -> None:
    secretive = spec.model_copy(update={"lineage": Lineage(config={"path": "/home/me/secret"})})
    assert "secret" not in public_json(secretive)
    assert "secret" in secretive.to_json()


def test_config_keeps_what_was_tuned_when_a_version_is_added(spec: ModelSpec) -> None:
    interface = ((spec.input,), spec.outputs)
    present = config_for(spec, interface, 16, 1)
    present.instance_group.add(count=3)
    present.dynamic_batching.max_queue_delay_microseconds = 250
    config = config_for(spec, interface, 16, 2, present)
    assert config.instance_group[0].count == 3
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert len(config.input) == 1


def test_config_is_refused_when_the_artifact_disagrees_with_the_spec(spec: ModelSpec) -> None:
    other = TensorSpec(name="probabilities", dtype="FP32", shape=(4,))
    with pytest.raises(ArtifactError, match=r"probabilities FP32 \[N, 4\]; its spec says"):
        config_for(spec, ((spec.input,), (other,)), 16, 1)


def test_config_survives_labels_of_any_characters(spec: ModelSpec) -> None:
    odd = spec.model_copy(update={"labels": ('say "cat"', "naïve \\ chien", "猫\t")})
    config = config_from_text(config_to_text(config_for(odd, ((odd.input,), odd.outputs), 1, 1)), "x")
    assert ModelSpec.from_json(config.parameters[METADATA_KEY].string_value, "x").labels == odd.labels
