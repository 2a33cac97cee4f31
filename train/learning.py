"""Signs that a run cannot have learnt anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from train.module import TRAIN_LOSS
from train.samples import Sample
from train.tasks import TrainingTask


def warnings_of(rows: Sequence[Mapping[str, float]], task: TrainingTask, val: Sequence[Sample]) -> tuple[str, ...]:
    """Sentences about a run whose loss never moved, or whose figures on val are no better than a guess.

    rows: the figures after each epoch. A figure counts as better than a guess from two standard errors above it; one
    such figure is enough.
    """
    losses = [row[TRAIN_LOSS] for row in rows if TRAIN_LOSS in row]
    found = []
    if losses and max(losses) == 0:
        found.append("the training loss is 0 from the first epoch on, so that there was nothing to learn")
    elif len(losses) > 1 and len(set(losses)) == 1:
        found.append(f"the training loss is {losses[0]:.4f} after each epoch, so that nothing was learnt")
    truths = [sample.truth for sample in val if not sample.gallery]
    for head, guesses in task.guesses(truths).items():
        best = {
            name: max((row[key] for row in rows if (key := f"val_{head}{name}") in row), default=1.0)
            for name in guesses
        }
        if all(best[name] <= _limit(guess, len(truths)) for name, guess in guesses.items()):
            figures = ", ".join(
                f"val_{head}{name} {best[name]:.4f} (a guess: {guess:.4f})" for name, guess in guesses.items()
            )
            found.append(f"no epoch is clearly better than a guess on {len(truths)} pictures of val: {figures}")
    return tuple(found)


def _limit(guess: float, count: int) -> float:
    return guess + 2 * math.sqrt(guess * (1 - guess) / max(count, 1))
