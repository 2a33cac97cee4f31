"""Describes any served model by its configuration; a model that `builder` did not publish has no spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.runners.triton import TritonServer
from model.spec import Frozen


class Tensor(Frozen):
    """An input or output as the configuration has it, without the batch axis of a model that takes batches."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    """-1 is a size that is not fixed."""

    def __str__(self) -> str:
        return f"{self.name} {self.data_type} [{', '.join(map(str, self.dims))}]"


class Description(Frozen):
    """A served model by its configuration."""

    name: str
    backend: str
    versions: tuple[str, ...]
    """Those that are loaded."""
    max_batch: int
    """0 for a model without a batch axis."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[str, ...] = ()
    """The models that an ensemble calls."""

    def rows(self) -> list[tuple[str, str]]:
        """A title and a text each."""
        batch = str(self.max_batch) if self.max_batch else "no batches"
        return [
            ("backend", self.backend),
            ("versions", ", ".join(self.versions)),
            *(("input", str(one)) for one in self.inputs),
            *(("output", str(one)) for one in self.outputs),
            *([("steps", ", ".join(self.steps))] if self.steps else []),
            ("largest batch", batch),
        ]


def description_of(server: TritonServer, model: str, config: Mapping[str, Any]) -> Description:
    """Describe a served model. config: as the server tells it. Raises InferenceError in its kinds."""
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    return Description(
        name=model,
        backend=config.get("backend") or config.get("platform") or "unknown",
        versions=tuple(server.versions(model)),
        max_batch=int(config.get("max_batch_size", 0)),
        inputs=tuple(map(_tensor, config.get("input", []))),
        outputs=tuple(map(_tensor, config.get("output", []))),
        steps=tuple(step["model_name"] for step in steps),
    )


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    """gRPC gives numbers as text."""
    dims = tuple(map(int, entry.get("dims", [])))
    return Tensor(name=entry["name"], data_type=entry["data_type"].removeprefix("TYPE_"), dims=dims)
