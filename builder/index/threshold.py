"""Choose the distance from which an image is unknown, and measure how well a gallery tells its own classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builder.sources.search.gallery import SAME_IMAGE, Gallery, queries_at_once
from tritonkit.errors import InputError
from tritonkit.tasks.search import RANKS

MIN_EXPECTED, MIN_CLASSES = 5, 5
"""The fewest images that a rate must accept, and the fewest classes they come from, to be estimated."""
MAX_QUERIES = 10_000
"""Items of a large gallery that are searched for in the rest of it."""
_ABSENT = 3.0
"""A distance of an item that does not exist; a real one is at most 2."""

Distances = NDArray[np.float32]


@dataclass(frozen=True)
class LeaveOneOut:
    """The items of a gallery as queries, at most `MAX_QUERIES`, each searched for among the other items."""

    labels: NDArray[np.str_]
    """[Q]."""
    nearest: Distances
    """[Q], the distance to the nearest other item."""
    other_class: Distances
    """[Q], the distance to the nearest item of another class: used as an image of an unknown class."""
    has_match: NDArray[np.bool_]
    """[Q], whether another item has the class of the query."""
    recall: dict[str, float]
    """recall@k over the queries that have a match."""

    def false_reject(self, threshold: float) -> float | None:
        """Return the share of images of known classes that a threshold refuses; None without such images."""
        known = self.nearest[self.has_match]
        return float((known >= threshold).mean()) if len(known) else None


def leave_one_out(gallery: Gallery) -> LeaveOneOut:
    """Search for each item among the others. Of a large gallery, evenly spaced items are taken."""
    queries = np.unique(np.linspace(0, len(gallery) - 1, min(len(gallery), MAX_QUERIES)).round().astype(int))
    _, numbers, counts = np.unique(gallery.labels, return_inverse=True, return_counts=True)
    ranks = [k for k in RANKS if k < len(gallery)]
    farthest = max(ranks, default=0)
    nearest, other, hits = [], [], []
    step = queries_at_once(len(gallery))
    for start in range(0, len(queries), step):
        rows = queries[start : start + step]
        distances = np.clip(1 - gallery.vectors[rows] @ gallery.vectors.T, 0, 2)
        distances[np.arange(len(rows)), rows] = _ABSENT
        same = numbers[rows, None] == numbers
        nearest.append(distances.min(axis=1))
        other.append(np.where(same, _ABSENT, distances).min(axis=1))
        found = np.argpartition(distances, farthest, axis=1)[:, :farthest]
        order = np.argsort(np.take_along_axis(distances, found, axis=1), axis=1, kind="stable")
        hits.append(np.take_along_axis(same, np.take_along_axis(found, order, axis=1), axis=1))
    has_match, hit = counts[numbers[queries]] > 1, np.concatenate(hits)
    recall = {f"recall@{k}": float(hit[has_match, :k].any(axis=1).mean()) for k in ranks} if has_match.any() else {}
    return LeaveOneOut(gallery.labels[queries], np.concatenate(nearest), np.concatenate(other), has_match, recall)


@dataclass(frozen=True)
class Threshold:
    """The distance from which an image is unknown."""

    distance: float
    error: float
    """Standard error of the share of accepted images, 0..1, over the classes."""


def check_rate(labels: NDArray[np.str_], rate: float, origin: str) -> None:
    """Raise InputError where images are too few to estimate a rate on. labels: their classes, [n]."""
    count, classes = len(labels), np.unique(labels)
    if len(classes) < MIN_CLASSES or rate * count < MIN_EXPECTED:
        is_rate_too_small = rate * count < MIN_EXPECTED and count > MIN_EXPECTED and len(classes) >= MIN_CLASSES
        larger = f", or choose a rate of at least {MIN_EXPECTED / count:.3g}" if is_rate_too_small else ""
        raise InputError(
            f"--false-accept {rate:g}: {origin} has {count} images of {len(classes)} classes, too few to estimate it; "
            f"expected at least {-(-MIN_EXPECTED // rate):.0f} images of {MIN_CLASSES} classes. Pass more classes with "
            f"--held-out{larger}",
            code="index.too_few_held_out",
        )


def choose_threshold(unknown: Distances, labels: NDArray[np.str_], rate: float, origin: str) -> Threshold:
    """Return the threshold that accepts a share `rate` of images of unknown classes.

    An image is accepted if it is nearer than the threshold. Of n images of unknown classes the threshold is the
    distance with rank floor(rate * (n + 1)), so another image like these is accepted with at most this probability
    (split conformal prediction: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005). Images of other
    classes are less like these. How much the share changes from class to class is in the standard error of a ratio over
    clusters (Cochran, Sampling Techniques, 1977, 2.11), with the classes as clusters.

    unknown: the distance of each image to its nearest item, [n]. labels: its class, [n]. origin: names the images in
    errors. Raises InputError where the images are too few to estimate the rate, and where the threshold is 0.
    """
    check_rate(labels, rate, origin)
    count = len(unknown)
    classes, numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    distance = float(np.sort(unknown)[int(rate * (count + 1)) - 1])
    if distance < SAME_IMAGE:
        raise InputError(
            f"--false-accept {rate:g}: the threshold would be 0, and every image unknown, because images of {origin} "
            "have the vectors of other classes. Expected an embedding model that tells them apart, and no image with "
            "two labels; or choose a larger rate",
            code="index.threshold_zero",
        )
    accepted = np.bincount(numbers, unknown < distance)
    deviations = accepted - accepted.sum() / count * sizes
    error = float(np.sqrt((deviations**2).sum() * len(classes) / (len(classes) - 1)) / count)
    return Threshold(distance, error)
