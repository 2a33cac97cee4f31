"""Compares two models on the same images, with a paired interval."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from train.reports.intervals import CONFIDENCE, wilson
from tritonkit.spec import Frozen


class Proportion(Frozen):
    """A proportion of images with its 95 % interval by Wilson."""

    count: int
    total: int
    value: float | None
    """None without images."""
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, count: int, total: int) -> Proportion:
        """Return the proportion `count` of `total`."""
        if not total:
            return cls(count=0, total=0, value=None)
        bounds = wilson(count, total)
        return cls(count=count, total=total, value=count / total, low=bounds.low, high=bounds.high)


class HoldoutComparison(Frozen):
    """The accuracy of two models on the holdout, and the paired difference."""

    labels_alone: Proportion
    self_labelled: Proportion
    gain: float
    low: float
    high: float
    """The 95 % interval of the gain: Wald's, with one image added to both counts of images that only one model has
    right (D. G. Bonett and R. M. Price, Journal of Educational and Behavioral Statistics 37 (2012), pages 479-488)."""
    p_value: float
    """Of McNemar's exact test: how probable such a gain or loss is if both models are right equally often."""

    @classmethod
    def of(cls, labels_alone: NDArray[np.bool_], self_labelled: NDArray[np.bool_]) -> HoldoutComparison:
        """Compare by whether each image is right, [N] for both models."""
        images = len(labels_alone)
        better, worse = int((self_labelled & ~labels_alone).sum()), int((labels_alone & ~self_labelled).sum())
        differ = better + worse
        # Of the shares (better + 1) / (images + 2) and (worse + 1) / (images + 2).
        adjusted = (better - worse) / (images + 2)
        half = norm.ppf((1 + CONFIDENCE) / 2) * sqrt(((differ + 2) / (images + 2) - adjusted**2) / (images + 2))
        return cls(
            labels_alone=Proportion.of(int(labels_alone.sum()), images),
            self_labelled=Proportion.of(int(self_labelled.sum()), images),
            gain=(better - worse) / images,
            low=max(-1.0, float(adjusted - half)),
            high=min(1.0, float(adjusted + half)),
            p_value=float(binomtest(better, differ).pvalue) if differ else 1.0,
        )

    @property
    def helped(self) -> bool | None:
        """Whether self-labelling helped; None if the holdout cannot tell."""
        return None if self.p_value >= 1 - CONFIDENCE else self.gain > 0

    def sentence(self) -> str:
        """The result in plain words."""
        words = {
            True: "Self-labelling helped",
            False: "Self-labelling did harm",
            None: "The holdout cannot tell whether self-labelling helped",
        }[self.helped]
        return (
            f"{words}: {self.labels_alone.value:.2%} of {self.labels_alone.total:,} holdout images are right with "
            f"the given labels alone, {self.self_labelled.value:.2%} with self-labelling "
            f"({100 * self.gain:+.2f} points, 95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f}; "
            f"McNemar's exact test: p = {self.p_value:.2g})."
        )
