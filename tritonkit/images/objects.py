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
    """Return the mask of the whole image as COCO's compressed RLE (`counts`). size: width and height of the image.

    Only the pixels of the box are read, so a small object in a large image costs little.
    """
    (left, top, right, bottom), height = found.box, size[1]
    columns = np.zeros((right - left, bottom - top + 2), np.bool_)  # a clear pixel above and below each
    columns[:, 1:-1] = found.mask.T
    pixels = columns.ravel()
    column, row = np.divmod(np.flatnonzero(pixels[1:] != pixels[:-1]), bottom - top + 2)
    edges = (left + column) * height + top + row  # a run starts, ends, starts, ...
    # A run that ends at the bottom goes on where the next column starts at the top.
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
    edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    runs = np.diff(np.concatenate([[0], edges, [size[0] * height]]))
    if len(runs) > 1 and not runs[-1]:
        runs = runs[:-1]
    counts: bytes = coco.frPyObjects({"counts": runs, "size": [height, size[0]]}, height, size[0])["counts"]
    return counts.decode("ascii")


def from_rle(counts: str, size: tuple[int, int]) -> MaskedObject:
    """Return the object whose mask `to_rle` encoded. Raises ValueError for a mask without pixels."""
    encoded = {"counts": counts.encode("ascii"), "size": [size[1], size[0]]}
    left, top, width, height = map(int, coco.toBbox(encoded))
    if not width:
        raise ValueError("the mask has no pixels")
    right, bottom = left + width, top + height
    mask = coco.decode(encoded)[top:bottom, left:right].astype(np.bool_)
    return MaskedObject((left, top, right, bottom), mask)


def _object_at(place: Any, regions: NDArray[Any], number: int) -> MaskedObject:
    rows, columns = place
    return MaskedObject((columns.start, rows.start, columns.stop, rows.stop), regions[place] == number)
