"""The verdict: does an artifact give the answers of the checkpoint it was made from?

It is asked about real images at batch 1, a middle size and the maximum, in one batch of every size between that a
server is likely to put together, and again with the images in another order and in other colours; then about
synthetic probes. What is measured:

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

import math
from collections.abc import Iterator

from builder.targets import FormatName, Precision
from model.comparison import FP32_LIMITS, NEGLIGIBLE, PROBES, Comparison, Limits, batch_sizes
from model.errors import Problem
from model.spec import Frozen

VERDICT_FILE = "verdict.json"
OF_TRAINING = "training"
"""This comparison is of the checkpoint alone, now and when it was trained, and has limits of its own."""
LIMITS: dict[Precision, Limits] = {
    "fp32": FP32_LIMITS,
    "fp16": Limits(max_abs=0.02, relative=0.05, decisions=1.0, quality=0.005, tie=0.02, slack=2, probes=5),
    "bf16": Limits(max_abs=0.1, relative=0.2, decisions=0.98, quality=0.01, tie=0.05, slack=10, probes=5),
    "int8": Limits(max_abs=0.3, relative=0.4, decisions=0.9, quality=0.02, tie=0.1, slack=20, probes=0),
}
"""By precision; the reasons are in docs/verdict.md."""


class Miss(Frozen):
    """The largest excess of a try over its limits."""

    words: str
    excess: float | None = None
    """How many times the limit; None where there is no figure, as for NaN."""


class Attempt(Frozen):
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
    miss: Miss | None = None
    """None where it passed, and in verdicts from before this was kept."""


class Verdict(Frozen):
    """What `verdict.json` holds."""

    passed: bool
    forced: bool = False
    format: FormatName = "onnx"
    asked: str | None = None
    """The precision that was wanted, where another was needed."""
    precision: Precision
    proven_by: str | None = None
    """What answered for the artifact: it itself, or what stands for it where it cannot run here as on its target."""
    exact_int8: bool | None = None
    """Of int8: whether the CPU that was asked adds its products exactly (`model.cpu`). Others may answer otherwise."""
    tries: tuple[Attempt, ...] = ()
    images: str
    max_batch: int
    limits: Limits
    comparisons: tuple[Comparison, ...] = ()
    quality: dict[str, dict[str, float]] = {}
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """What the checkpoint itself does that its user should know."""

    @property
    def of_artifact(self) -> tuple[Comparison, ...]:
        """The comparisons on real pictures that say how far the artifact is off."""
        return tuple(one for one in self.comparisons if one.asked not in (OF_TRAINING, PROBES))

    @property
    def of_probes(self) -> Comparison | None:
        """The comparison on synthetic pictures; None where an earlier one failed, or before there were any."""
        return next((one for one in self.comparisons if one.asked == PROBES), None)

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that were compared, or are to be."""
        compared = {int(one.asked.removeprefix("batch ")) for one in self.comparisons if one.asked.startswith("batch ")}
        return sorted(compared) or batch_sizes(self.max_batch)

    @property
    def relative(self) -> float | None:
        """The artifact's largest relative error that counts; None where all errors are negligible."""
        return max((one.relative for one in self.of_artifact if one.max_abs > NEGLIGIBLE), default=None)

    @property
    def miss(self) -> Miss | None:
        """The figure that is farthest beyond its limit; the first problem where none is; None where all is well."""
        if not self.problems:
            return None
        found = [one for comparison in self.comparisons for one in self._misses(comparison)]
        if not found:
            return Miss(words=self.problems[0].message.splitlines()[0])
        worst = max(found, key=lambda one: one.excess or 0)
        kept = min((one.decisions_kept for one in self.of_artifact), default=0.0)
        if "decisions" in worst.words:
            return worst
        return worst.model_copy(update={"words": f"{worst.words}; {decisions_in_words(kept)} kept"})

    def _misses(self, comparison: Comparison) -> Iterator[Miss]:
        if comparison.asked == OF_TRAINING:
            return
        limits = self.limits.of_probes() if comparison.asked == PROBES else self.limits
        where = f"{'at' if comparison.asked.startswith('batch') else 'in'} {comparison.asked}"
        figures = {"error": (comparison.max_abs, limits.max_abs)}
        if comparison.max_abs > NEGLIGIBLE:
            figures["relative error"] = (comparison.relative, limits.relative)
        for name, (value, limit) in figures.items():
            if value > limit:
                words = f"{name} {value:.2g}, limit {limit:g}, {where}"
                yield Miss(words=words, excess=value / limit if limit else None)
        if (kept := comparison.decisions_kept) < limits.decisions:
            words = f"{decisions_in_words(kept)} kept, limit {limits.decisions:.0%}, {where}"
            yield Miss(words=words, excess=limits.decisions / kept if kept else None)

    @property
    def nearest_tries(self) -> str:
        """Of each precision that failed, the try that came nearest, with its figure and limit; empty without one."""
        nearest: dict[str, Attempt] = {}
        for one in self.tries:
            best = nearest.get(one.precision)
            counts = not one.passed and (one.precision != self.precision or not self.passed)
            if counts and (best is None or _excess(one) < _excess(best)):
                nearest[one.precision] = one
        return ", ".join(f"{precision} failed ({_why(one)})" for precision, one in nearest.items())

    @property
    def calibration_doubt(self) -> str | None:
        """What to look at where int8 was asked for answers and no calibration kept them; None otherwise."""
        # A graph that came in int8 was calibrated elsewhere, and is tried as it is.
        tried = [one for one in self.tries if one.precision == "int8" and one.nodes and one.max_abs is not None]
        if not tried or any(one.passed for one in tried):
            return None
        return (
            "no calibration of int8 kept the answers: are the pictures it was calibrated on (--calibration, else those "
            "of the verdict) like the ones that the model will see?"
        )

    def summary(self) -> str:
        """One sentence, or the list of problems."""
        if self.problems:
            return "\n".join(f"  {problem.code}: {problem.message}" for problem in self.problems)
        sizes = ", ".join(map(str, self.sizes))
        probes = f" and {self.of_probes.images} synthetic probes" if self.of_probes is not None else ""
        return f"{', '.join(self._closeness())}, at batch {sizes}, on {self.images}{probes}"

    def _closeness(self) -> list[str]:
        worst = max(self.of_artifact, key=lambda c: c.max_abs)
        least = {name: min(c.agreement[name] for c in self.of_artifact) for name in worst.agreement}
        # Without floating-point outputs there is no error, and to tell of 0 would be boasting.
        error = [f"largest error {worst.max_abs:.1e} (limit {self.limits.max_abs:g})"] if worst.max_abs else []
        if self.relative is not None:
            error.append(f"relative {self.relative:.1e} (limit {self.limits.relative:g})")
        kept = min(comparison.decisions_kept for comparison in self.of_artifact)
        return [
            *error,
            f"{decisions_in_words(kept)} kept ({', '.join(f'{name} {value:.4f}' for name, value in least.items())})",
        ]


def decisions_in_words(kept: float) -> str:
    """A share of decisions: all decisions, 89% of decisions."""
    return "all decisions" if kept == 1 else f"{kept:.0%} of decisions"


def _excess(one: Attempt) -> float:
    return one.miss.excess if one.miss is not None and one.miss.excess is not None else math.inf


def _why(one: Attempt) -> str:
    if one.miss is not None:
        return one.miss.words
    return one.problems[0].message if one.problems else one.how
