"""The training side of each task, by the name `model.tasks` knows it by."""

from __future__ import annotations

from train.tasks.base import TrainingTask
from train.tasks.multiclass import MulticlassTraining

TRAINING_TASKS: dict[str, TrainingTask] = {task.name: task for task in (MulticlassTraining(),)}

__all__ = ["TRAINING_TASKS", "TrainingTask"]
