"""Why an artifact gives wrong answers: known faults are tried on the reference until one explains them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.proving.suspects import suspects
from builder.proving.tensors import changed_tensors
from builder.proving.verdict import Verdict
from model.comparison import Limits, ask, relative_error
from model.errors import Problem, TritonkitError
from model.golden import Golden
from model.network import Network
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.runners.pytorch import TorchRunner
from model.tasks import Task, task_of
from model.ways import in_other_colours

_SYMPTOMS = ("numbers", "decisions", "answers", "nan", "interface")


def with_causes(verdict: Verdict, network: Network, candidate: Runner, golden: Golden, artifact: Path) -> Verdict:
    """A failed verdict with the causes found added to its problems; a passed one as it is."""
    if not any(problem.code in _SYMPTOMS for problem in verdict.problems):
        return verdict
    probes = in_other_colours(golden.images[:8])
    try:
        actual = ask(candidate, probes, 1)
    except TritonkitError:
        return verdict
    causes = _faults_that_explain(network, actual, probes, verdict.limits)
    causes = causes or list(changed_tensors(artifact, network))
    found = tuple(Problem(code="cause", message=cause) for cause in causes)
    return verdict.model_copy(update={"problems": found + verdict.problems})


def _faults_that_explain(network: Network, actual: Outputs, probes: ImageArray, limits: Limits) -> list[str]:
    """The faults whose answers are nearest to the graph's, of those near enough to be the reason."""
    task = task_of(network.spec)
    right = ask(TorchRunner(network, origin="checkpoint"), probes, 1)
    if _nearness(task, right, actual, limits) is not None:
        return []  # answers that are right here say nothing of where they are wrong
    near: dict[str, float] = {}
    for sentence, expected in suspects(network, probes, right, actual):
        if (nearness := _nearness(task, expected, actual, limits)) is not None:
            near[sentence] = nearness
    # Masks are the same within a tolerance, in which several faults may lie.
    return [sentence for sentence, nearness in near.items() if nearness == max(near.values())]


def _nearness(task: Task, expected: Outputs, actual: Outputs, limits: Limits) -> float | None:
    """The mean agreement of answers that are the same within the limits, else None."""
    for name, array in expected.items():
        given = actual.get(name)
        if (
            given is None
            or (given.shape, given.dtype) != (array.shape, array.dtype)
            or not _close(array, given, limits)
        ):
            return None
    agreement = task.agreement(expected, actual, tie=limits.tie)
    if not task.decisions_kept(agreement, limits.slack).all():
        return None
    return float(np.mean(list(agreement.values())))


def _close(expected: NDArray[Any], actual: NDArray[Any], limits: Limits) -> bool:
    """Values within the limits; whole numbers are left to the task's agreement."""
    if not np.issubdtype(expected.dtype, np.floating):
        return True
    # Raw values, of a graph without its last layer, may be of any size.
    scale = max(1.0, float(np.abs(expected).max()))
    near = float(np.abs(actual - expected).max()) <= limits.max_abs * scale
    return near and relative_error(expected, actual) <= limits.relative
