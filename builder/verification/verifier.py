"""Compare the outputs of an artifact with those of its checkpoint, on the inputs where exports are known to fail."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from builder.sources.base import TrainedReference, replay_golden
from tritonkit.comparison import (
    Comparison,
    Limits,
    batch_sizes,
    compare,
    finite_answers,
    has_same_type,
    infer_in_batches,
    is_text,
    max_error_per_image,
    rounding_tolerance,
    select_rows,
    valid_answers,
)
from tritonkit.comparison_inputs import (
    ComparisonInput,
    balanced_batch_size,
    changed_colors,
    full_batches,
    intermediate_batches,
    probe_batch,
    reversed_order,
)
from tritonkit.errors import Problem, TritonkitError
from tritonkit.golden import Golden
from tritonkit.repository.verdict import LIMITS, TRAINING_COMPARISON, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import Precision
from tritonkit.spec import Outputs
from tritonkit.tasks import task_of


def verify_runner(
    reference: Runner,
    candidate: Runner,
    golden: Golden,
    max_batch: int,
    precision: Precision,
    training: TrainedReference | None = None,
    limits: Limits | None = None,
    preferred: Collection[int] = (),
) -> Verdict:
    """Compare `candidate` with `reference` on the golden images and return the verdict.

    training: if set, the checkpoint must also reproduce the outputs that training recorded.
    limits: replaces the default limits of the precision.
    preferred: batch sizes that the server will use, in addition to powers of two.
    """
    verification = _Verification(reference, candidate, golden, max_batch, limits or LIMITS[precision])
    if (answers := verification.compare_full_batches()) is not None:
        verification.compare_reversed_order(answers)
        # Gray images would hide swapped channels.
        verification.compare_all([changed_colors(golden, max_batch)])
        verification.check_answers(answers)
        verification.check_quality(answers)
        if not verification.problems:  # after a failure these checks cost time and add nothing
            verification.compare_all(intermediate_batches(golden, max_batch, preferred))
            verification.compare_probes()
    if training is not None and training.golden.outputs:
        verification.check_training(training)
    return Verdict(
        passed=not verification.problems,
        precision=precision,
        images=golden.source,
        max_batch=max_batch,
        limits=verification.limits,
        comparisons=tuple(verification.comparisons),
        quality=verification.quality,
        problems=tuple(verification.problems),
        notes=tuple(verification.notes),
    )


def quality_losses(before: Mapping[str, float], after: Mapping[str, float], max_loss: float) -> Iterator[str]:
    """The quality metrics that fall by more than `max_loss` or become NaN, each as a sentence."""
    for name, value in before.items():
        if not (math.isnan(value) or value - after[name] <= max_loss):
            yield f"{name} falls from {value:.4f} to {after[name]:.4f}"


@dataclass
class _Verification:
    reference: Runner
    candidate: Runner
    golden: Golden
    max_batch: int
    limits: Limits
    comparisons: list[Comparison] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quality: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.task = task_of(self.reference.spec)
        self.geometries = self.golden.geometry_values
        self.expected = infer_in_batches(
            self.reference, self.golden.images, balanced_batch_size(len(self.golden.images), self.max_batch)
        )
        numbers = [array for array in self.expected.values() if not is_text(array)]
        if not all(np.isfinite(array).all() for array in numbers):
            self.report(
                "the checkpoint itself outputs NaN or infinity: no artifact can be verified against it",
                code="verdict.reference_not_finite",
            )
        elif all(
            (np.abs(array.astype(np.float64) - array[0]) <= 2 * rounding_tolerance(array)).all() for array in numbers
        ):
            self.report(
                "the checkpoint outputs the same values for every image, so a wrong graph would not show. Export "
                "trained weights, or pass images that differ with --images",
                code="verdict.reference_constant",
            )

    def report(self, message: str, code: str) -> None:
        """Add a problem to the verdict."""
        self.problems.append(Problem(code, message))

    def compare_full_batches(self) -> Outputs | None:
        """Compare all images at batch 1, a middle size and the maximum; return the outputs of the largest batch.

        Returns None where a batch size failed.
        """
        failed: dict[int, str] = {}
        answers = None
        for inputs in full_batches(self.golden, self.max_batch):
            try:
                answers = inputs.infer(self.candidate)
            except TritonkitError as error:
                failed[inputs.batch] = str(error)
                continue
            if not self._compare(inputs, self._expected_answers(inputs), answers):
                return None
        if failed or answers is None:
            sizes = batch_sizes(self.max_batch)
            self.report(_failed_sizes_message(failed, sizes, self.candidate.max_batch), code="verdict.batch")
            return None
        return {name: array[: len(self.golden.images)] for name, array in answers.items()}

    def compare_all(self, batches: Iterable[ComparisonInput]) -> None:
        """Compare both outputs for other images or batch sizes."""
        for inputs in batches:
            if (answers := self._infer_or_report(inputs)) is not None:
                self._compare(inputs, self._expected_answers(inputs), answers)

    def compare_probes(self) -> None:
        """Compare on synthetic images, with the checkpoint's outputs as the truth."""
        inputs = probe_batch(self.golden, self.max_batch)
        expected, answers = self._expected_answers(inputs), self._infer_or_report(inputs)
        valid = valid_answers(self.task, expected)
        if not valid.all():
            titles = ", ".join(title for title, is_valid in zip(inputs.titles, valid, strict=True) if not is_valid)
            self.notes.append(f"the checkpoint itself gives no valid output for {titles}: NaN, infinity or the like")
        if answers is None or not valid.any():
            return
        rows = np.flatnonzero(valid)
        inputs, expected, answers = inputs.select(rows), select_rows(expected, rows), select_rows(answers, rows)
        if self._compare(inputs, expected, answers, self.limits.for_probes()):
            for fault in self.task.faults(answers):
                self.report(f"{inputs.name}: {fault}", code="verdict.answers")

    def compare_reversed_order(self, answers: Outputs) -> None:
        """Run the same images in reverse order: the output of each image must stay the same."""
        inputs = reversed_order(self.golden, self.max_batch)
        reversed_answers, before = self._infer_or_report(inputs), inputs.expected(self.candidate, answers)
        if reversed_answers is None or not self._has_same_interface(inputs, before, reversed_answers):
            return
        change = compare(inputs.name, self.task, before, reversed_answers, inputs.geometries, self.limits)
        self.comparisons.append(change)
        if not change.is_within(self.limits) or change.decisions_kept < self.limits.decisions:
            self.report(
                f"the output of an image depends on its position in the batch: in a batch of {inputs.batch} in "
                f"another order, values change by {change.max_abs:.1e} and {change.decisions_kept:.0%} of decisions "
                "are kept",
                code="verdict.batch_position",
            )

    def check_answers(self, answers: Outputs) -> None:
        """Report outputs that are impossible for the task, whatever the checkpoint outputs."""
        for fault in self.task.faults(answers):
            self.report(fault, code="verdict.answers")

    def check_quality(self, answers: Outputs) -> None:
        """Compare accuracy and other metrics where the golden sample has labels."""
        if not self.golden.targets:
            return
        before = self.task.quality(self.expected, self.golden.targets)
        after = self.task.quality(answers, self.golden.targets)
        self.quality = {"checkpoint": before, "artifact": after}
        kept = compare("quality", self.task, self.expected, answers, self.geometries, self.limits).decisions_kept
        if kept < 1:  # else only ties were decided differently
            for loss in quality_losses(before, after, self.limits.quality):
                self.report(loss, code="verdict.quality")

    def check_training(self, training: TrainedReference) -> None:
        """Check that the checkpoint reproduces the outputs that training recorded."""
        reference, golden = training.reference, training.golden
        now = replay_golden(reference, golden, min(8, self.max_batch))
        if now is None:
            self.report(
                "the golden sample beside the checkpoint belongs to another model", code="verdict.golden_mismatch"
            )
            return
        drift = compare(TRAINING_COMPARISON, task_of(reference.spec), golden.outputs, now, golden.geometry_values)
        self.comparisons.append(drift)
        # Training may have run on a GPU: decisions must be equal, small differences are allowed.
        if drift.decisions_kept < 1 or not drift.relative <= 100 * LIMITS["fp32"].relative:
            self.report(
                f"the checkpoint does not reproduce the outputs recorded in training (error {drift.max_abs:.1e}, "
                f"{drift.decisions_kept:.0%} of decisions kept): weights or golden sample were changed since then",
                code="verdict.training",
            )

    def _expected_answers(self, inputs: ComparisonInput) -> Outputs:
        return inputs.expected(self.reference, self.expected)

    def _compare(
        self, inputs: ComparisonInput, expected: Outputs, actual: Outputs, limits: Limits | None = None
    ) -> bool:
        """Compare outputs and report problems. Returns whether names, shapes and types allow a comparison."""
        limits, before = limits or self.limits, len(self.problems)
        comparable = self._has_same_interface(inputs, expected, actual)
        if comparable:
            comparison = inputs.compare(self.task, expected, actual, self.expected, limits)
            self.comparisons.append(comparison)
            if not comparison.is_within(limits):
                worst = inputs.titles[int(max_error_per_image(self.task.aligned(expected, actual), actual).argmax())]
                self.report(
                    f"{inputs.name}: values differ by up to {comparison.max_abs:.1e} (limit {limits.max_abs:.0e}), "
                    f"relative {comparison.relative:.1e} (limit {limits.relative:.0e}), most for {worst}",
                    code="verdict.numbers",
                )
            if comparison.decisions_kept < limits.decisions:
                agreement = ", ".join(f"{name} {value:.4f}" for name, value in comparison.agreement.items())
                self.report(
                    f"{inputs.name}: the decision changes for {1 - comparison.decisions_kept:.0%} of images "
                    f"(mean {agreement})",
                    code="verdict.decisions",
                )
        if not before and self.problems and inputs.indices is not None:
            self._report_wrong_positions(inputs, expected, actual)
        return comparable

    def _report_wrong_positions(self, inputs: ComparisonInput, expected: Outputs, actual: Outputs) -> None:
        """Report the batch positions that are wrong where the same images were right in a smaller batch."""
        names = [comparison.asked for comparison in self.comparisons]
        smaller = [name for name in names if name != inputs.name and name.startswith("batch")]
        if not smaller or any(problem.code == "verdict.interface" for problem in self.problems):
            return
        # The wrong rows, bool [N]: values beyond the limit, or for class numbers alone a changed decision. Agreement
        # can depend on several rows, such as that of nearest neighbours.
        errors = max_error_per_image(self.task.aligned(expected, actual), actual)
        wrong: NDArray[np.bool_] = ~(errors <= self.limits.max_abs)
        if not any(np.issubdtype(array.dtype, np.floating) for array in expected.values()):
            agreement = self.task.agreement(expected, actual, inputs.geometries, self.limits.tie)
            wrong = ~self.task.decisions_kept(agreement, self.limits.slack)
        positions = sorted({row % inputs.batch for row in np.flatnonzero(wrong).tolist()})
        if wrong.all():
            self.report(
                f"all outputs of a batch of {inputs.batch} are wrong; those of {', '.join(smaller)} are right",
                code="verdict.batch",
            )
        elif positions:
            self.report(
                f"in a batch of {inputs.batch} the outputs at {_positions_text(positions)} are wrong; "
                f"at {smaller[0]} the same images are right",
                code="verdict.batch_position",
            )

    def _infer_or_report(self, inputs: ComparisonInput) -> Outputs | None:
        try:
            return inputs.infer(self.candidate)
        except TritonkitError as error:
            self.report(f"{inputs.name}: {error}", code="verdict.run")
            return None

    def _has_same_interface(self, inputs: ComparisonInput, expected: Outputs, actual: Outputs) -> bool:
        """Whether names, shapes and types of the outputs are as expected, and all values finite; else report it."""
        for name, right in expected.items():
            if name not in actual:
                self.report(f"has no output {name!r}; it has {', '.join(actual)}", code="verdict.interface")
                return False
            array = actual[name]
            if array.shape != right.shape or not has_same_type(array, right):
                self.report(
                    f"{inputs.name}: output {name} is {array.dtype} {list(array.shape)}, "
                    f"expected {right.dtype} {list(right.shape)}",
                    code="verdict.interface",
                )
                return False
            bad = np.logical_not(finite_answers({name: array})) if not is_text(array) else np.zeros(len(array), bool)
            if bad.any():
                kind = "NaN" if np.isnan(array).any() else "infinity"
                self.report(
                    f"{inputs.name}: output {name} holds {kind} for {int(bad.sum())} of {len(bad)} images, "
                    f"first for {inputs.titles[int(bad.argmax())]}",
                    code="verdict.nan",
                )
                return False
        return True


def _positions_text(positions: Sequence[int]) -> str:
    """Positions counted from 1: position 3, positions 10 to 32, positions 1, 4, 7 and 2 more."""
    first, last = positions[0] + 1, positions[-1] + 1
    if len(positions) == 1:
        return f"position {first}"
    if last - first + 1 == len(positions):
        return f"positions {first} to {last}"
    more = f" and {len(positions) - 3} more" if len(positions) > 3 else ""
    return f"positions {', '.join(str(position + 1) for position in positions[:3])}{more}"


def _failed_sizes_message(failed: dict[int, str], sizes: list[int], max_batch: int | None) -> str:
    """Say which batch sizes failed; `max_batch` is the largest size that the candidate declares."""
    works = [str(size) for size in sizes if size not in failed]
    reason = next(iter(failed.values()))
    if not works:
        return f"cannot be run: {reason}"
    broken = ", ".join(map(str, failed))
    is_fixed = len(works) == 1 and (max_batch is None or works == [str(max_batch)])
    message = f"a batch of {', '.join(works)} works, a batch of {broken} fails ({reason})"
    return f"the batch axis is fixed: {message}" if is_fixed else message
