"""Select the images for the verdict report: those whose decision changed, and those with the largest errors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tritonkit.comparison import (
    PROBES,
    Limits,
    finite_answers,
    has_same_type,
    infer_in_batches,
    is_text,
    max_error_per_image,
)
from tritonkit.comparison_inputs import ComparisonInput, balanced_batch_size, comparison_inputs
from tritonkit.errors import TritonkitError
from tritonkit.golden import Golden
from tritonkit.images.preprocess import Geometry
from tritonkit.pages.contact_sheet import overlay, thumbnail
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Outputs
from tritonkit.tasks import Task, task_of
from tritonkit.tasks.base import Answer

MAX_UNCHANGED_IMAGES = 6
"""The largest number of images shown whose decision is kept."""
_TOP = 3
_SMALL = 96
"""Images with a smaller side, in pixels, are enlarged without smoothing."""
_DIFFERENCE_COLOR = np.array((230, 30, 120), dtype=np.uint8)

Measure = Literal["error", "disagreement"]
"""The distance between two outputs: the largest error of any value; for integers, 1 minus the agreement."""


@dataclass(frozen=True)
class ComparedBatch:
    """One batch of images, with the outputs of the checkpoint and of the artifact."""

    inputs: ComparisonInput
    expected: Outputs
    actual: Outputs

    @property
    def comparable(self) -> bool:
        """Whether both have outputs of the same shapes and types."""
        return all(
            name in self.actual and array.shape == self.actual[name].shape and has_same_type(array, self.actual[name])
            for name, array in self.expected.items()
        )


@dataclass(frozen=True)
class ReportAnswers:
    """The images of a verdict, with the outputs of the checkpoint and of the artifact."""

    golden: Golden
    task: Task
    expected: Outputs
    actual: Outputs | None
    """The outputs in the largest batch; None where the artifact gives none."""
    batches: tuple[ComparedBatch, ...] = ()
    """All batches that the verdict compares."""


@dataclass(frozen=True)
class ReportTile:
    """One image of the report, with both answers."""

    name: str
    pictures: tuple[tuple[str, str], ...]
    """Data URLs, each with a caption."""
    expected: tuple[str, ...]
    """The checkpoint's answer, as lines of text."""
    actual: tuple[str, ...]
    changed: bool
    closeness: str
    """The distance of both answers, as text."""
    small: bool


@dataclass(frozen=True)
class ReportImages:
    """The images that the report shows."""

    tiles: tuple[ReportTile, ...]
    """First images changed in the largest batch, then those changed in other batches, then those with large errors."""
    lost: frozenset[int]
    """Indices of the images whose decision changed in the largest batch."""
    distances: NDArray[np.float64]
    """[N], the distance of both answers for each image."""
    measure: Measure


def collect_answers(
    reference: Runner, candidate: Runner, golden: Golden, max_batch: int, preferred: Collection[int] = ()
) -> ReportAnswers:
    """Run reference and candidate on all batches that a verdict compares.

    A `CachingRunner` does not compute the batches of the verdict again. A candidate that fails is no error here: the
    verdict reports it.
    """
    expected = infer_in_batches(reference, golden.images, balanced_batch_size(len(golden.images), max_batch))
    batches = []
    for inputs in comparison_inputs(golden, max_batch, preferred):
        try:
            actual = inputs.infer(candidate)
        except TritonkitError:
            continue
        batches.append(ComparedBatch(inputs, inputs.expected(reference, expected), actual))
    in_largest = next((batch.actual for batch in batches if batch.inputs.name == f"batch {max_batch}"), None)
    largest = in_largest and {name: array[: len(golden.images)] for name, array in in_largest.items()}
    return ReportAnswers(golden, task_of(reference.spec), expected, largest, tuple(batches))


def report_images(answers: ReportAnswers, limits: Limits) -> ReportImages | None:
    """Select the images to show; None where the outputs cannot be compared."""
    if answers.actual is None:
        return None
    golden = answers.golden
    titles = tuple(f"image {number + 1}" for number in range(len(golden.images)))
    batch = ComparedBatch(
        ComparisonInput("", golden.images, len(titles), titles, golden.geometry_values),
        answers.expected,
        answers.actual,
    )
    if not batch.comparable:
        return None
    comparison = _AnswerComparison(answers.task, batch, limits)
    lost = frozenset(comparison.changed)
    changed_elsewhere: dict[str, ReportTile] = {}  # by title, from the first batch in which the decision changed
    shown = {titles[number] for number in lost}
    for other in (other for other in answers.batches if other.comparable):
        elsewhere = _AnswerComparison(answers.task, other, limits)
        for number in elsewhere.changed:
            title = other.inputs.titles[number]
            if title not in shown and title not in changed_elsewhere:
                changed_elsewhere[title] = elsewhere.tile(number)
    large_errors = [
        number
        for number in comparison.order
        if number not in lost and titles[number] not in changed_elsewhere and comparison.distances[number] > 0
    ]
    tiles = (
        *map(comparison.tile, comparison.changed),
        *changed_elsewhere.values(),
        *map(comparison.tile, large_errors[:MAX_UNCHANGED_IMAGES]),
    )
    return ReportImages(tiles, lost, comparison.distances, comparison.measure)


