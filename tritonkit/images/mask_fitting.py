"""Fits a segmentation mask to the model's size in the same way as its image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tritonkit.images.preprocess import ImageArray, Preprocess, layout


def fit_mask(mask: ImageArray, preprocess: Preprocess, fill: int) -> ImageArray:
    """Crop, pad or squash class numbers uint8 [H, W] to uint8 [height, width], as `fit_image` does with an image.

    Values are never interpolated; borders get the value `fill`.
    """
    source_height, source_width = mask.shape
    box, (left, top, width, height) = layout(source_width, source_height, preprocess)
    resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST, box=box)
    canvas = np.full((preprocess.height, preprocess.width), fill, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = np.asarray(resized)
    return canvas
