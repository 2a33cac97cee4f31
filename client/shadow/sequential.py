"""A sequential test of a share: it may be looked at after every image, and stopped at any time.

The test inverts a mixture of likelihood ratios. Let k of n images differ, and let p be a possible share. With a prior
Beta(a, b) of the share,

    M_n(p) = B(a + k, b + n - k) / B(a, b) / (p^k (1 - p)^(n - k)),   B: Euler's beta function,

is a martingale of mean 1 if p is the true share. By Ville's inequality it ever reaches 1 / alpha with a probability of
at most alpha. So the shares with M_n(p) < 1 / alpha are a confidence sequence: with a probability of 1 - alpha the true
share lies in it after every image, however often one looks.

Sources: H. Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of Mathematical
Statistics 41 (1970), pages 1397-1409; S. Howard, A. Ramdas, J. McAuliffe, J. Sekhon, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", Annals of Statistics 49 (2021), pages 1055-1080.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Decision = Literal["promote", "keep", "undecided"]
_STEPS = 50
"""Halvings of an interval; more than a float has digits."""


@dataclass
class ShareTest:
    """Whether a share lies below or above a limit, decided as early as the images allow."""

    limit: float
    """Between 0 and 1."""
    alpha: float = 0.05
    """Highest probability of a wrong decision, over the whole run."""
    total: int = 0
    differing: int = 0

    def add(self, differing: int, total: int) -> None:
        """Count `total` more images, of which some differ."""
        self.differing += differing
        self.total += total

    @property
    def decision(self) -> Decision:
        """`promote`: the share is below the limit; `keep`: it is above; `undecided`: more images are needed."""
        if self._log_evidence(self.limit) < -math.log(self.alpha):
            return "undecided"
        return "promote" if self.differing < self.limit * self.total else "keep"

    def interval(self) -> tuple[float, float]:
        """Return the bounds of the confidence sequence."""
        share = self.differing / self.total if self.total else 0.5
        return self._bound(share, 0.0), self._bound(share, 1.0)

    def _bound(self, inside: float, outside: float) -> float:
        """Bisect between a share in the interval and the end of its side."""
        for _ in range(_STEPS):
            middle = (inside + outside) / 2
            if self._log_evidence(middle) < -math.log(self.alpha):
                inside = middle
            else:
                outside = middle
        return inside

    def _log_evidence(self, share: float) -> float:
        """Return log M_n(share). The prior has the limit as its mean, and the weight of a single differing image."""
        if not 0 < share < 1:
            return math.inf if self.total else 0.0
        a, b = 1.0, 1 / self.limit - 1
        kept = self.total - self.differing
        likelihood = self.differing * math.log(share) + kept * math.log1p(-share)
        return _log_beta(a + self.differing, b + kept) - _log_beta(a, b) - likelihood


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
