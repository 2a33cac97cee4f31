"""The result of a self-labelling."""

from __future__ import annotations

from pathlib import Path

from train.autolabel.comparison import Comparison, Share
from tritonkit.spec import Frozen

LABELS, PAGE = "labels.csv", "review.html"


class Round(Frozen):
    """A round: which model labelled, and what was accepted."""

    number: int
    trained_on: int
    """Pictures that the model had learned: the given labels, and those of earlier rounds."""
    val: float
    """The model's metric on val that picks the best epoch."""
    threshold: float | None
    """None if no threshold kept the bound."""
    accepted: int
    accepted_so_far: int
    error: Share
    """On the holdout, of the labels that this and all earlier rounds accept."""


class AutolabelResult(Frozen):
    """The result of `train autolabel`."""

    folder: Path
    checkpoint: Path
    """Of the self-labelled model, or of that of the given labels alone: the one that is better on val."""
    rounds: tuple[Round, ...]
    unlabelled: int
    accepted: int
    error: Share
    """Of the labels that all rounds accept, on the holdout."""
    max_error: float | None
    confidence: float | None
    """The probability with which the error is at most `max_error`."""
    used_rounds: int
    """The self-labelled model learned the labels of this round and of those before it."""
    comparison: Comparison | None
    """On the holdout; None if no label was accepted."""
    conclusion: str
    suspects: int | None
    """Given labels that look wrong; None if they were not checked."""
    without_labels: tuple[str, ...]
    """Labels that no picture was given, though others were."""
    notes: tuple[str, ...]

    @property
    def labels(self) -> Path:
        """The accepted labels."""
        return self.folder / LABELS

    @property
    def page(self) -> Path:
        """The page to check doubtful labels."""
        return self.folder / PAGE
