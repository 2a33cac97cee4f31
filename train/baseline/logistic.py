"""Logistic regression on features, as the weights of one linear layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

Array = NDArray[Any]
REGULARISATIONS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""scikit-learn's C: a larger value regularises less."""
_MAX_ITERATIONS = 300
"""scikit-learn's default of 100 ends too early at large C: on features of a ViT it gave 0.691, 300 gave 0.714."""


class LinearLayer(NamedTuple):
    """Weights float32 [C, F] and biases [C] of a layer that takes raw features."""

    regularisation: float
    weight: Array
    bias: Array


def fit_linear_layers(
    features: Array, targets: Array, class_weights: Sequence[float] | None = None
) -> Iterator[LinearLayer]:
    """Fit a layer for each of `REGULARISATIONS`, the strongest first.

    features: float32 [N, F]. targets: class numbers [N] of 0..C-1, or 0 and 1 for each label [N, C], which is one
    regression a label. class_weights: [C]; for labels the weight of the images that have the label.
    """
    scaler = StandardScaler().fit(features.astype(np.float64))
    scaled = scaler.transform(features)
    # The products are small: with several BLAS threads, a fit took up to a hundred times as long on two busy cores.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for regularisation in REGULARISATIONS:
            if targets.ndim == 1:
                weight, bias = _multiclass(scaled, targets, regularisation, class_weights)
            else:
                weight, bias = _multilabel(scaled, targets, regularisation, class_weights)
            # Fold the scaling: weight · (x - mean) / scale + bias is linear in x.
            folded = weight / scaler.scale_
            yield LinearLayer(
                regularisation, folded.astype(np.float32), (bias - folded @ scaler.mean_).astype(np.float32)
            )


def _multiclass(
    scaled: Array, targets: Array, regularisation: float, weights: Sequence[float] | None
) -> tuple[Array, Array]:
    weight, bias = _regression(scaled, targets, regularisation, dict(enumerate(weights)) if weights else None)
    if len(weight) > 1:
        return weight, bias
    # For two classes scikit-learn returns the log-odds of the second.
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


def _multilabel(
    scaled: Array, targets: Array, regularisation: float, weights: Sequence[float] | None
) -> tuple[Array, Array]:
    each = [
        _regression(scaled, column, regularisation, {0: 1.0, 1: weights[number]} if weights else None)
        for number, column in enumerate(targets.T.astype(np.int64))
    ]
    return np.concatenate([weight for weight, _ in each]), np.concatenate([bias for _, bias in each])


def _regression(
    scaled: Array, targets: Array, regularisation: float, class_weight: Mapping[int, float] | None
) -> tuple[Array, Array]:
    model = LogisticRegression(C=regularisation, max_iter=_MAX_ITERATIONS, class_weight=class_weight)
    model.fit(scaled, targets)
    return model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
