"""The verdict: whether an artifact gives the outputs of the checkpoint it was made from.

Both are run on real images at batch 1, a middle size and the maximum, in one batch of every other size that a server
is likely to use, with the images in reverse order and with changed colours, and on synthetic probes. Measured are:

- the error of floating-point values: largest, mean, 99th percentile;
- the relative error: the Frobenius norm of the error, divided by that of the reference's variation between images.
  It shows a wrong graph also where a classifier has a thousand classes, whose absolute errors are all small;
- agreement, by the task's own measures (top-1, label set, cosine and nearest neighbour, IoU of masks at the image's
  size), and the share of images whose decision is kept;
- outputs that are invalid by themselves: embeddings not of unit length, values that are not probabilities;
- quality (accuracy, …) of both where labels are known;
- NaN and infinity, shapes and types, dependence on the position in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from tritonkit.comparison import FP32_LIMITS, NEGLIGIBLE, PROBES, Comparison, Limits, batch_sizes
from tritonkit.errors import ArtifactError, Problem
from tritonkit.repository.file import RepositoryFile
from tritonkit.runtimes.formats import ONNX, Precision
from tritonkit.spec import Frozen

TRAINING_COMPARISON = "training"
"""The comparison of the checkpoint with the outputs that training recorded. It has its own limits."""
LIMITS: dict[Precision, Limits] = {
    "fp32": FP32_LIMITS,
    "fp16": Limits(max_abs=0.02, relative=0.05, decisions=1.0, quality=0.005, tie=0.02, slack=2, probes=5),
    "bf16": Limits(max_abs=0.1, relative=0.2, decisions=0.98, quality=0.01, tie=0.05, slack=10, probes=5),
    "int8": Limits(max_abs=0.3, relative=0.4, decisions=0.9, quality=0.02, tie=0.1, slack=20, probes=0),
}
"""Limits by precision; docs/verdict.md explains them."""


class LimitExcess(Frozen):
    """The value of an attempt that exceeds its limit most."""

    words: str
    excess: float | None = None
    """The value divided by its limit; None where there is no number, as for NaN."""


class Attempt(Frozen):
    """One attempt at a precision: its settings, result and duration."""

    precision: Precision
    how: str
    """Which nodes were kept out of the precision, in words."""
    passed: bool
    kept: tuple[str, ...] = ()
    """Nodes of the graph kept in fp32."""
    nodes: int = 0
    """Nodes in the reduced precision."""
    max_abs: float | None = None
    relative: float | None = None
    seconds: float
    problems: tuple[Problem, ...] = ()
    miss: LimitExcess | None = None
    """None where the attempt passed, and in verdicts of earlier versions."""


class Verdict(RepositoryFile):
    """The content of `verdict.json`: one artifact compared with its checkpoint."""

    FILE: ClassVar[str] = "verdict.json"

    passed: bool
    forced: bool = False
    model: str | None = None
    """The name of the model; None in verdicts of earlier versions."""
    artifact_sha256: str | None = None
    """The digest of all files of the artifact (`tritonkit.repository.artifact_files`); None in earlier verdicts."""
    format: str = ONNX.name
    asked: str | None = None
    """The precision that was requested, where another one was needed."""
    precision: Precision
    proven_by: str | None = None
    """What produced the outputs: the artifact, or a simulation where it cannot run here."""
    exact_int8: bool | None = None
    """For int8: whether this CPU adds products exactly (`tritonkit.system.cpu`). Outputs may differ on other CPUs."""
    tries: tuple[Attempt, ...] = ()
    images: str
    max_batch: int
    limits: Limits
    comparisons: tuple[Comparison, ...] = ()
    quality: dict[str, dict[str, float]] = {}
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """Properties of the checkpoint itself that its user should know."""

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a verdict that cannot be read."""
        return ArtifactError(
            f"{path}: cannot be read ({reason}); export the model again", code="repository.unreadable_verdict"
        )

    @property
    def state(self) -> Literal["passed", "FORCED", "FAILED"]:
        """The result in one word."""
        return "FORCED" if self.forced else "passed" if self.passed else "FAILED"

    @property
    def artifact_comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons of the artifact with the checkpoint on real images."""
        return tuple(entry for entry in self.comparisons if entry.asked not in (TRAINING_COMPARISON, PROBES))

    @property
    def of_probes(self) -> Comparison | None:
        """The comparison on synthetic images; None where an earlier comparison failed, and in old verdicts."""
        return next((entry for entry in self.comparisons if entry.asked == PROBES), None)

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that were compared; before the comparison, those planned."""
        names = [comparison.asked for comparison in self.comparisons]
        compared = {int(name.removeprefix("batch ")) for name in names if name.startswith("batch ")}
        return sorted(compared) or batch_sizes(self.max_batch)

    @property
    def relative(self) -> float | None:
        """The artifact's largest relative error; None where all errors are negligible."""
        return max((entry.relative for entry in self.artifact_comparisons if entry.max_abs > NEGLIGIBLE), default=None)

    @property
    def miss(self) -> LimitExcess | None:
        """The value that exceeds its limit most, else the first problem; None without problems."""
        if not self.problems:
            return None
        excesses = [excess for comparison in self.comparisons for excess in self._limit_excesses(comparison)]
        if not excesses:
            return LimitExcess(words=self.problems[0].message.splitlines()[0])
        worst = max(excesses, key=lambda miss: miss.excess or 0)
        share = min((comparison.decisions_kept for comparison in self.artifact_comparisons), default=0.0)
        if "decisions" in worst.words:
            return worst
        return worst.model_copy(update={"words": f"{worst.words}; {decisions_text(share)} kept"})

    def _limit_excesses(self, comparison: Comparison) -> Iterator[LimitExcess]:
        if comparison.asked == TRAINING_COMPARISON:
            return
        limits = self.limits.for_probes() if comparison.asked == PROBES else self.limits
        place = f"{'at' if comparison.asked.startswith('batch') else 'in'} {comparison.asked}"
        figures = {"error": (comparison.max_abs, limits.max_abs)}
        if comparison.max_abs > NEGLIGIBLE:
            figures["relative error"] = (comparison.relative, limits.relative)
        for name, (value, limit) in figures.items():
            if value > limit:
                words = f"{name} {value:.2g}, limit {limit:g}, {place}"
                yield LimitExcess(words=words, excess=value / limit if limit else None)
        if (share := comparison.decisions_kept) < limits.decisions:
            words = f"{decisions_text(share)} kept, limit {limits.decisions:.0%}, {place}"
            yield LimitExcess(words=words, excess=limits.decisions / share if share else None)

    @property
    def closest_attempts(self) -> str:
        """For each failed precision the attempt closest to its limit, with value and limit; empty without one."""
        nearest: dict[str, Attempt] = {}
        for attempt in self.tries:
            best = nearest.get(attempt.precision)
            counts = not attempt.passed and (attempt.precision != self.precision or not self.passed)
            if counts and (best is None or _excess(attempt) < _excess(best)):
                nearest[attempt.precision] = attempt
        return ", ".join(f"{precision} failed ({_failure_reason(best)})" for precision, best in nearest.items())

    @property
    def calibration_hint(self) -> str | None:
        """A hint about the calibration images, where int8 ran and no calibration kept the outputs; None otherwise."""
        # A source graph in int8 was calibrated elsewhere; it has no reduced nodes here.
        attempts = [attempt for attempt in self.tries if attempt.precision == "int8" and attempt.nodes]
        attempts = [attempt for attempt in attempts if attempt.max_abs is not None]
        if not attempts or any(attempt.passed for attempt in attempts):
            return None
        return (
            "no int8 calibration kept the outputs: check that the calibration images (--calibration, by default the "
            "images of the verdict) resemble those that the model will get"
        )

    def summary(self) -> str:
        """One sentence, or the list of problems."""
        if self.problems:
            return "\n".join(f"  {problem.code}: {problem.message}" for problem in self.problems)
        sizes = ", ".join(map(str, self.sizes))
        probes = f" and {self.of_probes.images} synthetic probes" if self.of_probes is not None else ""
        compared = self.artifact_comparisons
        worst = max(compared, key=lambda comparison: comparison.max_abs)
        lowest = [f"{name} {min(entry.agreement[name] for entry in compared):.4f}" for name in worst.agreement]
        # Without floating-point outputs there is no error to show.
        figures = [f"largest error {worst.max_abs:.1e} (limit {self.limits.max_abs:g})"] if worst.max_abs else []
        if self.relative is not None:
            figures.append(f"relative {self.relative:.1e} (limit {self.limits.relative:g})")
        share = min(comparison.decisions_kept for comparison in compared)
        figures.append(f"{decisions_text(share)} kept ({', '.join(lowest)})")
        return f"{', '.join(figures)}, at batch {sizes}, on {self.images}{probes}"


def decisions_text(share: float) -> str:
    """A share of decisions as text: all decisions, 89% of decisions."""
    return "all decisions" if share == 1 else f"{share:.0%} of decisions"


def _excess(attempt: Attempt) -> float:
    return attempt.miss.excess if attempt.miss is not None and attempt.miss.excess is not None else math.inf


def _failure_reason(attempt: Attempt) -> str:
    if attempt.miss is not None:
        return attempt.miss.words
    return attempt.problems[0].message if attempt.problems else attempt.how
