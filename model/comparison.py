"""How far two ways to run a model are apart, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.preprocess import Geometry, ImageArray
from model.runners.base import Outputs, Runner
from model.spec import Frozen
from model.tasks import Task
from model.tasks.base import TIE

MIDDLE_BATCH = 3
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
    places = np.arange(-(-count // batch) * batch) % count
    parts = [runner.infer(images[places[i : i + batch]]) for i in range(0, len(places), batch)]
    names = [output.name for output in runner.spec.outputs if output.name in parts[0]]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in names}


def batch_sizes(max_batch: int) -> list[int]:
    """The batch sizes a verdict asks at: 1, a middle one, the maximum."""
    return sorted({1, min(MIDDLE_BATCH, max_batch), max_batch})


def compare(
    asked: str,
    task: Task,
    expected: Outputs,
    actual: Outputs,
    geometries: Sequence[Geometry] | None = None,
    limits: Limits = FP32_LIMITS,
) -> Comparison:
    """Measure how far `actual` is from `expected`, both finite and of the same shapes.

    geometries: how each image was fitted, where known; masks are then compared at the picture's own size.
    """
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
        relative=max((relative_error(expected[name], actual[name]) for name in floating), default=0.0),
        agreement={name: float(values.mean()) for name, values in agreement.items()},
        decisions_kept=float(task.decisions_kept(agreement, limits.slack).mean()),
    )


def _errors(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.float64]:
    """How far each value is off, beyond what rounding takes of a large one."""
    errors: NDArray[np.float64] = np.abs(actual.astype(np.float64) - expected)
    large = np.abs(expected) > 1
    errors[large] = np.maximum(errors[large] - rounding(expected[large]), 0)
    return errors


def relative_error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """Norm of the error over the norm of the expected values' variation between images.

    What is within the rounding of a value's own type is no error: untrained networks vary by little more than that.
    """
    reference = expected.astype(np.float64)
    variation = float(np.linalg.norm(reference - reference.mean(axis=0)))
    beyond_rounding = np.abs(actual - reference) - rounding(expected)
    error = float(np.linalg.norm(np.maximum(beyond_rounding, 0)))
    return error / variation if variation else float(error > 0)


def rounding(values: NDArray[Any]) -> NDArray[np.float64]:
    """How far two right computations of these values may lie apart, for their type; whole numbers not at all."""
    if not np.issubdtype(values.dtype, np.floating):
        return np.zeros(values.shape)
    magnitude: NDArray[np.float64] = np.abs(values).astype(np.float64)
    return ROUNDINGS * float(np.finfo(values.dtype).eps) * magnitude
