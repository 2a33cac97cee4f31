"""Signs that a run learned nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from train.engine.module import TRAIN_LOSS
from train.tasks import TrainingTask
from tritonkit.evaluation.samples.sample import Sample


def learning_warnings(
    rows: Sequence[Mapping[str, float]], task: TrainingTask, val: Sequence[Sample]
) -> tuple[str, ...]:
    """Return warnings for a run whose loss never changed, or whose metrics on val are no better than a guess.

    rows: the metrics after each epoch. A metric counts as better than a guess if it is more than two standard errors
    above it; one such metric is enough.
    """
    losses = [row[TRAIN_LOSS] for row in rows if TRAIN_LOSS in row]
    warnings = []
    if losses and max(losses) == 0:
        warnings.append("the training loss is 0 from the first epoch on, so there was nothing to learn")
    elif len(losses) > 1 and len(set(losses)) == 1:
        warnings.append(f"the training loss is {losses[0]:.4f} after every epoch, so nothing was learned")
    truths = [sample.truth for sample in val if not sample.gallery]
    for head, baseline_metrics in task.baseline_metrics(truths).items():
        best = {
            name: max((row[key] for row in rows if (key := f"val_{head}{name}") in row), default=1.0)
            for name in baseline_metrics
        }
        if all(
            best[name] <= baseline + 2 * math.sqrt(baseline * (1 - baseline) / max(len(truths), 1))
            for name, baseline in baseline_metrics.items()
        ):
            comparison = ", ".join(
                f"val_{head}{name} {best[name]:.4f} (a guess: {baseline:.4f})"
                for name, baseline in baseline_metrics.items()
            )
            warnings.append(f"no epoch is clearly better than a guess on {len(truths)} images of val: {comparison}")
    return tuple(warnings)
