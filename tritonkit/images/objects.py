"""Objects of a mask: connected regions of a class in the original image, and their masks as COCO RLE.

`train segment` calls it, and a published pipeline has a copy of it. It imports only numpy, scipy, pycocotools and the
files next to it. Format of the RLE: github.com/cocodataset/cocoapi, common/maskApi.h.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy import ndimage

from .crops import MaskedObject
from .preprocess import Geometry, ImageArray

_CONNECTED = np.ones((3, 3))
"""Pixels that touch at a corner belong together."""


def objects_of(mask: ImageArray, geometry: Geometry, class_number: int, min_share: float) -> list[MaskedObject]:
    """Return the connected regions of a class as objects, in the order of their topmost rows.

    mask: class numbers uint8 [h, w] of the model's input. geometry: how the image was fitted to it. min_share: regions
    with a smaller share of the mask's pixels are left out.
    """
    regions, count = ndimage.label(mask == class_number, _CONNECTED)
    if not count:
        return []
    sizes = np.bincount(regions.ravel())
    regions[sizes[regions] < min_share * mask.size] = 0
    fitted = geometry.mask_to_source(regions.astype(np.int32))
    places = ndimage.find_objects(fitted)
    return [_object_at(place, fitted, number) for number, place in enumerate(places, start=1) if place is not None]


def to_rle(found: MaskedObject, size: tuple[int, int]) -> str:
    """Return the mask of the whole image as COCO's compressed RLE (`counts`). size: width and height of the image."""
    left, top, right, bottom = found.box
    whole = np.zeros((size[1], size[0]), np.uint8, order="F")
    whole[top:bottom, left:right] = found.mask
    counts: bytes = coco.encode(whole)["counts"]
    return counts.decode("ascii")


def from_rle(counts: str, size: tuple[int, int]) -> MaskedObject:
    """Return the object whose mask `to_rle` encoded. Raises ValueError for a mask without pixels."""
    whole = coco.decode({"counts": counts.encode("ascii"), "size": [size[1], size[0]]})
    places = ndimage.find_objects(whole)
    if not places or places[0] is None:
        raise ValueError("the mask has no pixels")
    return _object_at(places[0], whole, 1)


def _object_at(place: Any, regions: NDArray[Any], number: int) -> MaskedObject:
    rows, columns = place
    return MaskedObject((columns.start, rows.start, columns.stop, rows.stop), regions[place] == number)
