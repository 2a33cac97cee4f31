"""The training tasks, by the names of `tritonkit.tasks`."""

from __future__ import annotations

from train.config.loading import Config
from train.tasks.base import TrainingTask
from train.tasks.builtin import (
    AugmentationTraining,
    EmbeddingTraining,
    HeadsTraining,
    MulticlassTraining,
    MultilabelTraining,
    SegmentationTraining,
)
from tritonkit.evaluation.tasks import make_task, with_mask_values

TRAINING_TASKS: dict[str, type[TrainingTask]] = {
    task.name: task for task in (MulticlassTraining, MultilabelTraining, EmbeddingTraining, SegmentationTraining)
}

__all__ = ["TRAINING_TASKS", "TrainingTask", "training_task"]


def training_task(config: Config) -> TrainingTask:
    """Create the training task of a configuration. Raises ConfigError for an unknown task."""
    if config.task == HeadsTraining.name:
        known: dict[str, type[TrainingTask]] = {**TRAINING_TASKS, AugmentationTraining.name: AugmentationTraining}
        heads = {name: make_task(known, head, name) for name, head in config.heads.items()}
        return HeadsTraining(config, heads, {name: head.weight for name, head in config.heads.items()})
    task: TrainingTask = make_task(TRAINING_TASKS, config, label_names=config.data.labels)
    return with_mask_values(task, config.data.all_mask_values())  # type: ignore[no-any-return]
