"""Embedding: a loss of pytorch-metric-learning, and recall@k: is one of the same class among the k nearest?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from model.preprocess import Geometry, Preprocess
from model.runners.base import Outputs
from model.spec import TaskSpec
from model.tasks import task_for
from model.tasks.base import Targets
from train.losses import embedding_losses
from train.samples import LABEL, Row, Sample, Truth
from train.tasks.base import Batched, TrainingTask
from train.tasks.measures import Measures
from train.tasks.neighbours import ABSENT, NearestNeighbors, neighbours

RANKS = (1, 5, 10)


class EmbeddingTraining(TrainingTask):
    """One label a picture; classes of val and test need not be known to train."""

    name = "embedding"
    monitor = "recall@1"
    column = LABEL
    split_by = "class"
    usual_loss = "ArcFaceLoss"
    has_val_loss = False
    compares = True

    def truth(self, row: Row) -> Truth:
        return self._cell(row)

    @property
    def label_columns(self) -> Sequence[str]:
        return (self.truth_column,)

    def row(self, truth: Truth, question: TaskSpec) -> dict[str, str]:
        return {self.truth_column: truth}

    def classes(self, truth: Truth) -> Sequence[str]:
        return (truth,)

    def question(self, truths: Sequence[Truth], declared: Sequence[str]) -> TaskSpec:
        question = TaskSpec(task=self.name, embedding_size=self.config.embedding_size)
        task_for(question)
        return question

    def validate_splits(self, truths: Mapping[str, Sequence[Truth]], question: TaskSpec, least: int) -> list[str]:
        count = len(set(truths["train"]))
        text = f"an embedding is learned by comparing classes: train has {count}, expected at least 2"
        return [] if count >= 2 else [text]

    def guesses(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """Any other picture at random, of those whose class others have too."""
        counts = [count for count in Counter(truths).values() if count > 1]
        pairs = sum(count * (count - 1) for count in counts)
        return {"": {"recall@1": pairs / sum(counts) / (len(truths) - 1)}} if counts else {}

    def unmeasurable(self, truths: Sequence[Truth], gallery: Sequence[Truth]) -> str | None:
        if gallery:
            return None if set(truths) & set(gallery) else "no class of val is in base"
        return None if len(set(truths)) < len(truths) else "no class of val has two pictures"

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, question: TaskSpec) -> Any:
        return {"class": class_id(truth), "gallery": gallery}

    def golden_targets(self, targets: Batched) -> Targets:
        name, gallery = self.output or "embedding", targets["gallery"].numpy()
        classes = {name: targets["class"].numpy()}
        return {**classes, f"{name}.gallery": gallery} if gallery.any() else classes

    def loss(self, question: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        ids = sorted({class_id(truth) for truth in truths})
        losses = embedding_losses(self.config.loss, self.usual_loss, len(ids), self.config.embedding_size)
        return _OnClasses(losses, torch.tensor(ids))

    def metrics(self, question: TaskSpec, detailed: bool) -> Measures:
        return Measures({f"recall@{k}": RecallAtK(k) for k in RANKS}, self._count)

    def _count(self, name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: Batched) -> None:
        metric.update(outputs[self.output or "embedding"], targets["class"], targets["gallery"])

    def error_score(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> NDArray[np.float64]:
        """How much nearer the nearest picture of another class is than the nearest of the same."""
        return self._neighbours(outputs, targets, question).wrongness

    def said(
        self, outputs: Outputs, targets: Targets, question: TaskSpec, samples: Sequence[Sample], seen: Geometry
    ) -> list[str]:
        """The most similar other picture, of the gallery where there is one."""
        found = self._neighbours(outputs, targets, question)
        names = [f"{self.describe_truth(sample.truth)} {sample.path.name}" for sample in samples]
        pairs = zip(found.nearest, found.similar, strict=True)
        return [f"nearest: {names[i]} ({value:.2f})" if value > ABSENT else "alone" for i, value in pairs]

    def _neighbours(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> NearestNeighbors:
        classes = self._answers(targets, question)
        gallery = targets.get(f"{self.output or 'embedding'}.gallery", np.zeros(len(classes), dtype=bool))
        return neighbours(self._answers(outputs, question), classes, gallery)


class RecallAtK(Metric):
    """The share of pictures with one of their class among the k nearest others by cosine.

    Looked up among the gallery's where there are any, else among all the others. Pictures whose class nothing else
    has are not counted; NaN where there are no others.
    """

    higher_is_better = True
    vectors: list[Tensor]
    classes: list[Tensor]
    galleries: list[Tensor]

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        for state in ("vectors", "classes", "galleries"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, vectors: Tensor, classes: Tensor, gallery: Tensor) -> None:
        """vectors: unit length [N, D]; classes: [N]; gallery: bool [N]."""
        self.vectors.append(vectors.float())
        self.classes.append(classes)
        self.galleries.append(gallery.bool())

    def compute(self) -> Tensor:
        vectors, classes, gallery = map(dim_zero_cat, (self.vectors, self.classes, self.galleries))
        shelf = gallery if gallery.any() else torch.ones_like(gallery)
        wanted = (~gallery if gallery.any() else shelf).nonzero()[:, 0]
        hits = [self._found(part, vectors, classes, shelf) for part in torch.split(wanted, 1024)]
        found = torch.cat(hits) if hits else torch.zeros(0)
        judged = found[found >= 0]
        return judged.float().mean()  # of none NaN

    def _found(self, part: Tensor, vectors: Tensor, classes: Tensor, shelf: Tensor) -> Tensor:
        """For each looked-up picture 1 or 0, or -1 where nothing else has its class."""
        similar = vectors[part] @ vectors.T
        similar[:, ~shelf] = -torch.inf
        similar[torch.arange(len(part), device=part.device), part] = -torch.inf
        same = (classes[part, None] == classes) & similar.isfinite()
        nearest = similar.topk(min(self.k, int(shelf.sum()), len(vectors))).indices
        hit = same.gather(1, nearest).any(dim=1).int()
        return torch.where(same.any(dim=1), hit, torch.full_like(hit, -1))


class _OnClasses(nn.Module):
    """Losses that count classes from 0."""

    ids: Tensor

    def __init__(self, losses: nn.Module, ids: Tensor) -> None:
        super().__init__()
        self.losses = losses
        self.register_buffer("ids", ids, persistent=False)

    def forward(self, logits: Tensor, targets: Batched) -> Tensor:
        """The loss over pictures of the training classes."""
        total: Tensor = self.losses(logits, torch.searchsorted(self.ids, targets["class"]))
        return total


def class_id(label: str) -> int:
    """A number for a class that is the same in every part and run; 63 bits, so that no two ever meet."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest()) >> 1
