"""Compares the outputs of two runtimes for the same images: error statistics and agreement of decisions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.images.preprocess import Geometry, ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Frozen, Outputs
from tritonkit.tasks import Task
from tritonkit.tasks.base import TIE_TOLERANCE

MIDDLE_BATCH = 3
PROBES = "probes"
"""Name of the comparison on synthetic images (`Comparison.asked`)."""
GROSS_DECISIONS = 0.5
"""Share of probes that must keep their decision, where only gross errors count."""
ROUNDINGS = 16
"""Rounding errors that a last layer such as softmax may add up, in units of the type's epsilon."""

NEGLIGIBLE = 1e-7
"""Largest error that always passes: the last digit of fp32 near 1."""


class Limits(Frozen):
    """How far the outputs of a precision may differ from the reference."""

    max_abs: float
    """Largest error of any output value."""
    relative: float
    """Largest relative error, as `relative_error` defines it."""
    decisions: float
    """Minimum share of images that keep their decision."""
    quality: float
    """Largest loss of a quality metric."""
    tie: float = TIE_TOLERANCE
    """Labels whose probabilities differ by less in the reference count as a tie."""
    slack: float = 1
    """Factor on the change of an embedding or mask, relative to fp32, that still counts as the same decision."""
    probes: float = 1
    """Factor on the errors of probes. 1 is as strict as for real images, decisions included; above 1, half of the
    decisions may change; 0 requires only finite, valid outputs."""

    def for_probes(self) -> Limits:
        """Return the limits for synthetic images."""
        if self.probes == 0:
            return self.model_copy(update={"max_abs": math.inf, "relative": math.inf, "decisions": 0.0})
        wider = {"max_abs": self.max_abs * self.probes, "relative": self.relative * self.probes}
        decisions = self.decisions if self.probes <= 1 else min(self.decisions, GROSS_DECISIONS)
        return self.model_copy(update={**wider, "decisions": decisions})


FP32_LIMITS = Limits(max_abs=1e-4, relative=1e-3, decisions=1.0, quality=0.0)
"""Two correct fp32 computations differ by less."""


class Comparison(Frozen):
    """Differences between artifact and reference for one set of images and one batch size."""

    asked: str
    """Which comparison, such as `batch 1`, `other order` or `probes`."""
    images: int
    max_abs: float
    mean_abs: float
    p99_abs: float
    relative: float
    """Errors are those of floating-point outputs, 0 if there are none."""
    agreement: dict[str, float] = {}
    """Mean over the images, for each agreement measure of the task."""
    decisions_kept: float

    def is_within(self, limits: Limits) -> bool:
        """Return whether the errors are within the limits; NaN is not."""
        negligible = self.max_abs <= NEGLIGIBLE  # outputs of a very confident model hardly vary
        return self.max_abs <= limits.max_abs and (negligible or self.relative <= limits.relative)

    def is_kept(self, limits: Limits) -> bool:
        """Return whether errors and decisions are within the limits."""
        return self.is_within(limits) and self.decisions_kept >= limits.decisions


def infer_in_batches(runner: Runner, images: ImageArray, batch: int) -> Outputs:
    """Run N images in batches of exactly `batch`; the last batch is padded with images from the start."""
    count = len(images)
    numbers = padded_order(count, batch)
    parts = [runner.infer(images[numbers[i : i + batch]]) for i in range(0, len(numbers), batch)]
    names = [output.name for output in runner.spec.outputs if output.name in parts[0]]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in names}


