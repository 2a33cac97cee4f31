"""Embedding: recall@k: is the same class among the k nearest?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tritonkit.errors import Problem
from tritonkit.evaluation.samples.sample import Sample, Truth
from tritonkit.evaluation.tasks.base import BatchTargets, LabelEvaluation
from tritonkit.evaluation.tasks.metrics import Measures
from tritonkit.evaluation.tasks.nearest_neighbors import ABSENT, NearestNeighbors, find_nearest
from tritonkit.images.preprocess import Geometry, Preprocess
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks import task_for
from tritonkit.tasks.base import Targets

RANKS = (1, 5, 10)


class EmbeddingEvaluation(LabelEvaluation):
    """Embeddings: one label per image; val and test may have classes that train does not have."""

    name = "embedding"
    monitor = "recall@1"
    split_by = "class"
    compares_samples = True

    def task_spec(self, truths: Sequence[Truth], declared_labels: Sequence[str]) -> TaskSpec:
        task_spec = TaskSpec(task=self.name, embedding_size=self.config.embedding_size)
        task_for(task_spec)
        return task_spec

    def validate_splits(
        self, truths: Mapping[str, Sequence[Truth]], task_spec: TaskSpec, minimum: int
    ) -> list[Problem]:
        count = len(set(truths["train"]))
        text = f"an embedding compares classes: train has {count} classes, expected at least 2"
        return [] if count >= 2 else [Problem("data.too_few_classes_to_compare", text)]

    def baseline_metrics(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """The recall of a random other image, over images whose class has others."""
        counts = [count for count in Counter(truths).values() if count > 1]
        pairs = sum(count * (count - 1) for count in counts)
        return {"": {"recall@1": pairs / sum(counts) / (len(truths) - 1)}} if counts else {}

    def monitor_problem(self, truths: Sequence[Truth], gallery: Sequence[Truth]) -> str | None:
        if gallery:
            return None if set(truths) & set(gallery) else "no class of val is in base"
        return None if len(set(truths)) < len(truths) else "no class of val has two images"

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, task_spec: TaskSpec) -> Any:
        return {"class": class_id(truth), "gallery": gallery}

    def golden_targets(self, targets: BatchTargets) -> Targets:
        name, gallery = self.output or "embedding", targets["gallery"].numpy()
        classes = {name: targets["class"].numpy()}
        return {**classes, f"{name}.gallery": gallery} if gallery.any() else classes

    def metrics(self, task_spec: TaskSpec, detailed: bool) -> Measures:
        return Measures({f"recall@{k}": RecallAtK(k) for k in RANKS}, self._count)

    def _count(self, name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: BatchTargets) -> None:
        metric.update(outputs[self.output or "embedding"], targets["class"], targets["gallery"])

    def error_score(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> NDArray[np.float64]:
        """Score how much nearer the nearest image of another class is than the nearest of the same class."""
        return self._find_nearest(outputs, targets, task_spec).error_score

    def describe_answers(
        self, outputs: Outputs, targets: Targets, task_spec: TaskSpec, samples: Sequence[Sample], geometry: Geometry
    ) -> list[str]:
        """Describe the most similar other image, from the gallery if there is one."""
        neighbors = self._find_nearest(outputs, targets, task_spec)
        names = [f"{self.describe_truth(sample.truth)} {sample.path.name}" for sample in samples]
        pairs = zip(neighbors.nearest, neighbors.similarity, strict=True)
        return [f"nearest: {names[i]} ({value:.2f})" if value > ABSENT else "alone" for i, value in pairs]

    def _find_nearest(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> NearestNeighbors:
        classes = self._answers(targets, task_spec)
        gallery = targets.get(f"{self.output or 'embedding'}.gallery", np.zeros(len(classes), dtype=bool))
        return find_nearest(self._answers(outputs, task_spec), classes, gallery)


class RecallAtK(Metric):
    """The fraction of query images with an image of the same class among the k nearest by cosine similarity.

    Queries are searched in the gallery if there is one, else in all other images. Queries whose class has no other
    image are not counted; NaN if none is left.
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
        """Add a batch. vectors: unit length [N, D]; classes: [N]; gallery: bool [N]."""
        self.vectors.append(vectors.float())
        self.classes.append(classes)
        self.galleries.append(gallery.bool())

    def compute(self) -> Tensor:
        hits = self.hits()
        return hits[hits >= 0].float().mean()  # NaN if none is left

    def hits(self) -> Tensor:
        """Return 1 or 0 for each query, or -1 if no other image has its class."""
        vectors, classes, gallery = map(dim_zero_cat, (self.vectors, self.classes, self.galleries))
        searched = gallery if gallery.any() else torch.ones_like(gallery)
        queries = (~gallery if gallery.any() else searched).nonzero()[:, 0]
        parts = [self._hits(part, vectors, classes, searched) for part in torch.split(queries, 1024)]
        return torch.cat(parts) if parts else torch.zeros(0)

    def _hits(self, part: Tensor, vectors: Tensor, classes: Tensor, searched: Tensor) -> Tensor:
        """Return 1 or 0 for each query, or -1 if no other image has its class."""
        similarity = vectors[part] @ vectors.T
        similarity[:, ~searched] = -torch.inf
        similarity[torch.arange(len(part), device=part.device), part] = -torch.inf
        same = (classes[part, None] == classes) & similarity.isfinite()
        nearest = similarity.topk(min(self.k, int(searched.sum()), len(vectors))).indices
        hit = same.gather(1, nearest).any(dim=1).int()
        return torch.where(same.any(dim=1), hit, torch.full_like(hit, -1))


def class_id(label: str) -> int:
    """Return a number for a class, equal in every part and run: 63 bits of a hash, so that collisions do not occur."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest()) >> 1
