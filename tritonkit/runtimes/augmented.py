"""Test-time augmentation: run the model on several flipped views of each image and merge their outputs.

Probabilities are averaged. Embeddings are averaged and normalised to unit length again. For masks, the foreground
probability is averaged if the model returns it; otherwise each pixel gets the class that most views predict, and the
unflipped view decides a tie. The cost grows with the number of views. If the output of one view is faulty, such as NaN,
that output is returned for the image, so that the mean does not hide the fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import InputError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks import task_of

_ROWS, _COLUMNS = 1, 2
VIEWS: dict[str, tuple[tuple[int, ...], ...]] = {
    "flip": ((), (_COLUMNS,)),
    "flips": ((), (_COLUMNS,), (_ROWS,), (_ROWS, _COLUMNS)),
}
"""Sets of views by name. A view is the axes of [N, H, W, …] that are flipped; the unflipped view comes first."""


class AugmentedRunner(Runner):
    """Runner that merges the outputs of another runner over several views of each image."""

    def __init__(self, runner: Runner, views: str) -> None:
        """views: a key of `VIEWS`. Raises InputError for another key, or if the views are too few to vote on masks."""
        if views not in VIEWS:
            raise InputError(
                f"--tta {views}: unknown set of views; expected {', '.join(VIEWS)}", code="option.tta_unknown"
            )
        self._runner = runner
        self._axes = VIEWS[views]
        self._task = task_of(runner.spec)
        self.spec, self.max_batch = runner.spec, runner.max_batch
        self.origin = f"{runner.origin}, {len(self._axes)} views"
        if texts := [output.name for output in runner.spec.outputs if output.dtype == "BYTES"]:
            raise InputError(
                f"--tta {views}: {runner.origin} returns text ({', '.join(texts)}), which has no mean over views; "
                "leave the option out",
                code="option.tta_text",
            )
        if self._task.dense and not self.spec.probability and len(self._axes) < 3:
            raise InputError(
                f"--tta {views}: {runner.origin} returns class numbers only, and two views give no majority. "
                "Use --tta flips, or export the model with `builder export --probability`",
                code="option.tta_no_majority",
            )

    def _infer(self, batch: ImageArray) -> Outputs:
        views = [self._runner.infer(np.flip(batch, axes)) for axes in self._axes]
        merged = (
            self._merged_masks(views)
            if self._task.dense
            else {name: self._mean_output(name, views) for name in views[0]}
        )
        for view in views:
            self._copy_faulty_answers(merged, view)
        return merged

    def _copy_faulty_answers(self, merged: Outputs, view: Outputs) -> None:
        """Replace merged outputs by those of a view for each image whose view is faulty."""
        if self._task.value_problem(view) is None:
            return
        for image in range(len(next(iter(view.values())))):
            row = slice(image, image + 1)
            if self._task.value_problem({name: array[row] for name, array in view.items()}) is not None:
                for name, array in merged.items():
                    array[row] = view[name][row]

    def _mean_output(self, name: str, views: Sequence[Outputs]) -> NDArray[Any]:
        mean = _mean([view[name] for view in views])
        task_spec: TaskSpec = self.spec.heads.get(name, self.spec)
        if task_spec.embedding_size is None:
            return mean
        lengths = np.linalg.norm(mean, axis=1, keepdims=True)
        return np.where(lengths > 0, mean / np.maximum(lengths, 1e-12), views[0][name])

    def _merged_masks(self, views: Sequence[Outputs]) -> Outputs:
        upright = [
            {name: np.flip(array, axes) for name, array in view.items()}
            for view, axes in zip(views, self._axes, strict=True)
        ]
        mask = self._task.output
        if not self.spec.probability:
            return {mask: _majority_vote([view[mask] for view in upright])}
        probability = _mean([view["probability"] for view in upright])
        threshold = self.spec.threshold(self.spec.labels[1])
        return {mask: (probability >= threshold).astype(np.uint8), "probability": probability}

    def close(self) -> None:
        """Close the wrapped runner."""
        self._runner.close()


def _mean(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = np.stack(arrays).astype(np.float32).mean(axis=0)
    return mean


def _majority_vote(masks: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the most frequent class of each pixel; in a tie the first mask's class, else the smallest."""
    best, best_votes = masks[0].copy(), _votes(masks, masks[0])
    for label in np.unique(np.stack(masks)):
        votes = _votes(masks, label)
        more = votes > best_votes
        best[more], best_votes[more] = label, votes[more]
    return best


def _votes(masks: Sequence[NDArray[np.uint8]], label: Any) -> NDArray[np.uint8]:
    return sum((mask == label for mask in masks), start=np.zeros(masks[0].shape, dtype=np.uint8))


def with_augmentation(runner: Runner, views: str | None) -> Runner:
    """Wrap a runner with test-time augmentation; without `views`, return it unchanged."""
    return runner if views is None else AugmentedRunner(runner, views)
