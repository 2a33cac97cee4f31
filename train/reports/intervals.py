"""95 % confidence intervals of a model's metrics: how far they may be off because the measured images are a sample.

A metric that is a share of the images has Wilson's interval of a proportion. All others have a bootstrap interval: the
images are drawn again with replacement, and the metric is computed anew, from counts kept for each image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tritonkit.evaluation.evaluate import MetricValues
from tritonkit.evaluation.intervals import wilson as wilson_bounds
from tritonkit.evaluation.tasks import EvaluationTask
from tritonkit.evaluation.tasks.embedding import RANKS, EmbeddingEvaluation, RecallAtK
from tritonkit.evaluation.tasks.heads import HeadsEvaluation
from tritonkit.evaluation.tasks.multiclass import MulticlassEvaluation
from tritonkit.evaluation.tasks.multilabel import MultilabelEvaluation
from tritonkit.evaluation.tasks.segmentation import SegmentationEvaluation
from tritonkit.spec import Frozen, Outputs, TaskSpec
from tritonkit.tasks.base import Targets
from tritonkit.tasks.segmentation import IGNORED

CONFIDENCE = 0.95
REPLICATES = 1000
"""Number of bootstrap samples."""
_MIN_REPLICATES = 200
_MAX_SORTED_VALUES = 2e8
"""The most values (replicates · images · labels) for AUROC and mAP, which sort the images of each label: about 1 s."""
_CHUNK = 50
"""Replicates that are computed at once, to limit memory."""

Floats = NDArray[np.float32]
Resampled = dict[str, NDArray[Any]]
"""Values of each metric over the replicates, [B]; NaN where it cannot be measured."""


class Interval(Frozen):
    """A 95 % confidence interval, and how it was computed."""

    low: float
    high: float
    method: Literal["Wilson", "bootstrap"]


class IntervalEstimator:
    """Collects the answers to images, and estimates the intervals of the task's metrics."""

    def __init__(self, task: EvaluationTask, task_spec: TaskSpec) -> None:
        heads: Mapping[str, TaskSpec] = task_spec.heads or {"": task_spec}
        self._heads = {name: _HEADS[spec.task](spec, name) for name, spec in heads.items() if spec.task in _HEADS}
        main = task.main if isinstance(task, HeadsEvaluation) else {}
        self._monitors = {name: each.monitor for name, each in main.items() if name in self._heads}
        """Of the heads whose metrics have a mean."""

    def add(self, outputs: Outputs, targets: Targets) -> None:
        """Add a batch. targets: as `golden_targets` of the task returns them."""
        for head in self._heads.values():
            head.add(outputs, targets)

    def estimate(self, metrics: MetricValues) -> dict[str, Interval]:
        """The intervals of these metrics. Metrics of plug-ins, and those that do not vary, have none."""
        found = {}
        for name, values in self._resampled().items():
            value, spread = metrics.get(name), values[np.isfinite(values)]
            if value is None or len(spread) < _MIN_REPLICATES:
                continue
            tail = 50 * (1 - CONFIDENCE)
            low, high = (float(bound) for bound in np.percentile(spread, (tail, 100 - tail)))
            if low < high:
                found[name] = Interval(low=min(low, value), high=max(high, value), method="bootstrap")
        found |= {name: wilson(*counts) for name, counts in self.counts().items()}
        return {name: found[name] for name in metrics if name in found}

    def counts(self) -> dict[str, tuple[int, int]]:
        """For each metric that is a share of the images: the number of correct images, and of all that count."""
        shares = {prefix + name: each for prefix, head in self._prefixed() for name, each in head.counts().items()}
        return {name: (correct, total) for name, (correct, total) in shares.items() if total}

    def _resampled(self) -> Resampled:
        images = max((head.images for head in self._heads.values()), default=0)
        if not images:
            return {}
        draw = np.random.default_rng(0)
        chunks: dict[str, list[NDArray[Any]]] = {}
        for start in range(0, REPLICATES, _CHUNK):
            drawn = draw.integers(0, images, (_CHUNK, images))
            weights = np.stack([np.bincount(row, minlength=images) for row in drawn], axis=1).astype(np.float32)
            for name, values in self._on(weights, start).items():
                chunks.setdefault(name, []).append(values)
        return {name: np.concatenate(values) for name, values in chunks.items()}

    def _on(self, weights: Floats, start: int) -> Resampled:
        by_head = {name: head.resampled(weights, start) for name, head in self._heads.items()}
        values = {prefix + key: each for prefix, head in self._prefixed() for key, each in by_head[head.name].items()}
        if self._monitors:
            values["mean"] = _mean(np.stack([by_head[name][monitor] for name, monitor in self._monitors.items()]))
        return values

    def _prefixed(self) -> list[tuple[str, _Head]]:
        return [(f"{name}." if name else "", head) for name, head in self._heads.items()]


