"""Decodes images inside Triton, with the preprocessing of one model.

It imports only Pillow, numpy and the files next to it, so that they can be copied to a server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .pixel_budget import PixelBudget
from .preprocess import MAX_PIXELS, ImageError, Preprocess, load_image

if TYPE_CHECKING:
    from .preprocess import ImageArray


class Decoder:
    """Decodes image files to the pixels that a model takes. Thread-safe."""

    def __init__(self, preprocess: Mapping[str, Any], threads: int, pixels: str = "") -> None:
        """Create a decoder.

        preprocess: the fields of `Preprocess`. pixels: how many pixels may be decoded at the same time; empty for a
        budget that fits `threads` and the memory.
        """
        self._settings = Preprocess(**{**preprocess, "fill": tuple(preprocess["fill"])})
        self._budget = PixelBudget(int(pixels)) if pixels else PixelBudget.for_threads(threads, minimum=MAX_PIXELS)
        self._max_pixels = min(MAX_PIXELS, self._budget.pixels)

    def decode(self, data: bytes) -> ImageArray:
        """Return the image as uint8 [H, W, 3]. Raises ImageError for a broken or too large image."""
        pixels: ImageArray = load_image(data, self._settings, self._budget, self._max_pixels)[0]
        return pixels

    @staticmethod
    def is_refusal(error: Exception) -> bool:
        """Whether the image is at fault, not the server."""
        return isinstance(error, ImageError)
