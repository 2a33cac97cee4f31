"""The recipe of pretrained weights: how a library prepares pictures for them."""

from __future__ import annotations

from dataclasses import dataclass

from model.preprocess import Preprocess
from model.spec import Normalize


@dataclass(frozen=True)
class Recipe:
    """Preprocessing and normalisation, and who says so."""

    preprocess: Preprocess
    normalize: Normalize
    origin: str
    """Such as `timm's for resnet18`."""
    weights: str = ""
    """The weights that the library documents it for, such as `a1_in1k`."""

    @property
    def source(self) -> str:
        """Who says so, and of which weights."""
        return f"{self.origin}, weights {self.weights}" if self.weights else self.origin
