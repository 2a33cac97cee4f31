"""A model as a Triton server describes it: inputs and outputs, batch size, parameters, and its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from tritonkit.errors import ArtifactError
from tritonkit.spec import METADATA_KEY, Frozen, ModelSpec
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


class ServedTensor(Frozen):
    """An input or output of a served model, without the batch axis."""

    name: str
    data_type: str
    """As in the configuration, without its prefix: FP32, STRING."""
    dims: tuple[int, ...]
    """-1 is a size that is not fixed."""
    optional: bool = Field(default=False, exclude=True)

    @property
    def dtype(self) -> str:
        """The data type as requests name it: BYTES for STRING."""
        return "BYTES" if self.data_type == "STRING" else self.data_type

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.dims))}]"


class ServedModel(Frozen):
    """A served model, also one that `builder` did not publish."""

    name: str
    origin: str = Field(exclude=True)
    """Server and model, for messages."""
    backend: str
    max_batch: int
    """0 for a model without a batch axis."""
    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]
    steps: tuple[str, ...] = ()
    """The models that an ensemble calls."""
    parameters: Mapping[str, str] = Field(default={}, exclude=True)
    instances: int = Field(default=0, exclude=True)
    preferred_batch_sizes: tuple[int, ...] = Field(default=(), exclude=True)
    is_decoupled: bool = Field(default=False, exclude=True)
    """Whether it streams its responses."""
    has_sequences: bool = Field(default=False, exclude=True)
    """Whether requests must belong to a sequence."""

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any], origin: str) -> Self:
        """Read the configuration that Triton returned as JSON; over gRPC its numbers are text."""
        return cls(
            name=name,
            origin=origin,
            backend=config.get("backend") or config.get("platform") or "unknown",
            max_batch=int(config.get("max_batch_size", 0)),
            inputs=tuple(map(_tensor, config.get("input", []))),
            outputs=tuple(map(_tensor, config.get("output", []))),
            steps=tuple(step["model_name"] for step in config.get("ensemble_scheduling", {}).get("step", [])),
            parameters={key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()},
            instances=sum(int(group.get("count", 1)) for group in config.get("instance_group", [])),
            preferred_batch_sizes=tuple(map(int, config.get("dynamic_batching", {}).get("preferred_batch_size", ()))),
            is_decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled")),
            has_sequences="sequence_batching" in config,
        )

    @property
    def has_spec(self) -> bool:
        """Whether `builder` published it."""
        return METADATA_KEY in self.parameters

    @property
    def encoded_of(self) -> str:
        """The model for which this one takes encoded images; empty for other models."""
        return self.parameters.get(ENCODED_OF, "")

    def spec(self) -> ModelSpec:
        """Return the spec in its parameters. Raises ArtifactError if it has none, SpecError."""
        if self.has_spec:
            return ModelSpec.from_json(self.parameters[METADATA_KEY], origin=self.origin)
        if self.encoded_of:
            raise ArtifactError(
                f"{self.origin}: takes encoded images and has no spec; use the model {self.encoded_of} instead",
                code="artifact.encoded_model",
            )
        raise ArtifactError(
            f"{self.origin}: its config.pbtxt has no {METADATA_KEY} parameter, so labels and preprocessing "
            "are unknown. Publish it with `builder export`",
            code="artifact.no_spec",
        )


def changed_answer_fields(known: ModelSpec, other: ModelSpec) -> list[str]:
    """Return the fields that differ and would make a client with the spec `known` misread the outputs of `other`."""
    changed = [name for name in _ANSWER_FIELDS if getattr(known, name) != getattr(other, name)]
    # The answers of a search hold their labels, so a version with more classes is read the same way.
    if known.gallery is not None and other.gallery is not None:
        changed = [name for name in changed if name != "labels"]
    if known.pipeline is not None and other.pipeline is not None:  # the server prepares the images
        changed = [name for name in changed if name != "preprocess"]
    return changed


def _tensor(entry: Mapping[str, Any]) -> ServedTensor:
    return ServedTensor(
        name=entry["name"],
        data_type=entry["data_type"].removeprefix("TYPE_"),
        dims=tuple(map(int, entry.get("dims", []))),
        optional=bool(entry.get("optional")),
    )
