"""The ways in which a model is asked about images to compare it: batch sizes, orders, colours, synthetic probes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.comparison import (
    MIDDLE_BATCH,
    PROBES,
    Comparison,
    Limits,
    ask,
    batch_sizes,
    compare,
    errors_by_image,
    images_between,
    places,
    rows_of,
    sizes_between,
)
from model.golden import Golden
from model.preprocess import Geometry, ImageArray
from model.probes import probes_of
from model.runners.base import Outputs, Runner
from model.tasks import Task

OTHER_ORDER, OTHER_COLOURS = "other order", "other colours"
_COLOURS = np.array([1.0, 0.6, 0.3], dtype=np.float32)
"""Red, green and blue are dimmed differently, so that swapped channels show even on grey pictures."""


@dataclass(frozen=True)
class Way:
    """Images in the order in which a model is asked about them, and the batch size."""

    name: str
    """As in the comparisons of a verdict: batch 1, other colours."""
    images: ImageArray
    batch: int
    titles: tuple[str, ...]
    """What each image is, in words."""
    geometries: list[Geometry] | None
    numbers: NDArray[np.int_] | None = None
    """Which image of the golden sample each is; None where they are others."""

    def expected(self, reference: Runner, of_golden: Outputs) -> Outputs:
        """The right answers. of_golden: those to the golden sample."""
        return self.ask(reference) if self.numbers is None else rows_of(of_golden, self.numbers)

    def varying(self, expected: Outputs, of_golden: Outputs) -> Outputs | None:
        """The answers whose variation scales the relative error, where the expected ones may be too much alike."""
        if self.name == PROBES:
            return {name: np.concatenate([array, of_golden[name]]) for name, array in expected.items()}
        return None if len(self.images) >= len(next(iter(of_golden.values()))) else of_golden

    def only(self, rows: NDArray[np.int_]) -> Way:
        """Select some of the images."""
        return replace(
            self,
            images=self.images[rows],
            titles=tuple(self.titles[row] for row in rows),
            geometries=self.geometries and [self.geometries[row] for row in rows],
            numbers=None if self.numbers is None else self.numbers[rows],
        )

    def compared(
        self, task: Task, expected: Outputs, actual: Outputs, of_golden: Outputs, limits: Limits
    ) -> Comparison:
        """Compare answers of the same shapes; where an image has several places, its worst answer counts."""
        way = self
        if self.numbers is not None and len(self.numbers) > len(set(self.numbers.tolist())):
            rows = _farthest(self.numbers, _distances(expected, actual))
            way, expected, actual = self.only(rows), rows_of(expected, rows), rows_of(actual, rows)
        varying = way.varying(expected, of_golden)
        return compare(way.name, task, expected, actual, way.geometries, limits, varying)

    def ask(self, runner: Runner) -> Outputs:
        """The answers to all images. Raises TritonkitError."""
        return ask(runner, self.images, self.batch)


def all_ways(golden: Golden, max_batch: int, preferred: Collection[int]) -> Iterator[Way]:
    """Yield every way, in the order of a verdict."""
    yield from whole_ways(golden, max_batch)
    yield backwards_way(golden, max_batch)
    yield colours_way(golden, max_batch)
    yield from ways_between(golden, max_batch, preferred)
    yield probes_way(golden, max_batch)


def whole_ways(golden: Golden, max_batch: int) -> Iterator[Way]:
    """Yield all images at batch 1, a middle size and the largest; the first images fill up the last batch."""
    for size in batch_sizes(max_batch):
        yield _sized(golden, size, places(len(golden.images), size))


def ways_between(golden: Golden, max_batch: int, preferred: Collection[int]) -> Iterator[Way]:
    """Yield one batch of each size between, the largest last."""
    for size in sizes_between(max_batch, preferred):
        yield _sized(golden, size, images_between(len(golden.images), size))


def backwards_way(golden: Golden, max_batch: int) -> Way:
    """The images in reverse order, in batches as large as possible."""
    count = len(golden.images)
    way = _sized(golden, min(max_batch, count), np.arange(count)[::-1])
    return replace(way, name=OTHER_ORDER)


def colours_way(golden: Golden, max_batch: int) -> Way:
    """The images in other colours."""
    batch, titles = min(MIDDLE_BATCH, max_batch), _titles(range(len(golden.images)))
    return Way(OTHER_COLOURS, in_other_colours(golden.images), batch, titles, golden.fitted)


def probes_way(golden: Golden, max_batch: int) -> Way:
    """Synthetic pictures."""
    probes = probes_of(golden.images)
    return Way(PROBES, np.stack([*probes.values()]), even_batch(len(probes), max_batch), tuple(probes), None)


def in_other_colours(images: ImageArray) -> ImageArray:
    """The images with red, green and blue dimmed differently, uint8 [N, H, W, 3]."""
    return (images * _COLOURS).astype(np.uint8)


def even_batch(count: int, max_batch: int) -> int:
    """The batch size up to 8 that leaves the fewest places to fill up: 9 images are asked as 5 and 5."""
    rounds = -(-count // min(8, max_batch))
    return -(-count // rounds)


def _distances(expected: Outputs, actual: Outputs) -> NDArray[np.float64]:
    """For each of N images the largest error; of whole numbers, such as a mask, the share of values that differ."""
    found = errors_by_image(expected, actual)
    for name, array in expected.items():
        if not np.issubdtype(array.dtype, np.floating):
            found = np.maximum(found, (array != actual[name]).reshape(len(array), -1).mean(axis=1))
    return found


def _farthest(numbers: NDArray[np.int_], distances: NDArray[np.float64]) -> NDArray[np.int_]:
    """For each image the row with the largest distance, in the order of the images."""
    order = np.lexsort((-distances, numbers))
    _, first = np.unique(numbers[order], return_index=True)
    return order[first]


def _sized(golden: Golden, size: int, numbers: NDArray[np.int_]) -> Way:
    fitted = golden.fitted
    geometries = None if fitted is None else [fitted[number] for number in numbers]
    return Way(f"batch {size}", golden.images[numbers], size, _titles(numbers), geometries, numbers)


def _titles(numbers: Collection[int] | NDArray[np.int_]) -> tuple[str, ...]:
    return tuple(f"image {number + 1}" for number in numbers)
