"""The images of a verdict whose answer changed, and those with the largest errors, with both answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from builder.proving.judge import even_batch
from model.comparison import Limits, ask
from model.errors import TritonkitError
from model.gallery import overlay, thumbnail
from model.golden import Golden
from model.preprocess import Geometry, ImageArray
from model.runners.base import Outputs, Runner
from model.tasks import Task, task_of
from model.tasks.base import Agreement, Answer

LARGEST = 6
"""So many images are shown for their error alone."""
_TOP = 3
_SMALL = 96
"""Images below this side are enlarged pixel by pixel."""
_DIFFERS = np.array((230, 30, 120), dtype=np.uint8)

Measure = Literal["error", "disagreement"]
"""How far two answers are apart: the largest error of any value, or, of whole numbers, one less the agreement."""


@dataclass(frozen=True)
class Answers:
    """What a verdict was judged by: images, and what the checkpoint and the artifact say of them."""

    golden: Golden
    task: Task
    expected: Outputs
    actual: Outputs | None
    """None where the artifact gives no answers."""


@dataclass(frozen=True)
class Tile:
    """One image with both answers."""

    name: str
    pictures: tuple[tuple[str, str], ...]
    """Data URLs, each with what it shows."""
    expected: tuple[str, ...]
    """Lines that tell the checkpoint's answer."""
    actual: tuple[str, ...]
    changed: bool
    closeness: str
    """How near both answers are, in figures."""
    small: bool


@dataclass(frozen=True)
class Pictured:
    """What there is to see."""

    tiles: tuple[Tile, ...]
    """The changed ones, then those with the largest error."""
    lost: frozenset[int]
    """Numbers of the images whose answer changed."""
    distances: NDArray[np.float64]
    """[N], how far both answers to an image are apart."""
    measure: Measure
    images: int


def answers_of(reference: Runner, candidate: Runner, golden: Golden, max_batch: int) -> Answers:
    """Ask both about the images: in the batches a verdict asks the reference in, and in the largest.

    A candidate that cannot answer is no error here: the verdict tells why.
    """
    expected = ask(reference, golden.images, even_batch(len(golden.images), max_batch))
    try:
        actual = ask(candidate, golden.images, max_batch)
    except TritonkitError:
        actual = None
    return Answers(golden, task_of(reference.spec), expected, actual)


def pictured(answers: Answers, limits: Limits) -> Pictured | None:
    """The images worth a look, None where there are no answers that can be laid beside each other."""
    expected, actual = answers.expected, answers.actual
    if actual is None or _shapes(expected) != {name: _shapes(actual).get(name) for name in expected}:
        return None
    told = np.logical_and.reduce([np.isfinite(a.reshape(len(a), -1)).all(axis=1) for a in actual.values()])
    # What is no number has no answer; it is said so below instead of shown.
    numbers = {name: np.nan_to_num(array) for name, array in actual.items()}
    agreement = answers.task.agreement(expected, numbers, answers.golden.fitted, limits.tie)
    changed = ~(answers.task.decisions_kept(agreement, limits.slack) & told)
    distances, measure = _distances(expected, actual, agreement)
    lost = [int(i) for i in np.argsort(-distances, kind="stable") if changed[i]]
    others = [int(i) for i in np.argsort(-distances, kind="stable") if not changed[i] and distances[i] > 0]
    tiles = _Tiles(answers, numbers, told, _figures(distances, measure, agreement))
    return Pictured(
        tuple(tiles.tile(number, number in lost) for number in [*lost, *others[:LARGEST]]),
        frozenset(lost),
        distances,
        measure,
        len(told),
    )


def _shapes(outputs: Outputs) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {name: (array.shape, array.dtype) for name, array in outputs.items()}


def _distances(expected: Outputs, actual: Outputs, agreement: Agreement) -> tuple[NDArray[np.float64], Measure]:
    floating = [name for name, array in expected.items() if np.issubdtype(array.dtype, np.floating)]
    if not floating:
        return 1 - np.min(list(agreement.values()), axis=0), "disagreement"
    errors = [np.abs(actual[name].astype(np.float64) - expected[name]) for name in floating]
    each = [error.reshape(len(error), -1).max(axis=1) for error in errors]
    return np.nan_to_num(np.max(each, axis=0), nan=np.inf), "error"


def _figures(distances: NDArray[np.float64], measure: Measure, agreement: Agreement) -> list[str]:
    if measure == "error":
        return [f"error {distance:.1e}" for distance in distances]
    return [", ".join(f"{name} {values[i]:.3f}" for name, values in agreement.items()) for i in range(len(distances))]


class _Tiles:
    def __init__(self, answers: Answers, numbers: Outputs, told: NDArray[np.bool_], figures: Sequence[str]) -> None:
        self._images, self._task, self._told, self._figures = answers.golden.images, answers.task, told, figures
        self._expected = self._answers(answers.expected)
        self._actual = self._answers(numbers)
        names = [f"image {number + 1}" for number in range(len(told))]
        self._captions = [self._task.captions(each, names) for each in (self._expected, self._actual)]

    def tile(self, number: int, changed: bool) -> Tile:
        before, after = self._expected[number], self._actual[number]
        image = self._images[number]
        said = self._lines(after, self._captions[1][number]) if self._told[number] else ("NaN or infinity",)
        return Tile(
            name=f"image {number + 1}",
            pictures=_pictures(image, before.mask, after.mask if self._told[number] else None),
            expected=self._lines(before, self._captions[0][number]),
            actual=said,
            changed=changed,
            closeness=self._figures[number],
            small=max(image.shape[:2]) < _SMALL,
        )

    def _answers(self, outputs: Outputs) -> list[Answer]:
        height, width = self._images.shape[1:3]
        box = (0.0, 0.0, float(width), float(height))
        shown = Geometry((width, height), box, box)  # masks stay as large as the images shown
        return [
            self._task.answer({name: array[i] for name, array in outputs.items()}, shown, _TOP)
            for i in range(len(self._images))
        ]

    def _lines(self, answer: Answer, caption: str) -> tuple[str, ...]:
        """The caption, and what stands below the best where that is what the caption tells."""
        cells: Sequence[str] = self._task.cells(answer.told)
        return (caption, *cells[1:_TOP]) if cells and cells[0] == caption else (caption,)


def _pictures(
    image: ImageArray, before: NDArray[np.uint8] | None, after: NDArray[np.uint8] | None
) -> tuple[tuple[str, str], ...]:
    picture = Image.fromarray(image)
    if before is None:
        return ((thumbnail(picture), ""),)
    shown = [(thumbnail(overlay(picture, before)), "checkpoint")]
    if after is not None:
        shown.append((thumbnail(overlay(picture, after)), "artifact"))
        shown.append((thumbnail(_difference(image, before != after)), "difference"))
    return tuple(shown)


def _difference(image: ImageArray, differs: NDArray[np.bool_]) -> Image.Image:
    """The picture, grey and pale, with the pixels that differ in one strong colour."""
    grey = np.array(Image.fromarray(image).convert("L").convert("RGB"))
    shown = (grey // 2 + 96).astype(np.uint8)
    shown[differs] = _DIFFERS
    return Image.fromarray(shown)
