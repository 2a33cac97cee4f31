"""The interface that each task implements. No other code checks which task a model has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import AnswerError, SpecError
from tritonkit.images.preprocess import Geometry
from tritonkit.spec import Outputs, TaskSpec, TensorSpec

if TYPE_CHECKING:
    from torch import nn

Targets = dict[str, NDArray[Any]]
"""Ground truth of N images, each [N, ...], by the name of the first output of a head."""
Agreement = dict[str, NDArray[np.float64]]
"""Agreement of two answers for each of N images, by measure, in 0..1; 1 means the same answer."""

Geometries = Sequence[Geometry] | None
"""How each of N images was fitted to the input size, if known."""

IMPOSSIBLE_ANSWER_ADVICE = (
    "Such an output is invalid: the model's weights are damaged, or its precision overflows. Compare a served model "
    "with its checkpoint by `client check`, a file by `builder verify`"
)
RANGE_TOLERANCE = 1e-3
"""Tolerance for probabilities outside 0..1, which a reduced precision can cause."""
TIE_TOLERANCE = 1e-3
"""Default tie tolerance: answers whose probabilities differ by less count as equally good."""


@dataclass(frozen=True)
class Answer:
    """The answer of a model for one image."""

    fields: dict[str, Any]
    """A JSON object whose keys the task defines."""
    embedding: NDArray[np.float32] | None = None
    """[D], unit length."""
    mask: NDArray[np.uint8] | None = None
    """Class numbers [H, W] at the original size of the image; 0 is the background."""


@dataclass(frozen=True)
class OutputSummary:
    """The answers of a head to N images as numbers whose distribution can be compared with that of other images."""

    values: NDArray[np.float16]
    """[N, D]. Probabilities are rounded to 0.01, so that another precision of the model does not look like drift."""
    columns: tuple[str, ...]
    """The names of the D columns."""
    labels: NDArray[np.bool_]
    """[N, C]: whether each label is in the answer; C is 0 for a task without labels."""


class Task(ABC):
    """What a model predicts for an image, with the labels and thresholds of one model."""

    name: ClassVar[str]
    output_name: ClassVar[str]
    """Name of the first output if the model has a single task."""
    floors: ClassVar[Mapping[str, float]]
    """For each measure of agreement, the minimum at which an image counts as the same decision."""
    dense: ClassVar[bool] = False
    """Whether the task predicts each pixel, which needs another kind of network."""
    thresholded: ClassVar[bool] = False
    """Whether thresholds decide, so that other thresholds can be used with the same network."""
    min_labels: ClassVar[int] = 0
    """The smallest number of labels."""
    layer: ClassVar[str] = ""
    """The last layer, a class of `tritonkit.tasks.layers` without arguments; torch is imported when it is used."""

    def __init__(self, task_spec: TaskSpec, output: str | None = None) -> None:
        """output: name of the first output if the model has several heads. Raises SpecError for wrong settings."""
        self.task_spec = task_spec
        self.output = output or self.output_name
        self.labels = task_spec.labels
        if task_spec.thresholds and not self.thresholded:
            raise SpecError(
                f"{self.name}: uses the most probable class, without thresholds", code="spec.thresholds_unused"
            )
        invalid = [f"{label}: {value}" for label, value in task_spec.thresholds.items() if not 0 < value < 1]
        if invalid:
            raise SpecError(
                f"{self.name}: a threshold must lie between 0 and 1, got {', '.join(invalid)}",
                code="spec.threshold_range",
            )
        if len(self.labels) < self.min_labels:
            raise SpecError(
                f"{self.name} needs at least {self.min_labels} labels, got {task_spec.labels_summary()}",
                code="spec.too_few_labels",
            )

    @property
    def channels(self) -> int:
        """Number of raw values of the network's head for an image, or for each pixel: one for each label."""
        return len(self.labels)

    def outputs(self, image: TensorSpec) -> tuple[TensorSpec, ...]:
        """Return the outputs of a model with the input `image`: by default one, with a number for each raw value."""
        return (TensorSpec(name=self.output, dtype="FP32", shape=(self.channels,)),)

    def last_layer(self) -> nn.Module:
        """Return the module that maps the head's raw values [N, channels, ...] to a tuple of the outputs."""
        from tritonkit.tasks import layers

        if not self.layer:
            raise SpecError(
                f"{self.name}: {type(self).__name__} has no `last_layer`; define it", code="spec.no_last_layer"
            )
        layer: nn.Module = getattr(layers, self.layer)()
        return layer

    @abstractmethod
    def faults(self, outputs: Outputs) -> list[str]:
        """Describe why finite outputs are impossible for this task; empty if they are possible."""

    def value_problem(self, outputs: Outputs) -> str | None:
        """Describe why outputs [N, ...] are invalid (layout, NaN, infinite or impossible values); None if valid."""
        problems = self.layout_problems(outputs)
        for name, array in outputs.items() if not problems else ():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                words = {"NaN": np.isnan(array).sum(), "infinite": np.isinf(array).sum()}
                counts = " and ".join(f"{count} {word}" for word, count in words.items() if count)
                problems.append(f"output {name} has {counts} of {array.size} values")
        return "; ".join(problems or self.faults(outputs)) or None

    def layout_problems(self, outputs: Outputs) -> list[str]:
        """Describe outputs of the task that are missing or do not have one value for each label."""
        if self.output not in outputs:
            return [f"output {self.output} is missing; the model returns {', '.join(outputs)}"]
        shape = outputs[self.output].shape[1:]
        if type(self).outputs is not Task.outputs or shape == (self.channels,):
            return []
        return [f"output {self.output} has shape {list(shape)} for an image, expected [{self.channels}]"]

    def check_values(self, outputs: Outputs) -> None:
        """Raise AnswerError if outputs [N, ...] are invalid."""
        if (problem := self.value_problem(outputs)) is not None:
            raise AnswerError(f"{problem}. {IMPOSSIBLE_ANSWER_ADVICE}")

    def checked_answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        """Check the values of one image, then return its answer. Raises AnswerError."""
        self.check_values({name: array[None] for name, array in output.items()})
        return self.answer(output, geometry, top)

    @abstractmethod
    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Geometries = None, tie: float = TIE_TOLERANCE
    ) -> Agreement:
        """Return the agreement of two sets of outputs. Both ways to decide a tie count as agreement."""

    @abstractmethod
    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        """Return quality metrics against the ground truth, each in 0..1."""

    @abstractmethod
    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        """Return the answer for one image, from its outputs without the batch axis."""

    @abstractmethod
    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        """Format an answer as short texts for a table row, at least one; the first is also the caption."""

    def example_outputs(self, image: TensorSpec) -> Outputs:
        """Return possible outputs for one image, without the batch axis: they show the fields of an answer."""
        mask_classes = np.arange(max(len(self.labels), 2))
        return {
            output.name: np.resize(mask_classes, output.shape).astype("uint8")  # a mask that has every class
            if output.dtype == "UINT8"
            else np.ones(output.shape, "float32")
            for output in self.outputs(image)
        }

    def summarize(self, outputs: Outputs) -> dict[str, OutputSummary]:
        """Summarize outputs [N, ...] by head, to find drift: by default the values of the first output.

        Of an output with more axes, such as a map, the mean and the standard deviation of each image.
        """
        values = outputs[self.output].astype(np.float32)
        columns = tuple(map(str, range(1, values[0].size + 1)))
        if values.ndim > 2:
            flat = values.reshape(len(values), -1)
            values, columns = np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1), ("mean", "deviation")
        no_labels = np.zeros((len(values), 0), np.bool_)
        limit = float(np.finfo(np.float16).max)
        summary = values.reshape(len(values), -1).clip(-limit, limit).astype(np.float16)
        return {self.output: OutputSummary(summary, columns, no_labels)}

    def decisions(self, fields: Mapping[str, Any]) -> dict[str, str]:
        """Return what an answer decides, by the name of the decision; empty if the task has no classes to count."""
        return {}

    def joint(self, other: Task) -> Task:
        """Return the task with the labels of two models, so that `relabel` makes their outputs comparable.

        The labels of this model come first, in their order. Raises SpecError if the models have different tasks.
        """
        self._check_same_task(other)
        if self.labels == other.labels and self.task_spec.thresholds == other.task_spec.thresholds:
            return self
        if type(self).outputs is not Task.outputs:
            raise SpecError(
                f"{self.name}: models with different labels or thresholds cannot be compared in this task",
                code="spec.not_comparable",
            )
        labels = tuple(dict.fromkeys((*self.labels, *other.labels)))
        thresholds = {**other.task_spec.thresholds, **self.task_spec.thresholds}
        task_spec = self.task_spec.model_copy(update={"labels": labels, "thresholds": thresholds})
        return type(self)(task_spec, self.output)

    def relabel(self, outputs: Outputs, joint: Task) -> Outputs:
        """Return this model's outputs as the `joint` task decides on them; by default they are those of `place`."""
        return self.place(outputs, joint)

    def place(self, outputs: Outputs, joint: Task) -> Outputs:
        """Return this model's outputs [N, C] with the labels of a `joint` task, [N, C']; 0 for a label it lacks."""
        if self.labels == joint.labels:
            return outputs
        values = outputs[self.output]
        placed = np.zeros((len(values), len(joint.labels)), dtype=values.dtype)
        placed[:, positions(self.labels, joint.labels)] = values
        return {self.output: placed}

    def _check_same_task(self, other: Task) -> None:
        if self.name != other.name or self.output != other.output:
            mine, others = (f"{task.name} ({task.output or 'heads'})" for task in (self, other))
            raise SpecError(
                f"cannot compare models of different tasks: {mine} and {others}",
                code="spec.not_comparable",
            )

    def captions(self, answers: Sequence[Answer], names: Sequence[str]) -> list[str]:
        """Return a short caption for each answer; `names` are the names of the images."""
        return [self.cells(answer.fields)[0] for answer in answers]

    def with_threshold(self, threshold: float) -> Task:
        """Return the task with one threshold in (0, 1) for all labels. Raises SpecError if the task has none."""
        if not self.thresholded:
            raise SpecError(f"{self.name} has no threshold to replace", code="spec.no_threshold")
        task_spec = self.task_spec.model_copy(update={"thresholds": dict.fromkeys(self.labels, threshold)})
        return type(self)(task_spec, self.output)

    def aligned(self, expected: Outputs, actual: Outputs) -> Outputs:
        """Return the outputs that the numbers of `actual` must equal."""
        return expected

    def quality_limit(self, quality: float) -> float:
        """Return the loss of a quality metric that a verdict of this task allows, for a limit that is set."""
        return quality

    def decisions_kept(self, agreement: Agreement, slack: float = 1) -> NDArray[np.bool_]:
        """Return for each of N images whether both answers make the same decision.

        slack: factor by which the allowed difference grows, for a reduced precision.
        """
        equal_by_measure = [values >= 1 - slack * (1 - self._floor(measure)) for measure, values in agreement.items()]
        equal: NDArray[np.bool_] = np.logical_and.reduce(equal_by_measure)
        return equal

    def _floor(self, measure: str) -> float:
        return self.floors[measure]


def positions(labels: Sequence[str], among: Sequence[str]) -> list[int]:
    """Return the position of each label `among` others, which contain all of them."""
    places = {label: place for place, label in enumerate(among)}
    return [places[label] for label in labels]


def outside_range(name: str, probabilities: NDArray[Any], cause: str) -> list[str]:
    """Describe finite values that are not probabilities; empty if all lie in 0..1. cause: the likely fault."""
    lowest, highest = float(probabilities.min()), float(probabilities.max())
    if lowest >= -RANGE_TOLERANCE and highest <= 1 + RANGE_TOLERANCE:
        return []
    return [f"{name} lie in {lowest:.3g}..{highest:.3g}, expected 0..1: {cause}"]
