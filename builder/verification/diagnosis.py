"""Explain a failed verdict: apply known faults to the reference and report those that give the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.verification.known_faults import known_faults
from builder.verification.tensors import changed_tensors
from tritonkit.comparison import Limits, infer_in_batches, relative_error
from tritonkit.comparison_inputs import with_changed_colors
from tritonkit.errors import Problem, TritonkitError
from tritonkit.golden import Golden
from tritonkit.images.preprocess import ImageArray
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
    causes = _faults_that_explain(network, actual, probes, verdict.limits)
    causes = causes or list(changed_tensors(artifact, network))
    return verdict.model_copy(update={"problems": (*causes, *verdict.problems)})


def _faults_that_explain(network: Network, actual: Outputs, probes: ImageArray, limits: Limits) -> list[Problem]:
    """The faults whose outputs are equal to the graph's within the limits, only those with the highest agreement."""
    task = task_of(network.spec)
    right = infer_in_batches(TorchRunner(network, origin="checkpoint"), probes, 1)
    if _nearness(task, right, actual, limits) is not None:
        return []  # the graph is right on these probes, so they cannot show the fault
    near: dict[Problem, float] = {}
    for problem, expected in known_faults(network, probes, right, actual):
        if (nearness := _nearness(task, expected, actual, limits)) is not None:
            near[problem] = nearness
    # Masks are compared with a tolerance, so several faults may match.
    return [problem for problem, nearness in near.items() if nearness == max(near.values())]


def _nearness(task: Task, expected: Outputs, actual: Outputs, limits: Limits) -> float | None:
    """The mean agreement of outputs that are equal within the limits, else None."""
    for name, array in expected.items():
        output = actual.get(name)
        if output is None or (output.shape, output.dtype) != (array.shape, array.dtype):
            return None
        if not _close(array, output, limits):
            return None
    agreement = task.agreement(expected, actual, tie=limits.tie)
    if not task.decisions_kept(agreement, limits.slack).all():
        return None
    return float(np.mean(list(agreement.values())))


def _close(expected: NDArray[Any], actual: NDArray[Any], limits: Limits) -> bool:
    """Whether values are equal within the limits; integers are compared by the task's agreement instead."""
    if not np.issubdtype(expected.dtype, np.floating):
        return True
    # Raw values of a graph without its last layer have any magnitude.
    scale = max(1.0, float(np.abs(expected).max()))
    near = float(np.abs(actual - expected).max()) <= limits.max_abs * scale
    return near and relative_error(expected, actual) <= limits.relative
