"""The preprocessing that a library documents for its pretrained weights."""

from __future__ import annotations

from dataclasses import dataclass

from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import Normalize


@dataclass(frozen=True)
class PretrainedRecipe:
    """Preprocessing and normalisation for pretrained weights, and their source."""

    preprocess: Preprocess
    normalize: Normalize
    origin: str
    """Such as `timm's for resnet18`."""
    weights: str = ""
    """Tag of the weights, such as `a1_in1k`."""

    @property
    def source(self) -> str:
        """Return the origin and the tag of the weights."""
        return f"{self.origin}, weights {self.weights}" if self.weights else self.origin
