"""Chooses the confidence from which a label is accepted, so that the expected error of all accepted labels is bounded.

The expected error is that of many images that are accepted in the same way. Among a few hundred accepted labels, the
share of wrong ones can be larger by chance.

The calibration part is a sample of the same images as the unlabelled ones, and no model trains on it. For a fixed
threshold, the wrong answers among its accepted images have a binomial distribution. So a threshold is tested by the
exact binomial tail, which is the bound of Clopper and Pearson (selective risk: Geifman and El-Yaniv, 2017; testing of
thresholds: Angelopoulos et al., Learn then Test, 2021).

Thresholds are tested one after another, from the safest one down, until one fails. In such a fixed sequence no test
needs a stricter level because of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

Floats = NDArray[np.floating[Any]]
_STEPS = 40
"""Thresholds that are tried in a round: each accepts a further fortieth of the unlabelled images."""
_START_SHARE = 0.3
"""The tests start where one wrong label among the accepted still passes, if this share of the calibration images gets
so far; else where none may be wrong. A start without room for one fails by chance too often."""
_MOST_IMAGES = 10_000_000


class Counts(NamedTuple):
    """Images with a known truth that were accepted, and how many of them got a wrong label."""

    accepted: int = 0
    wrong: int = 0


class ThresholdChoice(NamedTuple):
    """The threshold of a round; None if no threshold keeps the bound."""

    threshold: float | None
    needed: int | None
    """Without a threshold: how many calibration images would do, were their error as it is here; None if the error
    itself is too high at every threshold."""


def level_of_round(confidence: float, number: int) -> float:
    """The probability of a mistake that round 1, 2, … may use: 1/2, 1/4, … of all that is allowed.

    So any number of rounds together stay below `1 - confidence`.
    """
    return (1 - confidence) * 0.5**number


def choose_threshold(
    unlabelled: Floats, calibration: Floats, wrong: NDArray[np.bool_], max_error: float, level: float, before: Counts
) -> ThresholdChoice:
    """Return the lowest threshold at which the expected error of all accepted labels is at most `max_error`.

    unlabelled, calibration: confidences [N], [M] of the images that no round has accepted yet. wrong: [M], whether
    the model's label of a calibration image differs from its truth. level: the probability that the expected error
    is larger all the same. before: the calibration images that earlier rounds accepted; their labels are part of the
    error.
    """
    if not len(unlabelled):
        return ThresholdChoice(None, None)
    start = images_needed(max_error, level, before.wrong + 1)
    if start > before.accepted + _START_SHARE * len(calibration):
        start = images_needed(max_error, level, before.wrong)
    # The thresholds come from images without a known truth, and the start from a number of images: what is tested
    # does not depend on which answers are wrong.
    shares = np.arange(1, _STEPS + 1) / _STEPS
    chosen, last = None, before
    for threshold in np.quantile(unlabelled, 1 - shares, method="lower").tolist():
        is_accepted = calibration >= threshold
        last = Counts(before.accepted + int(is_accepted.sum()), before.wrong + int(wrong[is_accepted].sum()))
        if last.accepted < start:
            continue
        if bdtr(last.wrong, last.accepted, max_error) > level:
            break
        chosen = float(threshold)
    if chosen is not None:
        return ThresholdChoice(chosen, None)
    return ThresholdChoice(None, _needed_at(last, before.accepted + len(calibration), max_error, level))


def images_needed(max_error: float, level: float, wrong: int = 0) -> int:
    """Smallest sample size whose binomial tail with `wrong` errors is at most `level`; at most _MOST_IMAGES.

    This number of accepted calibration images shows that the expected error is at most `max_error`. Without an error,
    the bound of n images is 1 - level ** (1 / n).
    """
    return _first(lambda images: bdtr(wrong, images, max_error) <= level)


def _first(holds: Callable[[int], bool]) -> int:
    """Return the first number for which `holds` is true, if it is true for all larger ones; at most _MOST_IMAGES."""
    low, high = 0, 1
    while high < _MOST_IMAGES and not holds(high):
        low, high = high, 2 * high
    while high < _MOST_IMAGES and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return min(high, _MOST_IMAGES)


def _needed_at(counts: Counts, calibration: int, max_error: float, level: float) -> int | None:
    """How large the whole calibration part must be for such a threshold; None if its error is too high."""
    error = counts.wrong / max(counts.accepted, 1)
    if error >= max_error:
        return None
    accepted = _first(lambda images: bdtr(math.ceil(error * images), images, max_error) <= level)
    return max(math.ceil(accepted * calibration / max(counts.accepted, 1)), calibration + 1)
