"""Explain a failed verdict: apply known faults to the reference and report those that give the same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builder.verification.known_faults import known_faults
from builder.verification.tensors import changed_tensors
from tritonkit.comparison import Limits, infer_in_batches, relative_error
from tritonkit.comparison_inputs import with_changed_colors
from tritonkit.errors import Problem, TritonkitError
from tritonkit.golden import Golden
from tritonkit.networks.network import Network
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import Outputs
from tritonkit.tasks import Task, task_of

_SYMPTOMS = ("verdict.numbers", "verdict.decisions", "verdict.answers", "verdict.nan", "verdict.interface")


def with_causes(verdict: Verdict, network: Network, candidate: Runner, golden: Golden, artifact: Path) -> Verdict:
    """Add the causes that were found to the problems of a failed verdict; return a passed one unchanged."""
    if not any(problem.code in _SYMPTOMS for problem in verdict.problems):
        return verdict
    probes = with_changed_colors(golden.images[:8])
    try:
        actual = infer_in_batches(candidate, probes, 1)
    except TritonkitError:
        return verdict
    task, limits = task_of(network.spec), verdict.limits
    right = infer_in_batches(TorchRunner(network, origin="checkpoint"), probes, 1)
    near: dict[Problem, float] = {}
    if _nearness(task, right, actual, limits) is None:  # a graph that is right on these probes cannot show its fault
        for problem, expected in known_faults(network, probes, right, actual):
            if (nearness := _nearness(task, expected, actual, limits)) is not None:
                near[problem] = nearness
    # Masks are compared with a tolerance, so several faults may match; those with the highest agreement count.
    causes = [problem for problem, nearness in near.items() if nearness == max(near.values())]
    causes = causes or list(changed_tensors(artifact, network))
    return verdict.model_copy(update={"problems": (*causes, *verdict.problems)})


def _nearness(task: Task, expected: Outputs, actual: Outputs, limits: Limits) -> float | None:
    """The mean agreement of outputs that are equal within the limits, else None."""
    for name, array in expected.items():
        output = actual.get(name)
        if output is None or (output.shape, output.dtype) != (array.shape, array.dtype):
            return None
        if not np.issubdtype(array.dtype, np.floating):
            continue  # integers are compared by the task's agreement
        # Raw values of a graph without its last layer have any magnitude.
        scale = max(1.0, float(np.abs(array).max()))
        if not (float(np.abs(output - array).max()) <= limits.max_abs * scale):
            return None
        if not relative_error(array, output) <= limits.relative:
            return None
    agreement = task.agreement(expected, actual, tie=limits.tie)
    if not task.decisions_kept(agreement, limits.slack).all():
        return None
    return float(np.mean(list(agreement.values())))
