"""The losses of tritonkit's own tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from train.config.sections import HeadConfig, WeightedHead
from train.tasks.base import TrainingTask
from train.tasks.losses import (
    MULTICLASS,
    MULTILABEL,
    SEGMENTATION,
    add_up,
    balanced_weights,
    embedding_losses,
    weighted_sum,
)
from tritonkit.evaluation.samples.sample import Truth
from tritonkit.evaluation.tasks.augmentation import AugmentationEvaluation
from tritonkit.evaluation.tasks.base import BatchTargets
from tritonkit.evaluation.tasks.embedding import EmbeddingEvaluation, class_id
from tritonkit.evaluation.tasks.heads import HeadsEvaluation
from tritonkit.evaluation.tasks.multiclass import MulticlassEvaluation
from tritonkit.evaluation.tasks.multilabel import MultilabelEvaluation
from tritonkit.evaluation.tasks.segmentation import SegmentationEvaluation
from tritonkit.spec import TaskSpec


class MulticlassTraining(MulticlassEvaluation, TrainingTask):
    """Training of a classifier with one label per image, with cross-entropy on class numbers."""

    usual_loss = "cross_entropy"

    def loss(self, task_spec: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        """Return the weighted sum of the configured losses; `truths` give the counts of balanced class weights."""

        def balanced() -> Mapping[str, float]:
            return balanced_weights(Counter(truths), task_spec.labels)

        return weighted_sum(self.config.loss, self.usual_loss, MULTICLASS, task_spec, balanced)


class MultilabelTraining(MultilabelEvaluation, TrainingTask):
    """Training of a multilabel classifier, with binary cross-entropy on each label."""

    usual_loss = "bce"

    def loss(self, task_spec: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        def balanced() -> Mapping[str, float]:
            """Return negatives per positive for each label: the ratio of scikit-learn's balanced weights."""
            counts = Counter(label for truth in truths for label in truth)
            counts_by_label = {
                label: {label: counts[label], "no": len(truths) - counts[label]} for label in task_spec.labels
            }
            weights = {label: balanced_weights(each, tuple(each)) for label, each in counts_by_label.items()}
            return {label: each[label] / each["no"] for label, each in weights.items()}

        return weighted_sum(self.config.loss, self.usual_loss, MULTILABEL, task_spec, balanced)


class AugmentationTraining(AugmentationEvaluation, TrainingTask):
    """Training of an auxiliary head, with cross-entropy on the operations."""

    config: WeightedHead
    usual_loss = "cross_entropy"

    def loss(self, task_spec: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        weights = dict.fromkeys(task_spec.labels, 1.0)  # all operations are equally common
        return weighted_sum(self.config.loss, self.usual_loss, MULTICLASS, task_spec, lambda: weights)


class EmbeddingTraining(EmbeddingEvaluation, TrainingTask):
    """Training of embeddings, with a loss of pytorch-metric-learning."""

    usual_loss = "ArcFaceLoss"
    has_val_loss = False

    def loss(self, task_spec: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        ids = sorted({class_id(truth) for truth in truths})
        losses = embedding_losses(self.config.loss, self.usual_loss, len(ids), self.config.embedding_size)
        return _ClassIndexLoss(losses, torch.tensor(ids))


class SegmentationTraining(SegmentationEvaluation, TrainingTask):
    """Training of segmentation, with Dice and cross-entropy on masks."""

    usual_loss = "dice"

    def loss(self, task_spec: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        def balanced() -> Mapping[str, float]:
            masks = (self.read_mask(truth) for truth in truths)
            counts = sum((np.bincount(mask.ravel(), minlength=256) for mask in masks), np.zeros(256, np.int64))
            return balanced_weights(dict(zip(task_spec.labels, counts.tolist(), strict=False)), task_spec.labels)

        return weighted_sum(self.config.loss, self.usual_loss, SEGMENTATION, task_spec, balanced)


class HeadsTraining(HeadsEvaluation, TrainingTask):
    """Training of several heads; the losses are summed with weights."""

    usual_loss = ""
    heads: Mapping[str, TrainingTask]  # type: ignore[assignment]

    def __init__(self, config: HeadConfig, heads: Mapping[str, TrainingTask], weights: Mapping[str, float]) -> None:
        super().__init__(config, heads)
        self.weights = weights
        self.has_val_loss = all(task.has_val_loss for task in heads.values())

    def loss(self, task_spec: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        losses = {
            name: task.loss(task_spec.heads[name], [truth[name] for truth in truths])
            for name, task in self.heads.items()
        }
        return _HeadLossSum(losses, self.weights)


class _ClassIndexLoss(nn.Module):
    """Calls a loss with class numbers from 0 instead of class ids."""

    ids: Tensor

    def __init__(self, losses: nn.Module, ids: Tensor) -> None:
        super().__init__()
        self.losses = losses
        self.register_buffer("ids", ids, persistent=False)

    def forward(self, logits: Tensor, targets: BatchTargets) -> Tensor:
        """Compute the loss on images of training classes."""
        total: Tensor = self.losses(logits, torch.searchsorted(self.ids, targets["class"]))
        return total


class _HeadLossSum(nn.Module):
    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.names, self.losses = tuple(losses), nn.ModuleList(losses.values())
        self.weights = dict(weights)

    def forward(self, logits: Mapping[str, Tensor], targets: BatchTargets) -> Tensor:
        """Compute the weighted sum of the heads' losses."""
        each = zip(self.names, self.losses, strict=True)
        parts = [self.weights[name] * loss(logits[name], targets[name]) for name, loss in each]
        return add_up(parts)
