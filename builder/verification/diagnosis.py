"""Explain a failed verdict.

Known faults are applied to the reference; those that give the same outputs are reported. Where none does, the tensors
of the graph are compared with those of a fresh export.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from builder.onnx.export import onnx_from_network
from builder.verification.known_faults import known_faults
from tritonkit.comparison import Limits, infer_in_batches, relative_error
from tritonkit.comparison_inputs import with_changed_colors
from tritonkit.errors import Problem, TritonkitError
from tritonkit.golden import Golden
from tritonkit.networks.network import Network
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import ONNX, format_of
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import Outputs
from tritonkit.tasks import Task, task_of

_SYMPTOMS = ("verdict.numbers", "verdict.decisions", "verdict.answers", "verdict.nan", "verdict.interface")
MAX_DAMAGED_TENSORS = 5
"""Where more tensors differ, the graph is of another checkpoint, not damaged."""


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


def changed_tensors(artifact: Path, network: Network) -> Iterator[Problem]:
    """Compare the graph's tensors by name with those of a fresh export; yield a problem for each difference."""
    if format_of(artifact) is not ONNX:
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / ONNX.file
        onnx_from_network(network, fresh)
        expected, actual = _initializers(fresh), _initializers(artifact)
    common = [name for name in expected if name in actual and expected[name].shape == actual[name].shape]
    changed = [name for name in common if not np.allclose(expected[name], actual[name], rtol=1e-3, atol=1e-6)]
    if len(changed) > MAX_DAMAGED_TENSORS:
        yield Problem(
            "verdict.other_checkpoint",
            f"{len(changed)} of {len(common)} weight tensors differ: the graph is of another checkpoint",
        )
        return
    for name in changed:
        right, found = expected[name], actual[name]
        if name in ("mean", "std"):
            values = [(array.ravel() / 255).round(4).tolist() for array in (found, right)]
            yield Problem(
                "verdict.normalization",
                f"mean or std is wrong: the graph's {name} is {values[0]}, expected {values[1]}",
            )
        elif not np.isfinite(found).all():
            yield Problem("verdict.weight_not_finite", f"weight tensor {name} holds NaN or infinity")
        elif not found.any():
            yield Problem(
                "verdict.weight_zero",
                f"weight tensor {name} {list(found.shape)} is all zeros; in the checkpoint it is not",
            )
        else:
            largest = float(np.abs(found - right).max())
            yield Problem(
                "verdict.weight_changed", f"weight tensor {name} {list(found.shape)} differs by up to {largest:.2e}"
            )


def _initializers(path: Path) -> dict[str, NDArray[Any]]:
    graph = onnx.load(path).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
