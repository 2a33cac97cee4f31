"""Compares two models on the same pictures, with a paired interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.reports.intervals import CONFIDENCE, REPLICATES, wilson
from tritonkit.spec import Frozen


class Share(Frozen):
    """A share of pictures with its 95 % interval by Wilson."""

    count: int
    total: int
    value: float | None
    """None without pictures."""
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, count: int, total: int) -> Share:
        """Return the share `count` of `total`."""
        if not total:
            return cls(count=0, total=0, value=None)
        bounds = wilson(count, total)
        return cls(count=count, total=total, value=count / total, low=bounds.low, high=bounds.high)


class Comparison(Frozen):
    """The accuracy of two models on the holdout, and the paired difference."""

    labels_alone: Share
    self_labelled: Share
    gain: float
    low: float
    high: float
    """The 95 % interval of the gain: the pictures, each with both answers, are drawn again 1,000 times."""

    @classmethod
    def of(cls, alone: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> Comparison:
        """Compare by whether each picture is right, [N] for both models."""
        images = len(alone)
        better, worse = int((labelled & ~alone).sum()), int((alone & ~labelled).sum())
        shares = np.array([better, worse, images - better - worse]) / images
        drawn = np.random.default_rng(0).multinomial(images, shares, REPLICATES)
        tail = 50 * (1 - CONFIDENCE)
        low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / images, (tail, 100 - tail))
        return cls(
            labels_alone=Share.of(int(alone.sum()), images),
            self_labelled=Share.of(int(labelled.sum()), images),
            gain=(better - worse) / images,
            low=float(low),
            high=float(high),
        )

    @property
    def helped(self) -> bool | None:
        """Whether self-labelling helped; None if the holdout cannot tell."""
        return True if self.low > 0 else False if self.high < 0 else None

    def sentence(self) -> str:
        """The result in plain words."""
        words = {
            True: "Self-labelling helped",
            False: "Self-labelling did harm",
            None: "The holdout cannot tell whether self-labelling helped",
        }[self.helped]
        return (
            f"{words}: {self.labels_alone.value:.2%} of {self.labels_alone.total:,} holdout pictures are right with "
            f"the given labels alone, {self.self_labelled.value:.2%} with self-labelling "
            f"({100 * self.gain:+.2f} points, 95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f})."
        )
