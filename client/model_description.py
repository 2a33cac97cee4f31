"""Describe a served model by its Triton configuration, also a model that `builder` did not publish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonkit.spec import Frozen
from tritonkit.triton.runner import TritonServer


class TensorDescription(Frozen):
    """An input or output of the configuration, without the batch axis."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    """-1 is a size that is not fixed."""

    def __str__(self) -> str:
        return f"{self.name} {self.data_type} [{', '.join(map(str, self.dims))}]"


class ModelDescription(Frozen):
    """A served model, described by its configuration."""

    name: str
    backend: str
    versions: tuple[str, ...]
    """The loaded versions."""
    max_batch: int
    """0 for a model without a batch axis."""
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    steps: tuple[str, ...] = ()
    """The models that an ensemble calls."""

    def rows(self) -> list[tuple[str, str]]:
        """Return pairs of title and text."""
        batch = str(self.max_batch) if self.max_batch else "no batches"
        return [
            ("backend", self.backend),
            ("versions", ", ".join(self.versions)),
            *(("input", str(tensor)) for tensor in self.inputs),
            *(("output", str(tensor)) for tensor in self.outputs),
            *([("steps", ", ".join(self.steps))] if self.steps else []),
            ("largest batch", batch),
        ]


def describe_model(server: TritonServer, model: str, config: Mapping[str, Any]) -> ModelDescription:
    """Describe a served model. config: the server's JSON. Raises InferenceError and its subclasses."""
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    return ModelDescription(
        name=model,
        backend=config.get("backend") or config.get("platform") or "unknown",
        versions=tuple(server.versions(model)),
        max_batch=int(config.get("max_batch_size", 0)),
        inputs=tuple(map(_tensor, config.get("input", []))),
        outputs=tuple(map(_tensor, config.get("output", []))),
        steps=tuple(step["model_name"] for step in steps),
    )


def _tensor(entry: Mapping[str, Any]) -> TensorDescription:
    """Read one entry; gRPC gives numbers as text."""
    dims = tuple(map(int, entry.get("dims", [])))
    return TensorDescription(name=entry["name"], data_type=entry["data_type"].removeprefix("TYPE_"), dims=dims)