class _AnswerComparison:
    """The comparable outputs of checkpoint and artifact for one batch, image by image."""

    measure: Measure
    distances: NDArray[np.float64]

    def __init__(self, task: Task, batch: ComparedBatch, limits: Limits) -> None:
        self._task, self._inputs = task, batch.inputs
        # Rows with NaN or infinity have no answer; the tile says so.
        self._is_finite = finite_answers(batch.actual)
        self._expected, self._actual = (
            {name: array if is_text(array) else np.nan_to_num(array) for name, array in outputs.items()}
            for outputs in (batch.expected, {name: batch.actual[name] for name in batch.expected})
        )
        agreement = task.agreement(self._expected, self._actual, batch.inputs.geometries, limits.tie)
        if any(np.issubdtype(array.dtype, np.floating) for array in self._expected.values()):
            expected = task.aligned(self._expected, self._actual)
            self.measure, self.distances = "error", max_error_per_image(expected, batch.actual)
            self._closeness = [f"error {distance:.1e}" for distance in self.distances]
        else:
            self.measure, self.distances = "disagreement", 1 - np.min(list(agreement.values()), axis=0)
            rows = zip(*agreement.values(), strict=True)
            self._closeness = [
                ", ".join(f"{name} {value:.3f}" for name, value in zip(agreement, row, strict=True)) for row in rows
            ]
        kept = task.decisions_kept(agreement, limits.slack)
        if batch.inputs.name == PROBES and limits.probes != 1:  # decisions on probes may change
            kept = self.distances <= limits.for_probes().max_abs
        lost = finite_answers(batch.expected) & ~(kept & self._is_finite)
        self.order = [int(number) for number in np.argsort(-self.distances, kind="stable")]
        """Indices of all images, largest distance first."""
        self.changed = [number for number in self.order if lost[number]]
        """Indices of the images whose decision changed."""

    @cached_property
    def _answers(self) -> list[list[tuple[Answer, tuple[str, ...]]]]:
        """The answers of the checkpoint, and those of the artifact, for each image, with their lines of text."""
        height, width = self._inputs.images.shape[1:3]
        box = (0.0, 0.0, float(width), float(height))
        geometry = Geometry((width, height), box, box)  # masks keep the size of the images shown
        sides = []
        for outputs in (self._expected, self._actual):
            rows = [{name: array[i] for name, array in outputs.items()} for i in range(len(self.distances))]
            answers = [self._task.answer(row, geometry, _TOP) for row in rows]
            lines = []
            for answer, caption in zip(answers, self._task.captions(answers, self._inputs.titles), strict=True):
                # The caption, followed by the next best labels where the caption is the best label.
                cells = self._task.cells(answer.fields)
                lines.append((caption, *cells[1:_TOP]) if cells and cells[0] == caption else (caption,))
            sides.append(list(zip(answers, lines, strict=True)))
        return sides

    def tile(self, number: int) -> ReportTile:
        """The image with both answers; for a mask, with the difference too."""
        (before, expected), (after, actual) = (answers[number] for answers in self._answers)
        image, is_finite = self._inputs.images[number], self._is_finite[number]
        picture = Image.fromarray(image)
        shown = [(thumbnail(picture), "")]
        if before.mask is not None:
            shown = [(thumbnail(overlay(picture, before.mask)), "checkpoint")]
            if after.mask is not None and is_finite:
                shown.append((thumbnail(overlay(picture, after.mask)), "artifact"))
                # The image in pale gray, with the differing pixels in one strong colour.
                grey = np.array(picture.convert("L").convert("RGB"))
                difference = (grey // 2 + 96).astype(np.uint8)
                difference[before.mask != after.mask] = _DIFFERENCE_COLOR
                shown.append((thumbnail(Image.fromarray(difference)), "difference"))
        note = f", {self._inputs.name}" if self._inputs.name else ""
        return ReportTile(
            name=f"{self._inputs.titles[number]}{note}",
            pictures=tuple(shown),
            expected=expected,
            actual=actual if is_finite else ("NaN or infinity",),
            changed=number in self.changed,
            closeness=self._closeness[number],
            small=max(image.shape[:2]) < _SMALL,
        )
