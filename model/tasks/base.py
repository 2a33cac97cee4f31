"""The seam every task implements; nothing else in the kit asks which task a model has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from model.errors import AnswerError, SpecError
from model.preprocess import Geometry
from model.runners.base import Outputs
from model.spec import TaskSpec, TensorSpec

if TYPE_CHECKING:
    from torch import nn

Targets = dict[str, NDArray[Any]]
"""What is known to be true of N images, each [N, ...], by the name of the head's first output."""
Agreement = dict[str, NDArray[np.float64]]
"""How far two answers agree on each of N images, by measure, in 0..1; 1 is the same answer."""

IMPOSSIBLE_ANSWER_ADVICE = (
    "Such an answer means nothing: the model's weights are broken, or its precision overflows. Compare a served model "
    "with its checkpoint by `client check`, a file by `builder verify`"
)
RANGE_TOLERANCE = 1e-3
"""How far a reduced precision may put a probability outside 0..1."""
TIE = 1e-3
"""Two answers whose probabilities differ by less than this are equally good, where nothing else is said."""


@dataclass(frozen=True)
class Answer:
    """What is told of one picture."""

    fields: dict[str, Any]
    """A JSON object whose keys the task defines."""
    embedding: NDArray[np.float32] | None = None
    """[D], unit length."""
    mask: NDArray[np.uint8] | None = None
    """Class numbers [H, W] at the picture's own size; 0 is the background."""


class Task(ABC):
    """A kind of question a model answers about a picture, with the terms of one model."""

    name: ClassVar[str]
    output_name: ClassVar[str]
    """Of the first output, where the task is a model's only one."""
    floors: ClassVar[Mapping[str, float]]
    """For each measure of agreement, what an image must reach to count as the same decision."""
    dense: ClassVar[bool] = False
    """Whether it answers each pixel, which takes another kind of network."""
    thresholded: ClassVar[bool] = False
    """Whether thresholds decide, so that others may be tried without another network."""

    def __init__(self, question: TaskSpec, output: str | None = None) -> None:
        """`output` names the first output where the model has several heads. Raises SpecError for wrong terms."""
        self.question = question
        self.output = output or self.output_name
        self.labels = question.labels
        if question.thresholds and not self.thresholded:
            raise SpecError(f"{self.name}: takes what is most probable, without thresholds")
        wrong = [f"{label}: {value}" for label, value in question.thresholds.items() if not 0 < value < 1]
        if wrong:
            raise SpecError(f"{self.name}: a threshold lies between 0 and 1, got {', '.join(wrong)}")

    @property
    def channels(self) -> int:
        """How many raw values the network's head gives, for an image or for each pixel of it: one a label."""
        return len(self.labels)

    def outputs(self, image: TensorSpec) -> tuple[TensorSpec, ...]:
        """The outputs of a model with the input `image`: one, with a number for each raw value."""
        return (TensorSpec(name=self.output, dtype="FP32", shape=(self.channels,)),)

    @abstractmethod
    def last_layer(self) -> nn.Module:
        """A module from the head's raw values [N, channels, ...] to a tuple of the outputs."""

    @abstractmethod
    def faults(self, outputs: Outputs) -> list[str]:
        """What is wrong with finite answers by themselves: things that no answer of this task can be."""

    def value_problem(self, outputs: Outputs) -> str | None:
        """Why the answers [N, ...] mean nothing: NaN or infinite values, or a fault; None where they mean something."""
        problems = self.layout_problems(outputs) or [
            text for name, array in outputs.items() if (text := _describe_non_finite(name, array))
        ]
        return "; ".join(problems or self.faults(outputs)) or None

    def layout_problems(self, outputs: Outputs) -> list[str]:
        """What of the task's own outputs is missing, or has not one value a label."""
        if self.output not in outputs:
            return [f"there is no output {self.output}; the model gives {', '.join(outputs)}"]
        shape = outputs[self.output].shape[1:]
        if type(self).outputs is not Task.outputs or shape == (self.channels,):
            return []
        return [f"output {self.output} has shape {list(shape)} for a picture, expected [{self.channels}]"]

    def check_values(self, outputs: Outputs) -> None:
        """Refuse answers [N, ...] that mean nothing. Raises AnswerError."""
        if (problem := self.value_problem(outputs)) is not None:
            raise AnswerError(f"{problem}. {IMPOSSIBLE_ANSWER_ADVICE}")

    def checked_answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        """As `answer`, after a check of the values. Raises AnswerError."""
        self.check_values({name: array[None] for name, array in output.items()})
        return self.answer(output, geometry, top)

    @abstractmethod
    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Sequence[Geometry] | None = None, tie: float = TIE
    ) -> Agreement:
        """How far both answers agree; a tie may be broken either way.

        geometries: how each of the images was fitted, where known.
        """

    @abstractmethod
    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        """How good answers are where the truth is known, each figure in 0..1."""

    @abstractmethod
    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        """The answer for one image, from its outputs without the batch axis."""

    @abstractmethod
    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        """What was told of an image as the cells of a table row, the best first."""

    def captions(self, answers: Sequence[Answer], names: Sequence[str]) -> list[str]:
        """For each answer a few words to stand below its picture; `names` are those of the pictures."""
        return [self.cells(answer.fields)[0] for answer in answers]

    def with_threshold(self, threshold: float) -> Task:
        """The same task with one threshold for all labels. Raises SpecError where none decides, or outside (0, 1)."""
        if not self.thresholded:
            raise SpecError(f"{self.name} has no threshold to be replaced: it takes what is most probable, or all")
        question = self.question.model_copy(update={"thresholds": dict.fromkeys(self.labels, threshold)})
        return type(self)(question, self.output)

    def decisions_kept(self, agreement: Agreement, slack: float = 1) -> NDArray[np.bool_]:
        """For each of N images: do both answers decide the same?

        slack: by how many times more than usual they may differ, where a reduced precision is judged.
        """
        kept = [values >= 1 - slack * (1 - self._floor(measure)) for measure, values in agreement.items()]
        all_kept: NDArray[np.bool_] = np.logical_and.reduce(kept)
        return all_kept

    def _floor(self, measure: str) -> float:
        return self.floors[measure]

    def _require_labels(self, least: int) -> None:
        if len(self.labels) < least:
            raise SpecError(f"{self.name} needs at least {least} labels, got {self.question.described_labels()}")


def outside_range(name: str, probabilities: NDArray[Any], cause: str) -> list[str]:
    """Why finite values are no probabilities; none where all lie in 0..1. cause: what is likely wrong."""
    least, most = float(probabilities.min()), float(probabilities.max())
    if least >= -RANGE_TOLERANCE and most <= 1 + RANGE_TOLERANCE:
        return []
    return [f"{name} lie in {least:.3g}..{most:.3g}, expected 0..1: {cause}"]


def _describe_non_finite(name: str, array: NDArray[Any]) -> str:
    """How many values of a floating-point output are NaN or infinite, in words; empty for none."""
    if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all():
        return ""
    nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    counts = [f"{count} {word}" for count, word in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"output {name} has {' and '.join(counts)} of {array.size} values"
