"""The options of `train autolabel`; loads no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AutolabelOptions:
    """The options of `train autolabel`, named as on the command line."""

    unlabelled: Path
    threshold: float | None = None
    """Accept labels from this confidence on; or else `max_error`."""
    max_error: float | None = None
    confidence: float = 0.9
    """The probability with which the expected error of the accepted labels is at most `max_error`."""
    calibration: float = 0.3
    """With `max_error`: the share of the labelled training part that only picks the threshold."""
    rounds: int = 10
    folds: int = 3
    """Models that check the given labels; 0 leaves the check out."""
    round_epochs: int | None = None
    """Epochs of the trainings that have accepted labels; default: as the configuration says."""
    decisions: Path | None = None
    folder: Path | None = None
