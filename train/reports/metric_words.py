"""Metrics in plain words, for readers who do not know their names."""

from __future__ import annotations

import re
from typing import NamedTuple

_WORDS = {
    "accuracy": "share of images with the correct answer",
    "macro_f1": "balance of precision and recall (F1), mean over the labels",
    "auroc": "area under the ROC curve, mean over the labels",
    "map": "average precision, mean over the labels",
    "f1": "balance of precision and recall",
    "iou": "overlap of the predicted area and the true one, divided by their union",
    "dice": "overlap of the two areas, divided by their mean size",
    "mean": "mean of the main metric of each head",
}
_SHORT = {
    "accuracy": "accuracy", "macro_f1": "mean F1", "auroc": "AUROC", "map": "mean average precision", "f1": "F1",
    "iou": "IoU", "dice": "Dice", "mean": "mean of the heads",
}  # fmt: skip


class MetricName(NamedTuple):
    """The parts of a metric's name: `HEAD.METRIC/LABEL`; head and label may be empty."""

    head: str
    metric: str
    label: str


def parse_metric(name: str) -> MetricName:
    """Split the name of a metric."""
    metric, _, label = name.partition("/")
    head, _, metric = metric.rpartition(".")
    return MetricName(head, metric, label)


def short_name(name: str) -> str:
    """The name of a metric as one says it: `Recall@1`."""
    head, metric, _ = parse_metric(name)
    words = _SHORT.get(metric, metric.replace("recall@", "Recall@"))
    return f"{words} of {head}" if head else words


def explanation(name: str) -> str:
    """What a metric measures; empty for one of a plug-in."""
    metric = parse_metric(name).metric
    if recall := re.fullmatch(r"recall@(\d+)", metric):
        nearest = "the most similar image" if recall[1] == "1" else f"one of the {recall[1]} most similar images"
        return f"share of images for which {nearest} is of the same class"
    return _WORDS.get(metric, "")
