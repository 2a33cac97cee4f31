"""The base class of training tasks: a task on labelled data with a loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from train.config.sections import HeadConfig
from tritonkit.evaluation.samples.sample import Row, Truth
from tritonkit.evaluation.tasks.base import BatchTargets, EvaluationTask
from tritonkit.evaluation.tasks.metrics import Measures
from tritonkit.spec import TaskSpec

__all__ = ["BatchTargets", "Measures", "Row", "TrainingTask", "Truth"]


class TrainingTask(EvaluationTask):
    """The training part of the `tritonkit.tasks.base.Task` with the same name, configured for one head."""

    config: HeadConfig
    """Where a trained model is measured, it has no `loss`."""
    usual_loss: ClassVar[str]
    has_val_loss: bool = True
    """Whether the loss is meaningful on classes that are not in train."""

    @abstractmethod
    def loss(self, task_spec: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        """Create the loss, a function from (logits, collated targets) to a scalar. truths: of the training part.

        Raises ConfigError for a loss that is unknown or does not fit the task.
        """
