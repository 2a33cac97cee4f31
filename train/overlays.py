"""Masks on pictures: a colour for each class, or what is right and what is not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.gallery import overlay, paletted
from model.preprocess import Geometry, ImageArray, Preprocess
from model.tasks.segmentation import IGNORED

Mask = NDArray[np.uint8]
"""Class numbers [H, W]; 0 is the background, IGNORED is not judged."""

# Told apart also by those who see no difference between red and green.
_RIGHT, _MISSED, _INVENTED, _CONFUSED = (0, 190, 200), (255, 190, 0), (225, 30, 100), (130, 70, 230)
JUDGED_COLOURS = "turquoise is right, amber was missed, red was invented, violet is another class"
_GAP = 2
_WHITE = (255, 255, 255)


def as_seen(preprocess: Preprocess) -> Geometry:
    """The geometry of a picture that is shown as the model gets it: places and masks stay where they are."""
    box = (0.0, 0.0, float(preprocess.width), float(preprocess.height))
    return Geometry((preprocess.width, preprocess.height), box, box)


def masked(image: ImageArray, mask: Mask) -> Image.Image:
    """A picture uint8 [H, W, 3] in the colours of its classes, with outlines; what is not judged is pale."""
    classes = np.where(mask == IGNORED, np.uint8(0), mask)
    coloured = np.array(overlay(Image.fromarray(image), classes))
    outline = _outline(classes)
    coloured[outline] = np.array(paletted(classes).convert("RGB"))[outline]
    return Image.fromarray(_pale(coloured, mask == IGNORED))


def judged(image: ImageArray, truth: Mask, answer: Mask) -> Image.Image:
    """A picture uint8 [H, W, 3] in JUDGED_COLOURS; what is not judged is pale."""
    shown = image.copy()
    for where, colour in (
        ((truth == answer) & (truth > 0), _RIGHT),
        ((truth > 0) & (answer == 0), _MISSED),
        ((truth == 0) & (answer > 0), _INVENTED),
        ((truth != answer) & (truth > 0) & (answer > 0), _CONFUSED),
    ):
        shown[where] = _blended(image[where], colour)
    shown[truth == IGNORED] = image[truth == IGNORED]
    return Image.fromarray(_pale(shown, truth == IGNORED))


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of one size with a little white between them."""
    both = Image.new("RGB", (2 * left.width + _GAP, left.height), _WHITE)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + _GAP, 0))
    return both


def _outline(classes: Mask) -> NDArray[np.bool_]:
    # Half of a colour is little to see on a thing of that colour.
    edge = np.pad(classes, 1, mode="edge")
    beside = (edge[:-2, 1:-1], edge[2:, 1:-1], edge[1:-1, :-2], edge[1:-1, 2:])
    border: NDArray[np.bool_] = (classes > 0) & np.any([other != classes for other in beside], axis=0)
    return border


def _pale(image: ImageArray, where: NDArray[np.bool_]) -> ImageArray:
    changed = image.copy()
    changed[where] = _blended(image[where], _WHITE)
    return changed


def _blended(pixels: ImageArray, colour: tuple[int, int, int]) -> ImageArray:
    """Half of the one, half of the other."""
    return ((pixels.astype(np.uint16) + np.array(colour, dtype=np.uint16)) // 2).astype(np.uint8)