def wilson(count: int, total: int) -> Interval:
    """Wilson's interval of the proportion `count` of `total`."""
    low, high = wilson_bounds(count, total, CONFIDENCE)
    return Interval(low=low, high=high, method="Wilson")


class _Head(ABC):
    """What the metrics of one head need to know of each image."""

    def __init__(self, task_spec: TaskSpec, name: str) -> None:
        self.task_spec, self.name = task_spec, name
        self.images = 0
        self._batches: dict[str, list[NDArray[Any]]] = {}

    @abstractmethod
    def add(self, outputs: Outputs, targets: Targets) -> None:
        """Add a batch."""

    def counts(self) -> dict[str, tuple[int, int]]:
        """The metrics that are shares of the images: number of correct images, and of all that count."""
        return {}

    @abstractmethod
    def resampled(self, weights: Floats, start: int) -> Resampled:
        """Compute the metrics with weights [N, B] of the images. start: number of the first replicate."""

    def _keep(self, **arrays: NDArray[Any]) -> None:
        for name, array in arrays.items():
            self._batches.setdefault(name, []).append(array)
        self.images += len(next(iter(arrays.values())))

    def _all(self, name: str) -> NDArray[Any]:
        if len(self._batches[name]) > 1:
            self._batches[name] = [np.concatenate(self._batches[name])]
        return self._batches[name][0]


