"""The verdict, continued in production: does a running server still give the checkpoint's answers?

The golden images of the version that answers are sent through the server, one by one, in batches of a middle size and
of the maximum, and in one batch of each size between; then the synthetic probes, where the version's sample has their
answers. All is compared with the checkpoint's answers within the limits that the version's verdict had, or those of
fp32 where that verdict is not at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from client.evidence import Evidence
from model.comparison import FP32_LIMITS, PROBES, Comparison, Limits, possible, rows_of
from model.errors import InputError, TritonkitError
from model.golden import Golden
from model.runners import Outputs
from model.spec import Frozen
from model.tasks import task_of
from model.ways import Way, probes_way, ways_between, whole_ways

if TYPE_CHECKING:
    from model.runners.triton import TritonRunner


class Checked(Frozen):
    """What came of one model."""

    model: str
    version: str
    origin: str
    images: str
    limits: Limits
    verdict: Path | None = None
    """Where the limits stand; None for those of fp32."""
    comparisons: tuple[Comparison, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the server gives the checkpoint's answers."""
        return not self.problems


def check_served(runner: TritonRunner, evidence: Evidence) -> Checked:
    """Compare what a served model answers now with the checkpoint's answers.

    Raises InputError without a golden sample of this model, InferenceError when the server does not answer.
    """
    runner = runner.pinned()  # the version whose golden sample is read, also when another is loaded meanwhile
    golden, limits, verdict = evidence.of(runner)
    if golden.images.shape[1:] != runner.spec.input.shape:
        takes, has = list(runner.spec.input.shape), list(golden.images.shape[1:])
        raise InputError(f"{runner.origin}: takes images of {takes}, the golden sample has {has}: of another model?")
    problems: list[str] = []
    comparisons, task = [], task_of(runner.spec)
    for way, expected in _ways(golden, runner):
        bounds = limits.of_probes() if way.name == PROBES else limits
        answers = way.ask(runner)
        if (other := _unlike(expected, answers)) is not None:
            problems.append(f"{way.name}: {other}")
            break
        comparison = way.compared(task, expected, answers, golden.outputs, bounds)
        comparisons.append(comparison)
        problems += _problems(comparison, bounds)
    told = {"model": runner.model, "version": runner.version, "origin": runner.origin, "images": golden.source}
    return Checked(**told, limits=limits, verdict=verdict, comparisons=tuple(comparisons), problems=tuple(problems))


def _ways(golden: Golden, runner: TritonRunner) -> Iterator[tuple[Way, Outputs]]:
    """What is asked of a server, with the right answers: the golden images, then the probes where these are known."""
    largest = max(1, runner.max_batch or 1)
    for way in (*whole_ways(golden, largest), *ways_between(golden, largest, _preferred(runner))):
        yield way, way.expected(runner, golden.outputs)
    if golden.probed:
        kept = np.flatnonzero(possible(task_of(runner.spec), golden.probed))
        if len(kept):
            yield probes_way(golden, largest).only(kept), rows_of(golden.probed, kept)


def _preferred(runner: TritonRunner) -> list[int]:
    """The batch sizes that the server's configuration prefers."""
    batching = runner.server.config(runner.model, runner.version).get("dynamic_batching", {})
    return [int(size) for size in batching.get("preferred_batch_size", ())]


def unchecked(model: str, version: str, origin: str, problem: TritonkitError) -> Checked:
    """What is told of a model that could not be checked."""
    told = {"model": model, "version": version, "origin": origin, "images": ""}
    return Checked(**told, limits=FP32_LIMITS, comparisons=(), problems=(str(problem),))


def _unlike(expected: Outputs, actual: Outputs) -> str | None:
    """Why answers cannot be compared; None where they can. What was recorded is finite."""
    for name, array in expected.items():
        if name not in actual:
            return f"the server gives {', '.join(actual)}, but no {name}"
        if actual[name].shape != array.shape:
            return f"{name}: the server gives {list(actual[name].shape)}, the checkpoint {list(array.shape)}"
        if np.issubdtype(actual[name].dtype, np.floating) and not np.isfinite(actual[name]).all():
            return f"{name}: the server gives NaN or Inf"
    return None


def _problems(found: Comparison, limits: Limits) -> list[str]:
    problems = []
    if not found.within(limits):
        problems.append(
            f"{found.asked}: values differ by up to {found.max_abs:.1e} (limit {limits.max_abs:.0e}), "
            f"relative {found.relative:.1e} (limit {limits.relative:.0e})"
        )
    if found.decisions_kept < limits.decisions:
        problems.append(f"{found.asked}: {1 - found.decisions_kept:.0%} of images change their answer")
    return problems
