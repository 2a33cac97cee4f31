"""The seam all ways to run a model share: `infer(batch) -> outputs`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from model.errors import BatchError
from model.preprocess import ImageArray
from model.spec import ModelSpec

Outputs = dict[str, NDArray[Any]]
"""Arrays by output name, each with the batch axis first."""


class Runner(ABC):
    """One model, opened somewhere. Safe to call from several threads."""

    spec: ModelSpec
    origin: str
    """The file or address, for messages."""
    max_batch: int | None = None
    """The largest batch it takes; None for no limit of its own."""

    def infer(self, batch: ImageArray) -> Outputs:
        """Answer a batch.

        batch: uint8 [N, H, W, 3] as the spec's input says. Returns each output, [N, ...].
        Raises BatchError for another shape or dtype, InferenceError when the model's host fails.
        """
        expected = self.spec.input.shape
        if batch.dtype != "uint8" or batch.shape[1:] != expected or not len(batch):
            raise BatchError(
                f"{self.origin}: input {self.spec.input} takes uint8 [N, {', '.join(map(str, expected))}], "
                f"got {batch.dtype} {list(batch.shape)}. Use model.preprocess.load_image."
            )
        return self._infer(np.require(batch, requirements=["C", "W"]))  # torch takes no other memory

    @abstractmethod
    def _infer(self, batch: ImageArray) -> Outputs: ...

    def close(self) -> None:  # noqa: B027 - most runners hold nothing to let go
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
