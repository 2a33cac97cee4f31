"""The inputs of the comparisons of a verdict: batch sizes, orders, colours, synthetic probes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tritonkit.comparison import (
    MIDDLE_BATCH,
    PROBES,
    Comparison,
    Limits,
    batch_sizes,
    compare,
    infer_in_batches,
    intermediate_batch_sizes,
    intermediate_indices,
    max_error_per_image,
    padded_order,
    select_rows,
)
from tritonkit.golden import Golden
from tritonkit.images.preprocess import Geometry, ImageArray
from tritonkit.images.probes import probes_of
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Outputs
from tritonkit.tasks import Task

OTHER_ORDER, OTHER_COLOURS = "other order", "other colours"
_COLOURS = np.array([1.0, 0.6, 0.3], dtype=np.float32)
"""Factors on red, green and blue. They differ, so that swapped channels show even on grey images."""


@dataclass(frozen=True)
class ComparisonInput:
    """Images in a certain order, and the batch size to run them at."""

    name: str
    """Name in the verdict, such as `batch 1` or `other colours`."""
    images: ImageArray
    batch: int
    titles: tuple[str, ...]
    """A caption for each image."""
    geometries: list[Geometry] | None
    indices: NDArray[np.int_] | None = None
    """Index of each image in the golden sample; None for images that are not in it."""

    def expected(self, reference: Runner, of_golden: Outputs) -> Outputs:
        """Return the reference outputs. of_golden: those for the golden sample."""
        return self.infer(reference) if self.indices is None else select_rows(of_golden, self.indices)

    def variation(self, expected: Outputs, of_golden: Outputs) -> Outputs | None:
        """Return the outputs whose variation scales the relative error, if the expected ones may be too similar."""
        if self.name == PROBES:
            return {name: np.concatenate([array, of_golden[name]]) for name, array in expected.items()}
        return None if len(self.images) >= len(next(iter(of_golden.values()))) else of_golden

    def select(self, rows: NDArray[np.int_]) -> ComparisonInput:
        """Keep some of the images."""
        return replace(
            self,
            images=self.images[rows],
            titles=tuple(self.titles[row] for row in rows),
            geometries=self.geometries and [self.geometries[row] for row in rows],
            indices=None if self.indices is None else self.indices[rows],
        )

    def compare(self, task: Task, expected: Outputs, actual: Outputs, of_golden: Outputs, limits: Limits) -> Comparison:
        """Compare outputs of equal shapes; for an image at several positions the worst output counts."""
        selected = self
        if self.indices is not None and len(self.indices) > len(set(self.indices.tolist())):
            order = np.lexsort((-error_per_image(expected, actual), self.indices))
            _, first = np.unique(self.indices[order], return_index=True)
            rows = order[first]
            selected, expected, actual = self.select(rows), select_rows(expected, rows), select_rows(actual, rows)
        variation_source = selected.variation(expected, of_golden)
        return compare(selected.name, task, expected, actual, selected.geometries, limits, variation_source)

    def infer(self, runner: Runner) -> Outputs:
        """Return the outputs for all images. Raises TritonkitError."""
        return infer_in_batches(runner, self.images, self.batch)


def comparison_inputs(golden: Golden, max_batch: int, preferred: Collection[int]) -> Iterator[ComparisonInput]:
    """Yield all inputs, in the order of a verdict."""
    yield from full_batches(golden, max_batch)
    yield reversed_order(golden, max_batch)
    yield changed_colors(golden, max_batch)
    yield from intermediate_batches(golden, max_batch, preferred)
    yield probe_batch(golden, max_batch)


def full_batches(golden: Golden, max_batch: int) -> Iterator[ComparisonInput]:
    """Yield all images at batch 1, a middle size and the maximum; the first images pad the last batch."""
    for size in batch_sizes(max_batch):
        yield _with_batch_size(golden, size, padded_order(len(golden.images), size))


def intermediate_batches(golden: Golden, max_batch: int, preferred: Collection[int]) -> Iterator[ComparisonInput]:
    """Yield one batch of each intermediate size, in increasing order."""
    for size in intermediate_batch_sizes(max_batch, preferred):
        yield _with_batch_size(golden, size, intermediate_indices(len(golden.images), size))


def reversed_order(golden: Golden, max_batch: int) -> ComparisonInput:
    """Return the images in reverse order, in batches as large as possible."""
    count = len(golden.images)
    batches = _with_batch_size(golden, min(max_batch, count), np.arange(count)[::-1])
    return replace(batches, name=OTHER_ORDER)


def changed_colors(golden: Golden, max_batch: int) -> ComparisonInput:
    """Return all images with red, green and blue dimmed by different factors, in batches of the middle size."""
    batch, titles = min(MIDDLE_BATCH, max_batch), _titles(range(len(golden.images)))
    return ComparisonInput(OTHER_COLOURS, with_changed_colors(golden.images), batch, titles, golden.geometry_values)


def probe_batch(golden: Golden, max_batch: int) -> ComparisonInput:
    """Return the synthetic images."""
    probes = probes_of(golden.images)
    return ComparisonInput(
        PROBES, np.stack([*probes.values()]), balanced_batch_size(len(probes), max_batch), tuple(probes), None
    )


def with_changed_colors(images: ImageArray) -> ImageArray:
    """Dim red, green and blue by different factors. images: uint8 [N, H, W, 3]."""
    return (images * _COLOURS).astype(np.uint8)


def balanced_batch_size(count: int, max_batch: int) -> int:
    """Return the batch size up to 8 that needs the least padding: 9 images run as 5 and 5."""
    rounds = -(-count // min(8, max_batch))
    return -(-count // rounds)


def error_per_image(expected: Outputs, actual: Outputs) -> NDArray[np.float64]:
    """Return the largest error for each of N images; for integers, such as a mask, the share of different values."""
    largest = max_error_per_image(expected, actual)
    for name, array in expected.items():
        if not np.issubdtype(array.dtype, np.floating):
            largest = np.maximum(largest, (array != actual[name]).reshape(len(array), -1).mean(axis=1))
    return largest


def _with_batch_size(golden: Golden, size: int, numbers: NDArray[np.int_]) -> ComparisonInput:
    fitted = golden.geometry_values
    geometries = None if fitted is None else [fitted[number] for number in numbers]
    return ComparisonInput(f"batch {size}", golden.images[numbers], size, _titles(numbers), geometries, numbers)


def _titles(numbers: Collection[int] | NDArray[np.int_]) -> tuple[str, ...]:
    return tuple(f"image {number + 1}" for number in numbers)