class _Labels(_Head):
    """Multiclass and multilabel: F1 by label, AUROC and mAP over the labels; accuracy."""

    def add(self, outputs: Outputs, targets: Targets) -> None:
        name = self.name or "probabilities"
        scores, truths = outputs[name], targets[name]
        if self._is_multiclass:
            decided, truths = scores.argmax(axis=1), np.asarray(truths)
            decided, truths = (_one_hot(numbers, scores.shape[1]) for numbers in (decided, truths))
        else:
            decided = scores >= np.array([self.task_spec.threshold(label) for label in self.task_spec.labels])
        self._keep(scores=scores.astype(np.float32), decided=decided, truths=truths > 0)

    def counts(self) -> dict[str, tuple[int, int]]:
        if not self._is_multiclass:
            return {}
        return {"accuracy": (int((self._all("decided") & self._all("truths")).sum()), self.images)}

    def resampled(self, weights: Floats, start: int) -> Resampled:
        scores, truths = self._all("scores"), self._all("truths")
        hits, found, actual = (table @ weights for table in self._tables)
        f1 = _divided(2 * hits, np.where(actual > 0, found + actual, 0))
        values = {f"f1/{label}": row for label, row in zip(self.task_spec.labels, f1, strict=True)}
        values["macro_f1"] = _mean(f1)
        if self._is_multiclass:
            values["accuracy"] = hits.sum(axis=0) / weights.sum(axis=0)
        if start + weights.shape[1] <= min(REPLICATES, _MAX_SORTED_VALUES // scores.size):
            ranked = [_ranking(*columns, weights) for columns in zip(scores.T, truths.T, strict=True)]
            values["auroc"], values["map"] = (_mean(np.stack(each)) for each in zip(*ranked, strict=True))
        return values

    @cached_property
    def _tables(self) -> list[csr_array]:
        """For each label, [C, N]: the images with a correct decision for it, with any decision, and with the truth."""
        decided, truths = self._all("decided"), self._all("truths")
        return [csr_array(each.T, dtype=np.float32) for each in (decided & truths, decided, truths)]

    @property
    def _is_multiclass(self) -> bool:
        return self.task_spec.task == MulticlassEvaluation.name


class _Embeddings(_Head):
    """Embedding: recall@k, with the answers of the nearest neighbours among all images."""

    def __init__(self, task_spec: TaskSpec, name: str) -> None:
        super().__init__(task_spec, name)
        self._recalls = {f"recall@{k}": RecallAtK(k) for k in RANKS}

    def add(self, outputs: Outputs, targets: Targets) -> None:
        name = self.name or "embedding"
        gallery = targets.get(f"{name}.gallery", np.zeros(len(targets[name]), dtype=bool))
        self._keep(gallery=gallery)
        for recall in self._recalls.values():
            recall.update(*(torch.tensor(array) for array in (outputs[name], targets[name], gallery)))

    def counts(self) -> dict[str, tuple[int, int]]:
        return {name: (int((hits > 0).sum()), int((hits >= 0).sum())) for name, hits in self._hits.items()}

    def resampled(self, weights: Floats, start: int) -> Resampled:
        return {name: _divided((hits > 0) @ weights, (hits >= 0) @ weights) for name, hits in self._hits.items()}

    @cached_property
    def _hits(self) -> dict[str, NDArray[Any]]:
        """1 or 0 for each image; -1 for an image that is not counted."""
        gallery = self._all("gallery")
        hits = {name: np.full(self.images, -1) for name in self._recalls}
        for name, recall in self._recalls.items():
            hits[name][~gallery] = recall.hits().numpy()
        return hits


class _Masks(_Head):
    """Segmentation: IoU and Dice over the pixels of all images."""

    def add(self, outputs: Outputs, targets: Targets) -> None:
        classes = len(self.task_spec.labels)
        counts = np.zeros((3, len(targets["mask"]), classes))
        for number, (mask, truth) in enumerate(zip(outputs["mask"], targets["mask"], strict=True)):
            counted = truth != IGNORED
            for kind, pixels in enumerate((truth[counted & (mask == truth)], mask[counted], truth[counted])):
                counts[kind, number] = np.bincount(pixels, minlength=classes)
        self._keep(hits=counts[0], found=counts[1], actual=counts[2])

    def resampled(self, weights: Floats, start: int) -> Resampled:
        hits, found, actual = (self._all(name).T @ weights.astype(float) for name in ("hits", "found", "actual"))
        either = np.where(actual > 0, found + actual, 0)
        iou, dice = _divided(hits, either - hits * (actual > 0)), _divided(2 * hits, either)
        values = {f"iou/{label}": row for label, row in zip(self.task_spec.labels, iou, strict=True)}
        return {**values, "iou": _mean(iou[1:]), "dice": _mean(dice[1:])}


_HEADS: dict[str, type[_Head]] = {
    MulticlassEvaluation.name: _Labels,
    MultilabelEvaluation.name: _Labels,
    EmbeddingEvaluation.name: _Embeddings,
    SegmentationEvaluation.name: _Masks,
}


def _ranking(scores: Floats, truths: NDArray[np.bool_], weights: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    """AUROC and average precision of one label with weights [N, B]; images with equal scores are one group."""
    if not truths.any():
        return np.full(weights.shape[1], np.nan), np.full(weights.shape[1], np.nan)
    order = np.argsort(-scores, kind="stable")
    ranked, positives = scores[order], truths[order]
    is_first = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    bounds = np.append(np.flatnonzero(is_first), len(scores))
    group = np.cumsum(is_first)[positives] - 1  # of each positive image
    groups, starts = np.unique(group, return_index=True)
    weights = weights[order]
    images = np.concatenate([np.zeros_like(weights[:1]), np.cumsum(weights, axis=0)])
    hits = np.add.reduceat(weights[positives], starts, axis=0)
    all_hits = np.cumsum(hits, axis=0)
    actual, others = all_hits[-1], images[-1] - all_hits[-1]
    wrong_before, wrong = images[bounds[groups]] - (all_hits - hits), images[bounds[groups + 1]] - all_hits
    better = (hits * (others - (wrong_before + wrong) / 2)).sum(axis=0)
    precision = (hits * (all_hits / np.maximum(images[bounds[groups + 1]], 1))).sum(axis=0)
    return _divided(better, actual * others), _divided(precision, actual)


def _one_hot(numbers: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    table = np.zeros((len(numbers), classes), dtype=bool)
    table[np.arange(len(numbers)), numbers] = True
    return table


def _divided(counts: NDArray[Any], totals: NDArray[Any]) -> NDArray[Any]:
    """Divide; NaN where the total is 0."""
    quotient: NDArray[Any] = np.divide(counts, totals, out=np.full(np.shape(counts), np.nan), where=totals > 0)
    return quotient


def _mean(values: NDArray[Any]) -> NDArray[Any]:
    """The mean over the rows that are measured, [B]; NaN where none is."""
    measured = np.isfinite(values)
    return _divided(np.where(measured, values, 0).sum(axis=0), measured.sum(axis=0))
