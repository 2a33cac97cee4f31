"""Select the images for the verdict report: those whose decision changed, and those with the largest errors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tritonkit.comparison import PROBES, Limits, finite_answers, infer_in_batches
from tritonkit.comparison_inputs import ComparisonInput, balanced_batch_size, comparison_inputs
from tritonkit.errors import TritonkitError
from tritonkit.golden import Golden
from tritonkit.images.preprocess import Geometry, ImageArray
from tritonkit.pages.contact_sheet import overlay, thumbnail
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Outputs
from tritonkit.tasks import Task, task_of
from tritonkit.tasks.base import Agreement, Answer

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
    images: int


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
    if (comparison := _AnswerComparison.of(answers, batch, limits)) is None:
        return None
    lost = frozenset(comparison.changed)
    changed_elsewhere: dict[str, ReportTile] = {}  # by title, from the first batch in which the decision changed
    shown = {titles[number] for number in lost}
    for other in answers.batches:
        if (elsewhere := _AnswerComparison.of(answers, other, limits)) is None:
            continue
        for number in elsewhere.changed:
            title = other.inputs.titles[number]
            if title not in shown and title not in changed_elsewhere:
                changed_elsewhere[title] = elsewhere.tile(number)
    large_errors = [
        number
        for number in comparison.order
        if number not in lost and titles[number] not in changed_elsewhere and comparison.distances[number] > 0
    ]
    return ReportImages(
        (
            *(comparison.tile(number) for number in comparison.changed),
            *changed_elsewhere.values(),
            *(comparison.tile(number) for number in large_errors[:MAX_UNCHANGED_IMAGES]),
        ),
        lost,
        comparison.distances,
        comparison.measure,
        len(answers.golden.images),
    )


@dataclass(frozen=True)
class _AnswerComparison:
    """The outputs of checkpoint and artifact for one batch, compared image by image."""

    changed: list[int]
    """Indices of the images whose decision changed, largest distance first."""
    order: list[int]
    """Indices of all images, largest distance first."""
    distances: NDArray[np.float64]
    measure: Measure
    tiles: _TileBuilder

    @classmethod
    def of(cls, answers: ReportAnswers, batch: ComparedBatch, limits: Limits) -> _AnswerComparison | None:
        """Compare both outputs of a batch; None where their shapes or types differ."""
        expected, actual = batch.expected, batch.actual
        if _shapes(expected) != {name: _shapes(actual).get(name) for name in expected}:
            return None
        is_finite, is_expected_finite = finite_answers(actual), finite_answers(expected)
        # Rows with NaN or infinity have no answer; the tile says so.
        numbers = {name: np.nan_to_num(array) for name, array in actual.items()}
        right = {name: np.nan_to_num(array) for name, array in expected.items()}
        agreement = answers.task.agreement(right, numbers, batch.inputs.geometries, limits.tie)
        distances, measure = _distances(right, actual, agreement)
        kept = answers.task.decisions_kept(agreement, limits.slack)
        if batch.inputs.name == PROBES and limits.probes != 1:  # decisions on probes may change
            kept = distances <= limits.for_probes().max_abs
        lost = is_expected_finite & ~(kept & is_finite)
        order = [int(number) for number in np.argsort(-distances, kind="stable")]
        tiles = _TileBuilder(answers.task, batch, numbers, is_finite, _distance_texts(distances, measure, agreement))
        return cls([number for number in order if lost[number]], order, distances, measure, tiles)

    def tile(self, number: int) -> ReportTile:
        return self.tiles.tile(number, number in self.changed)


def _shapes(outputs: Outputs) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {name: (array.shape, array.dtype) for name, array in outputs.items()}


def _distances(expected: Outputs, actual: Outputs, agreement: Agreement) -> tuple[NDArray[np.float64], Measure]:
    floating = [name for name, array in expected.items() if np.issubdtype(array.dtype, np.floating)]
    if not floating:
        return 1 - np.min(list(agreement.values()), axis=0), "disagreement"
    errors = [np.abs(actual[name].astype(np.float64) - expected[name]) for name in floating]
    largest = [error.reshape(len(error), -1).max(axis=1) for error in errors]
    return np.nan_to_num(np.max(largest, axis=0), nan=np.inf), "error"


def _distance_texts(distances: NDArray[np.float64], measure: Measure, agreement: Agreement) -> list[str]:
    if measure == "error":
        return [f"error {distance:.1e}" for distance in distances]
    return [", ".join(f"{name} {values[i]:.3f}" for name, values in agreement.items()) for i in range(len(distances))]


class _TileBuilder:
    def __init__(
        self,
        task: Task,
        batch: ComparedBatch,
        numbers: Outputs,
        is_finite: NDArray[np.bool_],
        distance_texts: Sequence[str],
    ) -> None:
        """numbers: the artifact's outputs with NaN and infinity replaced by numbers; is_finite: bool [N]."""
        self._task, self._batch, self._numbers = task, batch, numbers
        self._is_finite, self._distance_texts = is_finite, distance_texts
        self._images = batch.inputs.images
        self._batch_note = f", {batch.inputs.name}" if batch.inputs.name else ""

    @cached_property
    def _expected(self) -> list[Answer]:
        return self._answers(self._batch.expected)

    @cached_property
    def _actual(self) -> list[Answer]:
        return self._answers(self._numbers)

    @cached_property
    def _captions(self) -> list[Sequence[str]]:
        return [self._task.captions(answers, self._batch.inputs.titles) for answers in (self._expected, self._actual)]

    def tile(self, number: int, changed: bool) -> ReportTile:
        before, after = self._expected[number], self._actual[number]
        image = self._images[number]
        actual_lines = (
            self._lines(after, self._captions[1][number]) if self._is_finite[number] else ("NaN or infinity",)
        )
        return ReportTile(
            name=f"{self._batch.inputs.titles[number]}{self._batch_note}",
            pictures=_tile_images(image, before.mask, after.mask if self._is_finite[number] else None),
            expected=self._lines(before, self._captions[0][number]),
            actual=actual_lines,
            changed=changed,
            closeness=self._distance_texts[number],
            small=max(image.shape[:2]) < _SMALL,
        )

    def _answers(self, outputs: Outputs) -> list[Answer]:
        height, width = self._images.shape[1:3]
        box = (0.0, 0.0, float(width), float(height))
        geometry = Geometry((width, height), box, box)  # masks keep the size of the images shown
        return [
            self._task.answer({name: array[i] for name, array in outputs.items()}, geometry, _TOP)
            for i in range(len(self._images))
        ]

    def _lines(self, answer: Answer, caption: str) -> tuple[str, ...]:
        """The caption, followed by the next best labels where the caption is the best label."""
        cells: Sequence[str] = self._task.cells(answer.fields)
        return (caption, *cells[1:_TOP]) if cells and cells[0] == caption else (caption,)


def _tile_images(
    image: ImageArray, before: NDArray[np.uint8] | None, after: NDArray[np.uint8] | None
) -> tuple[tuple[str, str], ...]:
    picture = Image.fromarray(image)
    if before is None:
        return ((thumbnail(picture), ""),)
    shown = [(thumbnail(overlay(picture, before)), "checkpoint")]
    if after is not None:
        shown.append((thumbnail(overlay(picture, after)), "artifact"))
        # The image in pale gray, with the differing pixels in one strong colour.
        grey = np.array(picture.convert("L").convert("RGB"))
        difference = (grey // 2 + 96).astype(np.uint8)
        difference[before != after] = _DIFFERENCE_COLOR
        shown.append((thumbnail(Image.fromarray(difference)), "difference"))
    return tuple(shown)
