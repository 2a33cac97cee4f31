"""How far two ways to run a model are apart, on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.preprocess import Geometry, ImageArray
from model.runners.base import Outputs, Runner
from model.spec import Frozen
from model.tasks import Task
from model.tasks.base import TIE

MIDDLE_BATCH = 3
PROBES = "probes"
"""The comparison of synthetic pictures, in the words of `Comparison.asked`."""
GROSS_DECISIONS = 0.5
"""Where probes are judged for gross errors alone, this share of them must keep its decision."""
ROUNDINGS = 16
"""A last layer such as softmax adds up to about so many roundings of its values."""

NEGLIGIBLE = 1e-7
"""An error of the last digit that fp32 has at 1, however little the answers vary."""


class Limits(Frozen):
    """What an artifact of a precision may lose."""

    max_abs: float
    """Largest error of any output value."""
    relative: float
    """Largest relative error, as `relative_error` defines it."""
    decisions: float
    """Least share of images that keep their decision."""
    quality: float
    """Largest loss of any quality figure."""
    tie: float = TIE
    """Two answers whose probabilities are so near in the reference are equally good."""
    slack: float = 1
    """How many times more than in fp32 an embedding may turn or a mask may change and still be the same decision."""
    probes: float = 1
    """How many times more the values of probes may be off. 1 is as strict as for real pictures, decisions included;
    above it, half of the decisions may change; 0 asks for finite and possible answers alone."""

    def of_probes(self) -> Limits:
        """The limits for synthetic pictures."""
        if self.probes == 0:
            return self.model_copy(update={"max_abs": math.inf, "relative": math.inf, "decisions": 0.0})
        wider = {"max_abs": self.max_abs * self.probes, "relative": self.relative * self.probes}
        decisions = self.decisions if self.probes <= 1 else min(self.decisions, GROSS_DECISIONS)
        return self.model_copy(update={**wider, "decisions": decisions})


FP32_LIMITS = Limits(max_abs=1e-4, relative=1e-3, decisions=1.0, quality=0.0)
"""Two right computations in fp32 lie no further apart."""


class Comparison(Frozen):
    """How far the artifact is from the reference in one way of asking."""

    asked: str
    images: int
    max_abs: float
    mean_abs: float
    p99_abs: float
    relative: float
    """Errors are those of floating-point outputs, 0 where there are none."""
    agreement: dict[str, float] = {}
    """By the task's measures, the mean over the images."""
    decisions_kept: float

    def within(self, limits: Limits) -> bool:
        """Do the values keep to the limits? NaN does not."""
        negligible = self.max_abs <= NEGLIGIBLE  # a model that is sure of everything varies by next to nothing
        return self.max_abs <= limits.max_abs and (negligible or self.relative <= limits.relative)


def ask(runner: Runner, images: ImageArray, batch: int) -> Outputs:
    """Answers for N images in batches of exactly `batch`: the last one is filled up from the start."""
    count = len(images)
    numbers = places(count, batch)
    parts = [runner.infer(images[numbers[i : i + batch]]) for i in range(0, len(numbers), batch)]
    names = [output.name for output in runner.spec.outputs if output.name in parts[0]]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in names}


