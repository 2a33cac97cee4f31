"""The confidence interval of a proportion, without SciPy."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the lower and upper bound of Wilson's score interval for `count` of `total`; 0 and 1 if total is 0.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927), pages 209-212.
    """
    if not total:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, scale = count / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / scale
    return (0.0 if count == 0 else centre - half), (1.0 if count == total else centre + half)
