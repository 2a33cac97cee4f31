"""What a comparison of two models found."""

from __future__ import annotations

from tritonkit.evaluation.intervals import wilson
from tritonkit.spec import Frozen

MAX_CHANGED = 100
"""Changed answers that are kept, those with the largest difference."""


class ModelSpeed(Frozen):
    """How long one of the models took, with one request at a time."""

    name: str
    origin: str
    version: str = ""
    ms_per_image: float
    """Mean time of a batch divided by its images, in milliseconds; 0 without an answered image."""

    @property
    def answered_by(self) -> str:
        """The server and version, or the kind of process."""
        return f"{self.origin} version {self.version}" if self.version else "this process"


class Flip(Frozen):
    """A decision that changed, and the number of images in which it did."""

    decision: str
    """`label`, a label of a multilabel model, or one of these after the name of a head and a dot."""
    before: str
    after: str
    images: int


class ChangedAnswer(Frozen):
    """An image that the two models answer differently."""

    path: str
    before: str
    after: str
    agreement: dict[str, float]
    """By the task's measures, in 0..1."""
    difference: float
    """The largest difference of an output value; of a mask 1 - IoU."""


class FailedImage(Frozen):
    """An image that could not be read, or to which a model gave an invalid answer."""

    path: str
    error: str


class ModelComparison(Frozen):
    """The result of comparing two models on a set of images."""

    old: ModelSpeed
    new: ModelSpeed
    task: str
    images: int
    """Images that both models answered."""
    changed: int
    measures: dict[str, float]
    """Mean agreement, for each measure of the task."""
    mean_difference: float | None
    """Of all output values that are not class numbers, over the labels of both models; None if there are none."""
    max_difference: float | None
    flips: tuple[Flip, ...]
    """The most frequent first."""
    only_old: tuple[str, ...] = ()
    """Labels that the new model lacks."""
    only_new: tuple[str, ...] = ()
    most_changed: tuple[ChangedAnswer, ...]
    """At most MAX_CHANGED, the largest difference first."""
    failed: int
    failures: tuple[FailedImage, ...]
    """The first MAX_CHANGED."""

    @property
    def share(self) -> float:
        """The share of images whose answer agrees; 0 without an image."""
        return (self.images - self.changed) / self.images if self.images else 0.0

    @property
    def further_measures(self) -> dict[str, float]:
        """The measures that say more than the share of agreeing answers."""
        return {measure: value for measure, value in self.measures.items() if abs(value - self.share) > 1e-9}

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share, Wilson's."""
        return wilson(self.images - self.changed, self.images)

    def document(self) -> dict[str, object]:
        """Return the JSON document of the command."""
        low, high = self.interval
        return {**self.model_dump(mode="json"), "agreement": self.share, "interval": {"low": low, "high": high}}
