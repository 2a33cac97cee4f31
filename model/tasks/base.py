"""The seam every task implements; nothing else in the kit asks which task a model has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runners.base import Outputs
from model.spec import TensorSpec

Answer = dict[str, Any]
"""What is told of one picture: a JSON object whose keys the task defines."""


class Task(ABC):
    """A kind of question a model answers about a picture."""

    name: str

    @abstractmethod
    def outputs(self, labels: Sequence[str]) -> tuple[TensorSpec, ...]:
        """The outputs of a model of this task. Raises SpecError when the labels do not allow any."""

    @abstractmethod
    def decisions_kept(self, expected: Outputs, actual: Outputs) -> NDArray[np.bool_]:
        """For each of N images: do both answers decide the same? A tie may be broken either way."""

    @abstractmethod
    def quality(self, outputs: Outputs, targets: NDArray[np.int64]) -> dict[str, float]:
        """How good answers are where the truth is known, each figure in 0..1."""

    @abstractmethod
    def answer(self, output: Mapping[str, NDArray[Any]], labels: Sequence[str], top: int) -> Answer:
        """The answer for one image, from its outputs without the batch axis."""

    @abstractmethod
    def caption(self, answer: Answer) -> str:
        """An answer in a few words, for a contact sheet."""

    @abstractmethod
    def cells(self, answer: Answer) -> list[str]:
        """An answer as the cells of a table row, the best first."""
