"""Suggests a learning rate from the losses of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from tritonkit.errors import ConfigError

Scale = Literal["log", "linear"]
SAFETY = 4.0
"""The largest suggestion is the rate of the smallest loss, divided by this. fastai's `Learner.lr_find` divides by 10,
because its moving average lags behind and so shows the smallest loss at larger rates."""
_WIDTH = 0.04
"""Standard deviation of the smoothing, as a share of the steps."""
_NOISE = 10.0
"""How many standard deviations of its noise the curve must fall. Of curves of pure noise over 100 steps half fall by 4,
and one in a hundred by 9; those of the digits fall by 44 to 129."""
_SMALLEST_FALL = 0.02
"""How far the curve must fall, as a share of its largest loss."""


@dataclass(frozen=True)
class Suggestion:
    """A learning rate with its reason, and the points of the curve that led to it."""

    lr: float
    """With two digits."""
    reason: str
    steepest: float
    """The rate at which the loss falls fastest."""
    lowest: float
    """The rate at which the loss is smallest."""


def smooth_curve(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smooth curve of the losses [passes, steps], up to the first step at which most passes had diverged.

    It is the median of the passes, smoothed with a Gaussian. A moving average would lag behind, and so move the curve
    to larger rates.
    """
    middle = np.median(losses, axis=0)
    is_finite = np.isfinite(middle)
    middle = middle if is_finite.all() else middle[: int(is_finite.argmin())]
    curve: NDArray[np.float64] = gaussian_filter1d(middle, _width(losses.shape[1]), mode="nearest")
    return curve


def suggest(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> Suggestion:
    """Suggest the rate at which the loss falls fastest, but at most a quarter of the one at which it is smallest.

    rates: [steps]. losses: [passes, steps], infinite from where a pass diverged. The slope is over the logarithm of the
    rate, on both scales. Such a range test is from L. N. Smith, Cyclical Learning Rates for Training Neural Networks,
    arXiv 1506.01186. Raises ConfigError if the loss does not fall.
    """
    curve = smooth_curve(losses)
    _check_length(len(curve), len(rates))
    end = int(curve.argmin())
    start = int(curve[: end + 1].argmax())
    # Beyond the smallest loss the curve may rise too steeply to tell noise from its shape.
    residuals = (losses[:, : len(curve)] - curve)[:, : max(end + 1, len(curve) // 4)]
    fall, noise = curve[start] - curve[end], float(np.std(residuals[np.isfinite(residuals)]))
    # A Gaussian of this width averages over 2 sqrt(pi) times its width.
    averaged = len(losses) * 2 * np.sqrt(np.pi) * _width(len(rates))
    if fall < max(_NOISE * noise / np.sqrt(averaged), _SMALLEST_FALL * abs(curve[start])):
        raise ConfigError(
            f"the loss does not fall at any rate from {rates[0]:.2g} to {rates[-1]:.2g}: it goes from "
            f"{curve[start]:.4g} to {curve[end]:.4g}, and single losses vary by {noise:.2g}. Check labels and loss in "
            "the configuration, and sweep other rates (train lr --min-lr --max-lr) or more of them (--steps); weights "
            "that are trained already have no fall: set optimizer.lr to a tenth of the rate of their training",
            code="lr.no_descent",
        )
    slope = np.gradient(curve, np.log(rates[: len(curve)]))
    steepest, lowest = float(rates[start + slope[start : end + 1].argmin()]), float(rates[end])
    limit = lowest / SAFETY
    if steepest > limit:
        reason = (
            f"a quarter of {lowest:.2g}, the rate with the smallest loss; the loss falls fastest at {steepest:.2g}, "
            "which is above this limit"
        )
    else:
        reason = f"the loss falls fastest there; it is smallest at {lowest:.2g}, four times as large or more"
    if end == len(rates) - 1:
        reason += "; the loss still falls at the largest rate, so a larger --max-lr may give a larger suggestion"
    return Suggestion(float(f"{min(steepest, limit):.1e}"), reason, steepest, lowest)


def _width(steps: int) -> float:
    """Return the standard deviation of the smoothing, in steps."""
    return max(1.0, _WIDTH * steps)


def _check_length(finite: int, steps: int) -> None:
    """Raise ConfigError if the training diverges too early to see a curve."""
    if finite < max(3, 2 * _WIDTH * steps):
        raise ConfigError(
            f"the training diverges after {finite} of {steps} rates, so the loss has no curve: lower --min-lr, check "
            "the images and labels, or use precision=32-true",
            code="lr.diverged",
        )
