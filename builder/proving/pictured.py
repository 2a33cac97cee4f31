"""The images of a verdict whose answer changed, and those with the largest errors, with both answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.comparison import PROBES, Limits, ask, finite
from model.errors import TritonkitError
from model.gallery import overlay, thumbnail
from model.golden import Golden
from model.preprocess import Geometry, ImageArray
from model.runners.base import Outputs, Runner
from model.tasks import Task, task_of
from model.tasks.base import Agreement, Answer
from model.ways import Way, all_ways, even_batch

LARGEST = 6
"""So many images are shown for their error alone."""
_TOP = 3
_SMALL = 96
"""Images below this side are enlarged pixel by pixel."""
_DIFFERS = np.array((230, 30, 120), dtype=np.uint8)

Measure = Literal["error", "disagreement"]
"""How far two answers are apart: the largest error of any value, or, of whole numbers, one less the agreement."""


@dataclass(frozen=True)
class Asked:
    """Images asked about in one way, and what the checkpoint and the artifact say of them."""

    way: Way
    expected: Outputs
    actual: Outputs


@dataclass(frozen=True)
class Answers:
    """What a verdict was judged by: images, and what the checkpoint and the artifact say of them."""

    golden: Golden
    task: Task
    expected: Outputs
    actual: Outputs | None
    """In the largest batch; None where the artifact gives no answers."""
    elsewhere: tuple[Asked, ...] = ()
    """Asked in every way."""


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
    """The changed ones, then those changed only where asked in another way, then those with the largest error."""
    lost: frozenset[int]
    """Numbers of the images whose answer changed in the largest batch."""
    distances: NDArray[np.float64]
    """[N], how far both answers to an image are apart."""
    measure: Measure
    images: int


def answers_of(
    reference: Runner, candidate: Runner, golden: Golden, max_batch: int, preferred: Collection[int] = ()
) -> Answers:
    """Ask both about the images as a verdict does: in every size of batch, order and colour, and about the probes.

    One that remembers what it answered the verdict is not asked again. A candidate that cannot answer is no error here:
    the verdict tells why.
    """
    expected = ask(reference, golden.images, even_batch(len(golden.images), max_batch))
    ways = [(way, _answers_or_none(candidate, way)) for way in all_ways(golden, max_batch, preferred)]
    elsewhere = [Asked(way, way.expected(reference, expected), actual) for way, actual in ways if actual is not None]
    in_largest = next((one.actual for one in elsewhere if one.way.name == f"batch {max_batch}"), None)
    actual = in_largest and {name: array[: len(golden.images)] for name, array in in_largest.items()}
    return Answers(golden, task_of(reference.spec), expected, actual, tuple(elsewhere))


def pictured(answers: Answers, limits: Limits) -> Pictured | None:
    """The images worth a look, None where there are no answers that can be laid beside each other."""
    if answers.actual is None:
        return None
    golden = answers.golden
    titles = tuple(f"image {number + 1}" for number in range(len(golden.images)))
    whole = Asked(Way("", golden.images, len(titles), titles, golden.fitted), answers.expected, answers.actual)
    if (beside := _Beside.of(answers, whole, limits)) is None:
        return None
    lost = frozenset(beside.changed)
    elsewhere = dict(_changed_elsewhere(answers, limits, {titles[number] for number in lost}))
    others = [n for n in beside.order if n not in lost and titles[n] not in elsewhere and beside.distances[n] > 0]
    return Pictured(
        (
            *(beside.tile(number) for number in beside.changed),
            *elsewhere.values(),
            *(beside.tile(number) for number in others[:LARGEST]),
        ),
        lost,
        beside.distances,
        beside.measure,
        len(answers.golden.images),
    )


def _answers_or_none(candidate: Runner, way: Way) -> Outputs | None:
    try:
        return way.ask(candidate)
    except TritonkitError:
        return None


def _changed_elsewhere(answers: Answers, limits: Limits, shown: Collection[str]) -> Iterator[tuple[str, Tile]]:
    """Each image that is not shown yet, in the first of the ways in which its answer changed, by what it is."""
    seen = set(shown)
    for asked in answers.elsewhere:
        beside = _Beside.of(answers, asked, limits)
        for number in beside.changed if beside is not None else ():
            title = asked.way.titles[number]
            if beside is not None and title not in seen:
                seen.add(title)
                yield title, beside.tile(number)


@dataclass(frozen=True)
class _Beside:
    """Both answers about images that were asked in one way, laid beside each other."""

    changed: list[int]
    """Numbers of the images whose answer changed, the farthest first."""
    order: list[int]
    """All numbers, the farthest first."""
    distances: NDArray[np.float64]
    measure: Measure
    tiles: _Tiles

    @classmethod
    def of(cls, answers: Answers, asked: Asked, limits: Limits) -> _Beside | None:
        """None where their answers are of other shapes or types."""
        expected, actual = asked.expected, asked.actual
        if _shapes(expected) != {name: _shapes(actual).get(name) for name in expected}:
            return None
        told, known = finite(actual), finite(expected)
        # What is no number has no answer; it is said so below instead of shown.
        numbers = {name: np.nan_to_num(array) for name, array in actual.items()}
        right = {name: np.nan_to_num(array) for name, array in expected.items()}
        agreement = answers.task.agreement(right, numbers, asked.way.geometries, limits.tie)
        distances, measure = _distances(right, actual, agreement)
        kept = answers.task.decisions_kept(agreement, limits.slack)
        if asked.way.name == PROBES and limits.probes != 1:  # decisions on them may change
            kept = distances <= limits.of_probes().max_abs
        lost = known & ~(kept & told)
        order = [int(number) for number in np.argsort(-distances, kind="stable")]
        tiles = _Tiles(answers.task, asked, numbers, told, _figures(distances, measure, agreement))
        return cls([number for number in order if lost[number]], order, distances, measure, tiles)

    def tile(self, number: int) -> Tile:
        return self.tiles.tile(number, number in self.changed)


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
    def __init__(
        self, task: Task, asked: Asked, numbers: Outputs, told: NDArray[np.bool_], figures: Sequence[str]
    ) -> None:
        self._task, self._asked, self._numbers, self._told, self._figures = task, asked, numbers, told, figures
        self._images = asked.way.images
        self._how = f", {asked.way.name}" if asked.way.name else ""

    @cached_property
    def _expected(self) -> list[Answer]:
        return self._answers(self._asked.expected)

    @cached_property
    def _actual(self) -> list[Answer]:
        return self._answers(self._numbers)

    @cached_property
    def _captions(self) -> list[Sequence[str]]:
        return [self._task.captions(each, self._asked.way.titles) for each in (self._expected, self._actual)]

    def tile(self, number: int, changed: bool) -> Tile:
        before, after = self._expected[number], self._actual[number]
        image = self._images[number]
        said = self._lines(after, self._captions[1][number]) if self._told[number] else ("NaN or infinity",)
        return Tile(
            name=f"{self._asked.way.titles[number]}{self._how}",
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
        cells: Sequence[str] = self._task.cells(answer.fields)
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
