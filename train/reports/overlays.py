"""Draws masks on images: in the colours of classes, or in colours for correct and wrong pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tritonkit.images.preprocess import Geometry, ImageArray, Preprocess
from tritonkit.pages.contact_sheet import overlay, paletted
from tritonkit.tasks.segmentation import IGNORED

Mask = NDArray[np.uint8]
"""Class numbers [H, W]; 0 is the background, IGNORED pixels are not counted."""

# These colours can be distinguished with red-green colour blindness.
_CORRECT, _MISSED, _INVENTED, _CONFUSED = (0, 190, 200), (255, 190, 0), (225, 30, 100), (130, 70, 230)
COMPARISON_LEGEND = "turquoise: correct, amber: missed, red: wrongly predicted, violet: another class"
_GAP = 2
_WHITE = (255, 255, 255)


def model_input_geometry(preprocess: Preprocess) -> Geometry:
    """Return the geometry of an image in the model's input size, so that points and masks are not moved."""
    box = (0.0, 0.0, float(preprocess.width), float(preprocess.height))
    return Geometry((preprocess.width, preprocess.height), box, box)


def class_overlay(image: ImageArray, mask: Mask) -> Image.Image:
    """Draw the classes of a mask with outlines on an image, uint8 [H, W, 3]; ignored pixels are pale."""
    classes = np.where(mask == IGNORED, np.uint8(0), mask)
    coloured = np.array(overlay(Image.fromarray(image), classes))
    outline = _outline(classes)
    coloured[outline] = np.array(paletted(classes).convert("RGB"))[outline]
    return Image.fromarray(_pale(coloured, mask == IGNORED))


def comparison_overlay(image: ImageArray, truth: Mask, answer: Mask) -> Image.Image:
    """Draw correct and wrong pixels on an image, uint8 [H, W, 3], as in COMPARISON_LEGEND; ignored pixels are pale."""
    drawn = image.copy()
    for region, colour in (
        ((truth == answer) & (truth > 0), _CORRECT),
        ((truth > 0) & (answer == 0), _MISSED),
        ((truth == 0) & (answer > 0), _INVENTED),
        ((truth != answer) & (truth > 0) & (answer > 0), _CONFUSED),
    ):
        drawn[region] = _blended(image[region], colour)
    drawn[truth == IGNORED] = image[truth == IGNORED]
    return Image.fromarray(_pale(drawn, truth == IGNORED))


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Join two images of one size with a white gap."""
    both = Image.new("RGB", (2 * left.width + _GAP, left.height), _WHITE)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + _GAP, 0))
    return both


def _outline(classes: Mask) -> NDArray[np.bool_]:
    # An outline keeps a mask visible on an object of a similar colour.
    edge = np.pad(classes, 1, mode="edge")
    neighbors = (edge[:-2, 1:-1], edge[2:, 1:-1], edge[1:-1, :-2], edge[1:-1, 2:])
    border: NDArray[np.bool_] = (classes > 0) & np.any([other != classes for other in neighbors], axis=0)
    return border


def _pale(image: ImageArray, region: NDArray[np.bool_]) -> ImageArray:
    changed = image.copy()
    changed[region] = _blended(image[region], _WHITE)
    return changed


def _blended(pixels: ImageArray, colour: tuple[int, int, int]) -> ImageArray:
    """Mix pixels and a colour in equal parts."""
    return ((pixels.astype(np.uint16) + np.array(colour, dtype=np.uint16)) // 2).astype(np.uint8)
