"""Verify two artifacts of one graph together, where both are published."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tritonkit.comparison_inputs import error_per_image
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
        layout = {name: (array.shape, array.dtype) for name, array in expected.items()}
        worst, *others = (runner.infer(batch) for runner in self._runners)
        for answers in (worst, *others):
            if {name: (array.shape, array.dtype) for name, array in answers.items()} != layout:
                return answers  # the verdict reports the wrong shape or type
        for other in others:
            is_worse = error_per_image(expected, other) > error_per_image(expected, worst)
            worst = {
                name: np.where(is_worse.reshape(-1, *[1] * (array.ndim - 1)), other[name], array)
                for name, array in worst.items()
            }
        return worst

    def close(self) -> None:
        """Close all runners."""
        for runner in self._runners:
            runner.close()