def places(count: int, batch: int) -> NDArray[np.int_]:
    """The image number at each place of whole batches.

    After the last image they begin again, one further each time: no place has the image of the place `count` before it,
    so that a graph which repeats its first answers is found out.
    """
    place = np.arange(-(-count // batch) * batch)
    return (place + place // count) % count


def batch_sizes(max_batch: int) -> list[int]:
    """The batch sizes that all images are asked at: 1, a middle one, the maximum."""
    return sorted({1, min(MIDDLE_BATCH, max_batch), max_batch})


def sizes_between(max_batch: int, preferred: Iterable[int] = ()) -> list[int]:
    """The other sizes, one batch each: the powers of two, and those that a configuration prefers."""
    powers = {2**power for power in range(1, max_batch.bit_length())}
    return sorted(size for size in powers.union(preferred) - {*batch_sizes(max_batch)} if 0 < size < max_batch)


def images_between(count: int, size: int) -> NDArray[np.int_]:
    """The numbers of the images in the one batch of a size between; each size begins with another image."""
    return (size + np.arange(size)) % count


def rows_of(outputs: Outputs, numbers: NDArray[np.int_]) -> Outputs:
    """Select the answers to the images with these numbers."""
    return {name: array[numbers] for name, array in outputs.items()}


def compare(
    asked: str,
    task: Task,
    expected: Outputs,
    actual: Outputs,
    geometries: Sequence[Geometry] | None = None,
    limits: Limits = FP32_LIMITS,
    varying: Outputs | None = None,
) -> Comparison:
    """Measure how far `actual` is from `expected`, both finite and of the same shapes.

    geometries: how each image was fitted, where known; masks are then compared at the picture's own size.
    varying: right answers whose variation errors are measured by, where `expected` are too few or too much alike.
    """
    scale = varying or expected
    floating = [name for name, array in expected.items() if np.issubdtype(array.dtype, np.floating)]
    errors = [_errors(expected[name], actual[name]).ravel() for name in floating]
    error = np.concatenate(errors) if errors else np.zeros(1)
    agreement = task.agreement(expected, actual, geometries, limits.tie)
    return Comparison(
        asked=asked,
        images=len(next(iter(expected.values()))),
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        p99_abs=float(np.percentile(error, 99)),
        relative=max((relative_error(expected[name], actual[name], scale[name]) for name in floating), default=0.0),
        agreement={name: float(values.mean()) for name, values in agreement.items()},
        decisions_kept=float(task.decisions_kept(agreement, limits.slack).mean()),
    )


def finite(outputs: Outputs) -> NDArray[np.bool_]:
    """Tell for each of N images whether all values of its answer are finite."""
    whole: NDArray[np.bool_] = np.logical_and.reduce(
        [np.isfinite(array.reshape(len(array), -1)).all(axis=1) for array in outputs.values()]
    )
    return whole


def possible(task: Task, outputs: Outputs) -> NDArray[np.bool_]:
    """Tell for each of N images whether its answer is finite and one that the task can have."""
    found = finite(outputs)
    for number in np.flatnonzero(found):
        found[number] = not task.faults(rows_of(outputs, np.array([number])))
    return found


def errors_by_image(expected: Outputs, actual: Outputs) -> NDArray[np.float64]:
    """The largest error of any value, for each of N images; infinity where a value is no number."""
    found = np.zeros(len(next(iter(expected.values()))))
    for name, array in expected.items():
        if np.issubdtype(array.dtype, np.floating):
            apart = _errors(array, actual[name]).reshape(len(found), -1).max(axis=1)
            found = np.maximum(found, np.where(np.isfinite(apart), apart, np.inf))
    return found


def _errors(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.float64]:
    """How far each value is off, beyond what rounding takes of a large one."""
    errors: NDArray[np.float64] = np.abs(actual.astype(np.float64) - expected)
    large = np.abs(expected) > 1
    errors[large] = np.maximum(errors[large] - rounding(expected[large]), 0)
    return errors


def relative_error(expected: NDArray[Any], actual: NDArray[Any], varying: NDArray[Any] | None = None) -> float:
    """Norm of the error over the norm of the variation between images, of the expected values or those of `varying`.

    What is within the rounding of a value's own type is no error: untrained networks vary by little more than that.
    """
    reference = expected.astype(np.float64)
    spread = reference if varying is None else varying.astype(np.float64)
    variation = float(np.linalg.norm(spread - spread.mean(axis=0)))
    beyond_rounding = np.abs(actual - reference) - rounding(expected)
    error = float(np.linalg.norm(np.maximum(beyond_rounding, 0)))
    return error / variation if variation else float(error > 0)


def rounding(values: NDArray[Any]) -> NDArray[np.float64]:
    """How far two right computations of these values may lie apart, for their type; whole numbers not at all."""
    if not np.issubdtype(values.dtype, np.floating):
        return np.zeros(values.shape)
    magnitude: NDArray[np.float64] = np.abs(values).astype(np.float64)
    return ROUNDINGS * float(np.finfo(values.dtype).eps) * magnitude
