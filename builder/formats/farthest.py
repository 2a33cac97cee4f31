"""Two artifacts of one graph that are both handed out, judged as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner


class Farthest(Runner):
    """Asks several runners; of each picture counts the answer that lies farthest from the reference's."""

    def __init__(self, reference: Runner, runners: Sequence[Runner]) -> None:
        """runners: at least one; they are closed with this, the reference is not."""
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
        """Close them all."""
        for runner in self._runners:
            runner.close()


def _worse_answers(expected: Outputs, one: Outputs, other: Outputs) -> Outputs:
    for answers in (one, other):
        if not _has_same_layout(expected, answers):  # which is for the verdict to tell
            return answers
    take = _distances(expected, other) > _distances(expected, one)
    return {name: np.where(_expand_flags(take, array), other[name], array) for name, array in one.items()}


def _has_same_layout(expected: Outputs, answers: Outputs) -> bool:
    return {name: (array.shape, array.dtype) for name, array in expected.items()} == {
        name: (array.shape, array.dtype) for name, array in answers.items()
    }


def _distances(expected: Outputs, answers: Outputs) -> NDArray[np.float64]:
    """The largest difference of any value, for each of N pictures; NaN and infinity are farthest."""
    count = len(next(iter(expected.values())))
    found = np.zeros(count)
    for name, array in expected.items():
        apart = np.abs(answers[name].astype(np.float64) - array.astype(np.float64)).reshape(count, -1).max(axis=1)
        found = np.maximum(found, np.where(np.isfinite(apart), apart, np.inf))
    return found


def _expand_flags(take: NDArray[Any], array: NDArray[Any]) -> NDArray[Any]:
    """Flags of N pictures in a shape that goes with [N, ...]."""
    return take.reshape(-1, *[1] * (array.ndim - 1))
