"""The verdict: does an artifact give the answers of the checkpoint it was made from?

It is asked about real images at batch 1, a middle size and the maximum, and again with the images in another
order and in other colours. What is measured:

- error of every value that is a fraction (a mask's class numbers are not): largest, mean, 99th percentile;
- relative error: the Frobenius norm of the error over that of the reference's own variation between images.
  A classifier of a thousand classes hides a wrong graph in small absolute errors; this does not let it;
- agreement, by the task's own measures (top-1, label set, cosine and nearest neighbour, IoU of masks at the picture's
  size), and the share of images that keep their decision by them;
- faults that answers have by themselves: no unit length, values that are no probabilities;
- quality (accuracy, …) of both where the truth is known;
- NaN and infinity, shapes and types, dependence on the place in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.targets import FormatName, Precision
from model.preprocess import Geometry
from model.runners.base import Outputs
from model.spec import Frozen
from model.tasks import Task
from model.tasks.base import TIE

VERDICT_FILE = "verdict.json"
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
    """Largest relative error, as defined above."""
    decisions: float
    """Least share of images that keep their decision."""
    quality: float
    """Largest loss of any quality figure."""
    tie: float = TIE
    """Two answers whose probabilities are so near in the reference are equally good."""
    slack: float = 1
    """How many times more than in fp32 an embedding may turn or a mask may change and still be the same decision."""


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(max_abs=1e-4, relative=1e-3, decisions=1.0, quality=0.0),
    "fp16": Limits(max_abs=0.02, relative=0.05, decisions=1.0, quality=0.005, tie=0.02, slack=2),
    "bf16": Limits(max_abs=0.1, relative=0.2, decisions=0.98, quality=0.01, tie=0.05, slack=10),
    "int8": Limits(max_abs=0.3, relative=0.4, decisions=0.9, quality=0.02, tie=0.1, slack=20),
}
"""By precision; the reasons are in docs/verdict.md."""


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
    """Errors are those of floating-point outputs, 0 where there are none."""
    agreement: dict[str, float] = {}
    """By the task's measures, the mean over the images."""
    decisions_kept: float

    def within(self, limits: Limits) -> bool:
        """Do the values keep to the limits? NaN does not."""
        negligible = self.max_abs <= NEGLIGIBLE  # a model that is sure of everything varies by next to nothing
        return self.max_abs <= limits.max_abs and (negligible or self.relative <= limits.relative)


class Try(Frozen):
    """One attempt at a precision: what was done, what came of it, and what it cost."""

    precision: Precision
    how: str
    """What was kept out of the precision, in words."""
    passed: bool
    kept: tuple[str, ...] = ()
    """Nodes of the graph kept in fp32."""
    nodes: int = 0
    """Nodes in the reduced precision."""
    max_abs: float | None = None
    relative: float | None = None
    seconds: float
    problems: tuple[Problem, ...] = ()


class Verdict(Frozen):
    """What `verdict.json` holds."""

    passed: bool
    forced: bool = False
    format: FormatName = "onnx"
    asked: str | None = None
    """The precision that was wanted, where another was needed."""
    precision: Precision
    proven_by: str | None = None
    """What answered for the artifact, where it cannot run on the machine that made it."""
    tries: tuple[Try, ...] = ()
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
        sizes = ", ".join(str(size) for size in batch_sizes(self.max_batch))
        return f"{', '.join(self._closeness())}, at batch {sizes}, on {self.images}"

    def _closeness(self) -> list[str]:
        worst = max(self.comparisons, key=lambda c: c.max_abs)
        least = {name: min(c.agreement[name] for c in self.comparisons) for name in worst.agreement}
        # Without floating-point outputs there is no error, and to tell of 0 would be boasting.
        error = [f"largest error {worst.max_abs:.1e} (limit {self.limits.max_abs:.0e})"] if worst.max_abs else []
        kept = min(comparison.decisions_kept for comparison in self.comparisons)
        shown = "all decisions" if kept == 1 else f"{kept:.0%} of decisions"
        return [*error, f"{shown} kept ({', '.join(f'{name} {value:.4f}' for name, value in least.items())})"]


def batch_sizes(max_batch: int) -> list[int]:
    """The batch sizes a verdict asks at: 1, a middle one, the maximum."""
    return sorted({1, min(MIDDLE_BATCH, max_batch), max_batch})


def compare(
    asked: str,
    task: Task,
    expected: Outputs,
    actual: Outputs,
    geometries: Sequence[Geometry] | None = None,
    limits: Limits = LIMITS["fp32"],
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
