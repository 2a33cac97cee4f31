"""The spec of a served model, and whether answers of another version can be read by it."""

from __future__ import annotations

from typing import Any

from model.encoded import ENCODED_OF
from model.errors import ArtifactError
from model.spec import METADATA_KEY, ModelSpec

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
"""What pictures are prepared and answers read by; the other fields say how a network is built."""


def spec_in(config: dict[str, Any], origin: str) -> ModelSpec:
    """The spec in a model's configuration as Triton tells it. Raises ArtifactError where there is none, SpecError."""
    parameters = config.get("parameters", {})
    parameter = parameters.get(METADATA_KEY)
    if parameter is None and ENCODED_OF in parameters:
        owner = parameters[ENCODED_OF]["string_value"]
        raise ArtifactError(f"{origin}: takes picture files and has no spec of its own; ask {owner}, which it is of")
    if parameter is None:
        raise ArtifactError(
            f"{origin}: its config.pbtxt has no {METADATA_KEY} parameter, so labels and preprocessing "
            "are unknown. Publish it with `builder export`."
        )
    return ModelSpec.from_json(parameter["string_value"], origin=origin)


def differences(known: ModelSpec, other: ModelSpec) -> list[str]:
    """The fields for which a client of `known` would misread the answers of `other`."""
    return [name for name in _ANSWER_FIELDS if getattr(known, name) != getattr(other, name)]
