"""What vectors say about a data set: principal components, recall among nearest neighbours, and a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from tritonkit.evaluation.tasks.embedding import RANKS, RecallAtK, class_id
from tritonkit.spec import Frozen

Method = Literal["pca", "tsne"]
EXPLAINED = 0.9
_TSNE_DIMENSIONS = 50
"""t-SNE starts from this many principal components, as its authors advise (van der Maaten and Hinton, 2008)."""
_PERPLEXITY = 30.0
_SMALLEST_VARIANCE = 1e-12
"""Vectors of unit length that vary less are equal, up to rounding."""


class PrincipalComponents(Frozen):
    """How much of the variance of the vectors each component explains, the largest first."""

    explained_variance: tuple[float, ...]
    """Shares of the whole variance, which add up to 1; all 0 if all vectors are equal."""
    components_for_90_percent: int
    """The smallest number of components that explain 90 % of the variance."""


def principal_components(vectors: NDArray[np.float32]) -> tuple[PrincipalComponents, NDArray[np.float32]]:
    """Fit scikit-learn's PCA to vectors [N, D]; return the shares, and the first 50 coordinates, at least two.

    Vectors with one number get a second coordinate of 0.
    """
    # Around their mean: in float32 the covariance of vectors far from 0 loses its digits.
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    tall = len(vectors) > vectors.shape[1]
    with np.errstate(invalid="ignore"):  # equal vectors have no variance to divide by
        fitted = PCA(svd_solver="covariance_eigh" if tall else "full").fit(centred)
    variances = fitted.explained_variance_.astype(np.float64)
    shares = variances / variances.sum() if variances.sum() > _SMALLEST_VARIANCE else np.zeros_like(variances)
    needed = int(np.searchsorted(np.cumsum(shares), EXPLAINED) + 1) if shares.any() else 0
    coordinates = centred @ fitted.components_[:_TSNE_DIMENSIONS].T
    missing = max(0, 2 - coordinates.shape[1])
    components = PrincipalComponents(
        explained_variance=tuple(round(float(share), 6) for share in shares),
        components_for_90_percent=min(needed, len(shares)),
    )
    return components, np.pad(coordinates, ((0, 0), (0, missing))).astype(np.float32)


def recall_at_ranks(vectors: NDArray[np.float32], labels: Sequence[str | None]) -> dict[str, float | None]:
    """Search each image among all other labelled ones, by cosine; return recall@1, 5 and 10.

    vectors: unit length [N, D]. None where no label has two images; empty without labels.
    """
    rows = [number for number, label in enumerate(labels) if label is not None]
    if not rows:
        return {}
    classes = torch.tensor([class_id(label) for label in labels if label is not None])
    recalls: dict[str, float | None] = {}
    for rank in RANKS:
        metric = RecallAtK(rank)
        metric.update(torch.from_numpy(vectors[rows]), classes, torch.zeros(len(rows), dtype=torch.bool))
        value = float(metric.compute())
        recalls[f"recall@{rank}"] = None if np.isnan(value) else round(value, 6)
    return recalls


def project(coordinates: NDArray[np.float32], method: Method) -> NDArray[Any]:
    """Return positions [N, 2] on a map: the first two components, or scikit-learn's t-SNE of all of them."""
    if method == "pca":
        return coordinates[:, :2]
    perplexity = min(_PERPLEXITY, (len(coordinates) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="random" if not coordinates.any() else "pca", random_state=0)
    # On two busy cores, threads that wait for each other took 52 s for 60 images, and one thread 0.4 s.
    with threadpool_limits(1):
        positions: NDArray[Any] = tsne.fit_transform(coordinates)
    return positions
