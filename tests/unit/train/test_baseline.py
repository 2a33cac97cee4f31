"""Logistic regression, folded into one linear layer."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from train.baseline.logistic import REGULARISATIONS, fit_linear_layers


@pytest.fixture
def features() -> NDArray[np.float32]:
    """Features of very different means and sizes."""
    draw = np.random.default_rng(0)
    return (draw.normal(size=(240, 6)) * [0.01, 1, 10, 300, 1, 1] + [5, 0, -40, 1000, 0, 0]).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 4])
def test_layer_answers_as_the_scaled_regression_when_the_scaling_is_folded(
    features: NDArray[np.float32], classes: int
) -> None:
    targets = np.digitize(features[:, 1] + features[:, 2] / 10 + 4, np.linspace(-1, 1, classes - 1))
    for layer, regularisation in zip(fit_linear_layers(features, targets), REGULARISATIONS, strict=True):
        expected = make_pipeline(StandardScaler(), LogisticRegression(C=regularisation)).fit(features, targets)
        probabilities = softmax(features.astype(np.float64) @ layer.weight.T.astype(np.float64) + layer.bias, axis=1)
        assert layer.weight.shape == (classes, 6)
        assert np.abs(probabilities - expected.predict_proba(features)).max() < 2e-3


def test_each_label_has_its_own_regression_when_multilabel(features: NDArray[np.float32]) -> None:
    targets = np.stack([features[:, 4] > 0, features[:, 5] > 1], axis=1)
    layer = list(fit_linear_layers(features, targets.astype(np.float32)))[-1]
    probabilities = expit(features @ layer.weight.T + layer.bias)
    assert ((probabilities > 0.5) == targets).mean() > 0.97


def test_rare_class_is_found_more_often_when_it_has_a_weight(features: NDArray[np.float32]) -> None:
    draw = np.random.default_rng(1)
    targets = (features[:, 4] + draw.normal(size=len(features)) > 2.2).astype(int)
    found = [
        sum((features @ layer.weight.T + layer.bias).argmax(axis=1)[targets == 1])
        for layer in (list(fit_linear_layers(features, targets, weights))[-1] for weights in (None, [1.0, 10.0]))
    ]
    assert found[0] < found[1]
