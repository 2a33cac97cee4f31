"""The verdict: does an artifact give the answers of the checkpoint it was made from?

It is asked about real images at batch 1, a middle size and the maximum, and again with the images in another
order and in other colours. What is measured:

- error of every output value: largest, mean, 99th percentile;
- relative error: the Frobenius norm of the error over that of the reference's own variation between images.
  A classifier of a thousand classes hides a wrong graph in small absolute errors; this does not let it;
- the share of images that keep their decision (of the task: top-1, label set, …);
- quality (accuracy, …) of both where the truth is known;
- NaN and infinity, shapes and types, dependence on the place in the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runners.base import Outputs
from model.spec import Frozen
from model.tasks import Task

MIDDLE_BATCH = 3
ROUNDINGS = 16
"""A last layer such as softmax adds up to about so many roundings of its values."""


class Limits(Frozen):
    """What an artifact of a precision may lose."""

    max_abs: float
    """Largest error of any output value."""
    relative: float
    """Largest relative error, as defined above."""
    decisions: float
    """Least share of images that keep their decision."""
    quality: float
    """Largest loss of any quality figure."""


LIMITS = {"fp32": Limits(max_abs=1e-4, relative=1e-3, decisions=1.0, quality=0.0)}
"""By precision. fp32 kernels differ by the order of sums: 1e-6 relative is usual, 2e-5 the most seen."""


class Problem(Frozen):
    """A reason to refuse: a stable code, and a sentence."""

    code: str
    message: str


class Comparison(Frozen):
    """How far the artifact is from the reference in one way of asking."""

    asked: str
    images: int
    max_abs: float
    mean_abs: float
    p99_abs: float
    relative: float
    decisions_kept: float


class Verdict(Frozen):
    """What `verdict.json` holds."""

    passed: bool
    forced: bool = False
    precision: str
    images: str
    max_batch: int
    limits: Limits
    comparisons: tuple[Comparison, ...] = ()
    quality: dict[str, dict[str, float]] = {}
    problems: tuple[Problem, ...] = ()

    def summary(self) -> str:
        """One sentence, or the list of problems."""
        if self.problems:
            return "\n".join(f"  {problem.code}: {problem.message}" for problem in self.problems)
        worst = max(self.comparisons, key=lambda c: c.max_abs)
        return (
            f"largest error {worst.max_abs:.1e} (limit {self.limits.max_abs:.0e}), all decisions kept, "
            f"at batch {', '.join(str(size) for size in batch_sizes(self.max_batch))}, on {self.images}"
        )


def batch_sizes(max_batch: int) -> list[int]:
    """The batch sizes a verdict asks at: 1, a middle one, the maximum."""
    return sorted({1, min(MIDDLE_BATCH, max_batch), max_batch})


def compare(asked: str, task: Task, expected: Outputs, actual: Outputs) -> Comparison:
    """Measure how far `actual` is from `expected`, both finite and of the same shapes."""
    errors = np.concatenate([np.abs(actual[k] - expected[k]).astype(np.float64).ravel() for k in expected])
    return Comparison(
        asked=asked,
        images=len(next(iter(expected.values()))),
        max_abs=float(errors.max()),
        mean_abs=float(errors.mean()),
        p99_abs=float(np.percentile(errors, 99)),
        relative=max(relative_error(expected[name], actual[name]) for name in expected),
        decisions_kept=float(task.decisions_kept(expected, actual).mean()),
    )


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
    """How far two right computations of these values may lie apart, for their floating-point type."""
    magnitude: NDArray[np.float64] = np.abs(values).astype(np.float64)
    return ROUNDINGS * float(np.finfo(values.dtype).eps) * magnitude
