"""Read the spec of a served model, and compare it with the spec of another version."""

from __future__ import annotations

from typing import Any

from tritonkit.errors import ArtifactError
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.triton.companions import ENCODED_OF

_ANSWER_FIELDS = (
    "task",
    "labels",
    "thresholds",
    "embedding_size",
    "probability",
    "heads",
    "input",
    "outputs",
    "preprocess",
)
"""Spec fields that a client needs to prepare images and read outputs; the other fields describe the network."""


def spec_from_config(config: dict[str, Any], origin: str) -> ModelSpec:
    """Parse the spec in a model configuration that Triton returned. Raises ArtifactError if it has none, SpecError."""
    parameters = config.get("parameters", {})
    parameter = parameters.get(METADATA_KEY)
    if parameter is None and ENCODED_OF in parameters:
        owner = parameters[ENCODED_OF]["string_value"]
        raise ArtifactError(
            f"{origin}: takes encoded images and has no spec; use the model {owner} instead",
            code="artifact.encoded_model",
        )
    if parameter is None:
        raise ArtifactError(
            f"{origin}: its config.pbtxt has no {METADATA_KEY} parameter, so labels and preprocessing "
            "are unknown. Publish it with `builder export`",
            code="artifact.no_spec",
        )
    return ModelSpec.from_json(parameter["string_value"], origin=origin)


def changed_answer_fields(known: ModelSpec, other: ModelSpec) -> list[str]:
    """Return the fields that differ and would make a client with the spec `known` misread the outputs of `other`."""
    return [name for name in _ANSWER_FIELDS if getattr(known, name) != getattr(other, name)]