def padded_order(count: int, batch: int) -> NDArray[np.int_]:
    """Return the image index at each position of full batches.

    Padding repeats the images, shifted by one each time: a position never has the image of `count` positions before,
    so a graph that repeats its first outputs is detected.
    """
    place = np.arange(-(-count // batch) * batch)
    return (place + place // count) % count


def batch_sizes(max_batch: int) -> list[int]:
    """Return the batch sizes at which all images are compared: 1, a middle one, the maximum."""
    return sorted({1, min(MIDDLE_BATCH, max_batch), max_batch})


def intermediate_batch_sizes(max_batch: int, preferred: Iterable[int] = ()) -> list[int]:
    """Return the batch sizes that get one batch each: powers of two, and the configuration's preferred sizes."""
    powers = {2**power for power in range(1, max_batch.bit_length())}
    return sorted(size for size in powers.union(preferred) - {*batch_sizes(max_batch)} if 0 < size < max_batch)


def intermediate_indices(count: int, size: int) -> NDArray[np.int_]:
    """Return the image indices of the one batch of an intermediate size; each size starts at another image."""
    return (size + np.arange(size)) % count


def select_rows(outputs: Outputs, numbers: NDArray[np.int_]) -> Outputs:
    """Select the outputs of the images with these indices."""
    return {name: array[numbers] for name, array in outputs.items()}


def compare(
    comparison_name: str,
    task: Task,
    expected: Outputs,
    actual: Outputs,
    geometries: Sequence[Geometry] | None = None,
    limits: Limits = FP32_LIMITS,
    variation: Outputs | None = None,
) -> Comparison:
    """Compare `actual` with `expected`; both are finite and have the same shapes.

    geometries: how each image was fitted, if known; masks are then compared at the original size.
    variation: outputs whose variation scales the relative error, if `expected` are too few or too similar.
    """
    scale = variation or expected
    agreement = task.agreement(expected, actual, geometries, limits.tie)
    expected = task.aligned(expected, actual)
    floating = [name for name, array in expected.items() if np.issubdtype(array.dtype, np.floating)]
    errors = [_errors(expected[name], actual[name]).ravel() for name in floating]
    error = np.concatenate(errors) if errors else np.zeros(1)
    return Comparison(
        asked=comparison_name,
        images=len(next(iter(expected.values()))),
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        p99_abs=float(np.percentile(error, 99)),
        relative=max((relative_error(expected[name], actual[name], scale[name]) for name in floating), default=0.0),
        agreement={name: float(values.mean()) for name, values in agreement.items()},
        decisions_kept=float(task.decisions_kept(agreement, limits.slack).mean()),
    )


def finite_answers(outputs: Outputs) -> NDArray[np.bool_]:
    """Return for each of N images whether all its output values are finite; text is."""
    is_finite: NDArray[np.bool_] = np.logical_and.reduce(
        [np.isfinite(array.reshape(len(array), -1)).all(axis=1) for array in outputs.values() if not is_text(array)]
    )
    return is_finite


def is_text(array: NDArray[Any]) -> bool:
    """Return whether an output is text, such as the labels of a search."""
    return np.issubdtype(array.dtype, np.str_)


def valid_answers(task: Task, outputs: Outputs) -> NDArray[np.bool_]:
    """Return for each of N images whether its outputs are finite and valid for the task."""
    is_valid = finite_answers(outputs)
    for index in np.flatnonzero(is_valid):
        is_valid[index] = not task.faults(select_rows(outputs, np.array([index])))
    return is_valid


def has_same_type(array: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether two outputs have the same type; text of any length is one type."""
    return array.dtype == other.dtype or (is_text(array) and is_text(other))


def max_error_per_image(expected: Outputs, actual: Outputs) -> NDArray[np.float64]:
    """Return the largest error for each of N images; infinity for NaN."""
    largest = np.zeros(len(next(iter(expected.values()))))
    for name, array in expected.items():
        if np.issubdtype(array.dtype, np.floating):
            errors = _errors(array, actual[name]).reshape(len(largest), -1).max(axis=1)
            largest = np.maximum(largest, np.where(np.isfinite(errors), errors, np.inf))
    return largest


def _errors(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.float64]:
    """Return the absolute errors; for values above 1, the error beyond rounding."""
    errors: NDArray[np.float64] = np.abs(actual.astype(np.float64) - expected)
    large = np.abs(expected) > 1
    errors[large] = np.maximum(errors[large] - rounding_tolerance(expected[large]), 0)
    return errors


def relative_error(expected: NDArray[Any], actual: NDArray[Any], variation_source: NDArray[Any] | None = None) -> float:
    """Return the norm of the error divided by the norm of the variation between images.

    The variation is that of `expected`, or of `variation_source`. An error within rounding counts as 0: the outputs of
    untrained networks vary by little more than that.
    """
    reference = expected.astype(np.float64)
    spread = reference if variation_source is None else variation_source.astype(np.float64)
    variation = float(np.linalg.norm(spread - spread.mean(axis=0)))
    beyond_rounding = np.abs(actual - reference) - rounding_tolerance(expected)
    error = float(np.linalg.norm(np.maximum(beyond_rounding, 0)))
    return error / variation if variation else float(error > 0)


def rounding_tolerance(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far two correct computations of these values may differ in their type; 0 for integers."""
    if not np.issubdtype(values.dtype, np.floating):
        return np.zeros(values.shape)
    magnitude: NDArray[np.float64] = np.abs(values).astype(np.float64)
    return ROUNDINGS * float(np.finfo(values.dtype).eps) * magnitude
