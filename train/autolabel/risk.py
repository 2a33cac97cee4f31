"""Chooses the confidence from which a label is accepted, so that the error of all accepted labels is bounded.

The calibration part is a sample of the same pictures as the unlabelled ones, and no model trains on it. For a fixed
threshold, the wrong answers among its accepted pictures have a binomial distribution. So a threshold is tested by the
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
"""Thresholds that are tried in a round: each accepts a further fortieth of the unlabelled pictures."""
_START_SHARE = 0.3
"""The tests start where one wrong label among the accepted still passes, if this share of the calibration pictures gets
so far; else where none may be wrong. A start without room for one fails by chance too often."""
_MOST_PICTURES = 10_000_000


class Counts(NamedTuple):
    """Pictures with a known truth that were accepted, and how many of them got a wrong label."""

    accepted: int = 0
    wrong: int = 0

    def __add__(self, other: object) -> Counts:
        """Add up the counts of two rounds."""
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(self.accepted + other.accepted, self.wrong + other.wrong)


class Choice(NamedTuple):
    """The threshold of a round; None if no threshold keeps the bound."""

    threshold: float | None
    needed: int | None
    """Without a threshold: how many calibration pictures would do, were their error as it is here; None if the error
    itself is too high at every threshold."""


def level_of_round(confidence: float, number: int) -> float:
    """The probability of a mistake that round 1, 2, … may use: 1/2, 1/4, … of all that is allowed.

    So any number of rounds together stay below `1 - confidence`.
    """
    return (1 - confidence) * 0.5**number


def choose_threshold(
    unlabelled: Floats, calibration: Floats, wrong: NDArray[np.bool_], max_error: float, level: float, before: Counts
) -> Choice:
    """Return the lowest threshold at which the error of all accepted labels is at most `max_error`.

    unlabelled, calibration: confidences [N], [M] of the pictures that no round has accepted yet. wrong: [M], whether
    the model's label of a calibration picture differs from its truth. level: the probability that the error is larger
    all the same. before: the calibration pictures that earlier rounds accepted, whose labels are part of the error.
    """
    if not len(unlabelled):
        return Choice(None, None)
    start = _least_pictures(before.wrong + 1, max_error, level)
    if start > before.accepted + _START_SHARE * len(calibration):
        start = _least_pictures(before.wrong, max_error, level)
    # The thresholds come from pictures without a known truth, and the start from a number of pictures: what is tested
    # does not depend on which answers are wrong.
    shares = np.arange(1, _STEPS + 1) / _STEPS
    chosen, last = None, before
    for threshold in np.quantile(unlabelled, 1 - shares, method="lower").tolist():
        is_accepted = calibration >= threshold
        last = before + Counts(int(is_accepted.sum()), int(wrong[is_accepted].sum()))
        if last.accepted < start:
            continue
        if bdtr(last.wrong, last.accepted, max_error) > level:
            break
        chosen = float(threshold)
    if chosen is not None:
        return Choice(chosen, None)
    return Choice(None, _needed_at(last, before.accepted + len(calibration), max_error, level))


def pictures_needed(max_error: float, level: float) -> int:
    """How many accepted calibration pictures, all of them right, show that the error is at most `max_error`.

    Without an error, the bound of n pictures is 1 - level ** (1 / n).
    """
    return _least_pictures(0, max_error, level)


def _least_pictures(wrong: int, max_error: float, level: float) -> int:
    """How many accepted pictures show it, if so many of them are wrong."""
    return _first(lambda pictures: bdtr(wrong, pictures, max_error) <= level)


def _first(holds: Callable[[int], bool]) -> int:
    """Return the first number for which this holds, if it then holds for all larger ones; at most _MOST_PICTURES."""
    low, high = 0, 1
    while high < _MOST_PICTURES and not holds(high):
        low, high = high, 2 * high
    while high < _MOST_PICTURES and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return min(high, _MOST_PICTURES)


def _needed_at(counts: Counts, calibration: int, max_error: float, level: float) -> int | None:
    """How large the whole calibration part must be for such a threshold; None if its error is too high."""
    error = counts.wrong / max(counts.accepted, 1)
    if error >= max_error:
        return None
    accepted = _first(lambda pictures: bdtr(math.ceil(error * pictures), pictures, max_error) <= level)
    return max(math.ceil(accepted * calibration / max(counts.accepted, 1)), calibration + 1)
