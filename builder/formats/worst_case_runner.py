"""Verify two artifacts of one graph together, where both are published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Outputs


class WorstCaseRunner(Runner):
    """Runs several runners; for each image, returns the answer that differs most from the reference."""

    def __init__(self, reference: Runner, runners: Sequence[Runner]) -> None:
        """runners: at least one. `close` closes them, but not the reference."""
        self.spec, self.origin = runners[0].spec, " and ".join(runner.origin for runner in runners)
        self.max_batch = min((runner.max_batch for runner in runners if runner.max_batch is not None), default=None)
        self._reference, self._runners = reference, runners

    def _infer(self, batch: ImageArray) -> Outputs:
        expected = self._reference.infer(batch)
        first, *others = (runner.infer(batch) for runner in self._runners)
        for other in others:
            first = _worse_answers(expected, first, other)
        return first

    def close(self) -> None:
        """Close all runners."""
        for runner in self._runners:
            runner.close()


def _worse_answers(expected: Outputs, first: Outputs, second: Outputs) -> Outputs:
    for answers in (first, second):
        if not _has_same_layout(expected, answers):  # the verdict reports the wrong shape or type
            return answers
    take_second = _distances(expected, second) > _distances(expected, first)
    return {name: np.where(_expand_flags(take_second, array), second[name], array) for name, array in first.items()}


def _has_same_layout(expected: Outputs, answers: Outputs) -> bool:
    return {name: (array.shape, array.dtype) for name, array in expected.items()} == {
        name: (array.shape, array.dtype) for name, array in answers.items()
    }


def _distances(expected: Outputs, answers: Outputs) -> NDArray[np.float64]:
    """The largest difference of any value, for each of N images; infinity for NaN and infinite values."""
    count = len(next(iter(expected.values())))
    distances = np.zeros(count)
    for name, array in expected.items():
        difference = np.abs(answers[name].astype(np.float64) - array.astype(np.float64)).reshape(count, -1).max(axis=1)
        distances = np.maximum(distances, np.where(np.isfinite(difference), difference, np.inf))
    return distances


def _expand_flags(flags: NDArray[Any], array: NDArray[Any]) -> NDArray[Any]:
    """Reshape N flags so that they broadcast with [N, ...]."""
    return flags.reshape(-1, *[1] * (array.ndim - 1))
