"""Check that a running server still gives the checkpoint's answers.

The server answers the golden images of its version: one by one, in batches of a middle size and of the maximum size,
and in one batch of each size between. Then it answers the synthetic probes, if the golden sample has their answers.
All answers are compared with the checkpoint's, within the limits of the version's verdict, or within the limits of
fp32 if that verdict is not available.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from client.check_reference import ReferenceFiles
from tritonkit.checkpoint import read_spec
from tritonkit.comparison import FP32_LIMITS, PROBES, Comparison, Limits, select_rows, valid_answers
from tritonkit.comparison_inputs import ComparisonInput, full_batches, intermediate_batches, probe_batch
from tritonkit.errors import AnswerError, InputError, Problem, TritonkitError
from tritonkit.golden import Golden
from tritonkit.runtimes import Outputs, open_artifact
from tritonkit.spec import Frozen
from tritonkit.tasks import task_of

if TYPE_CHECKING:
    from tritonkit.triton.runner import TritonRunner


class CheckResult(Frozen):
    """The result of checking one served model."""

    model: str
    version: str
    origin: str
    images: str
    limits: Limits
    verdict: Path | None = None
    """The file that the limits were read from. None means the limits of fp32."""
    comparisons: tuple[Comparison, ...]
    problems: tuple[str, ...]
    problem_codes: tuple[str, ...] = ()
    """The stable code of each problem, in the same order."""
    quality: dict[str, dict[str, float]] = {}
    """With labelled images: the metrics of the server, and of the checkpoint if it was set."""

    @property
    def passed(self) -> bool:
        """Whether the server gives the checkpoint's answers."""
        return not self.problems


def check_served_model(runner: TritonRunner, reference_files: ReferenceFiles) -> CheckResult:
    """Compare a served model's answers with the checkpoint's answers.

    Raises InputError without a golden sample of this model, InferenceError if the server does not answer.
    """
    runner = runner.pin_version()  # all answers come from the version whose golden sample is read
    golden, limits, verdict = reference_files.load(runner)
    if golden.images.shape[1:] != runner.spec.input.shape:
        expected_shape, golden_shape = list(runner.spec.input.shape), list(golden.images.shape[1:])
        raise InputError(
            f"{runner.origin}: expects images of {expected_shape}, got {golden_shape} in the golden sample; "
            "it may belong to another model",
            code="golden.image_size",
        )
    problems: list[Problem] = []
    comparisons, task = [], task_of(runner.spec)
    for test_case, expected in _test_cases(golden, runner):
        case_limits = limits.for_probes() if test_case.name == PROBES else limits
        outputs = test_case.infer(runner)
        if (mismatch := _output_mismatch(expected, outputs)) is not None:
            problems.append(Problem(mismatch.code, f"{test_case.name}: {mismatch.message}"))
            break
        comparison = test_case.compare(task, expected, outputs, golden.outputs, case_limits)
        comparisons.append(comparison)
        problems += _comparison_problems(comparison, case_limits)
    identity = {"model": runner.model, "version": runner.version, "origin": runner.origin, "images": golden.source}
    return CheckResult(
        **identity,
        limits=limits,
        verdict=verdict,
        comparisons=tuple(comparisons),
        problems=tuple(problem.message for problem in problems),
        problem_codes=tuple(problem.code for problem in problems),
    )


def with_quality(
    result: CheckResult, runner: TritonRunner, data: Path | str, masks: Path | str | None, checkpoint: Path | None
) -> CheckResult:
    """Measure a served model on labelled images; with its checkpoint, a metric that is worse than its own is a problem.

    Raises DataError that lists all problems of the images.
    """
    from tritonkit.evaluation.evaluate import LabelledImages, quality_problems

    # A served model has no lineage, which contains the columns of the truth.
    images = LabelledImages.read(data, runner.spec if checkpoint is None else read_spec(checkpoint), masks)
    try:
        served = images.evaluate(runner)
    except AnswerError as error:  # such as NaN
        return result.model_copy(
            update={
                "problems": (*result.problems, str(error)),
                "problem_codes": (*result.problem_codes, error.code),
            }
        )
    measured, problems = {"server": served}, list[Problem]()
    if checkpoint is not None:
        with open_artifact(checkpoint) as reference:
            measured["checkpoint"] = images.evaluate(reference)
        problems = quality_problems(measured["checkpoint"], served, result.limits)
    return result.model_copy(
        update={
            "quality": {
                f"{name} on {served.images} pictures of {images.data}": evaluation.measured_metrics()
                for name, evaluation in measured.items()
            },
            "problems": (*result.problems, *(problem.message for problem in problems)),
            "problem_codes": (*result.problem_codes, *(problem.code for problem in problems)),
        }
    )


def _test_cases(golden: Golden, runner: TritonRunner) -> Iterator[tuple[ComparisonInput, Outputs]]:
    """Yield the batches to send with their expected answers: golden images, then probes if their answers are known."""
    largest = max(1, runner.max_batch or 1)
    preferred = runner.server.model(runner.model, runner.version).preferred_batch_sizes
    for test_case in (
        *full_batches(golden, largest),
        *intermediate_batches(golden, largest, preferred),
    ):
        yield test_case, test_case.expected(runner, golden.outputs)
    if golden.probe_outputs:
        probe_rows = np.flatnonzero(valid_answers(task_of(runner.spec), golden.probe_outputs))
        if len(probe_rows):
            yield probe_batch(golden, largest).select(probe_rows), select_rows(golden.probe_outputs, probe_rows)


def failed_check(model: str, version: str, origin: str, error: TritonkitError) -> CheckResult:
    """Return the result for a model that could not be checked."""
    identity = {"model": model, "version": version, "origin": origin, "images": ""}
    return CheckResult(
        **identity, limits=FP32_LIMITS, comparisons=(), problems=(str(error),), problem_codes=(error.code,)
    )


def _output_mismatch(expected: Outputs, actual: Outputs) -> Problem | None:
    """Explain why outputs cannot be compared; None if they can. The expected outputs are finite."""
    for name, array in expected.items():
        if name not in actual:
            return Problem(
                "check.missing_output", f"expected the output {name}, got {', '.join(actual)} from the server"
            )
        if actual[name].shape != array.shape:
            return Problem(
                "check.shape",
                f"{name}: the server's shape is {list(actual[name].shape)}, the checkpoint's {list(array.shape)}",
            )
        if np.issubdtype(actual[name].dtype, np.floating) and not np.isfinite(actual[name]).all():
            return Problem("check.nan", f"{name}: the server's values contain NaN or Inf")
    return None


def _comparison_problems(comparison: Comparison, limits: Limits) -> list[Problem]:
    problems = []
    if not comparison.is_within(limits):
        problems.append(
            Problem(
                "check.values",
                f"{comparison.asked}: values differ by up to {comparison.max_abs:.1e} (limit {limits.max_abs:.0e}), "
                f"relative {comparison.relative:.1e} (limit {limits.relative:.0e})",
            )
        )
    if comparison.decisions_kept < limits.decisions:
        problems.append(
            Problem(
                "check.decisions",
                f"{comparison.asked}: the answer changes for {1 - comparison.decisions_kept:.0%} of the images",
            )
        )
    return problems
