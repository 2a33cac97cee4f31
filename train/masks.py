"""Masks as files: class numbers, or 0 and 255 for two classes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from model.preprocess import MAX_PIXELS, ImageArray, ImageError, read_picture
from model.tasks.segmentation import IGNORED

HALF = 128
FORMATS = ("PNG", "BMP", "GIF", "TIFF", "JPEG", "WEBP", "PPM")


def are_numbers(paths: Iterable[Path]) -> bool:
    """Whether the masks of two classes hold their numbers, 0 and 1, and 255 means: not judged.

    Otherwise they are black and white. One file cannot tell: 0 and 255 may be either.
    """
    with ThreadPoolExecutor() as pool:
        try:
            return any(pool.map(_holds_numbers, paths))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _holds_numbers(path: Path) -> bool:
    try:
        levels = set(np.unique(_levels(path)).tolist())
    except ImageError:
        return False
    return 1 in levels and levels <= {0, 1, IGNORED}


def class_numbers(path: Path, labels: int, black_and_white: bool) -> ImageArray:
    """The classes of a mask, uint8 [H, W]: the grey level, or the index in the palette; 255 is not judged.

    black_and_white: the mask is cut at half into 0 and 1 instead. Raises ImageError.
    """
    mask = _levels(path)
    if black_and_white:
        return (mask >= HALF).astype(np.uint8)
    levels = set(np.unique(mask).tolist())
    strangers = sorted(levels - set(range(labels)) - {IGNORED})
    if strangers:
        raise ImageError(
            f"holds {', '.join(map(str, strangers[:5]))}, expected class numbers below {labels} (or {IGNORED}); "
            "data.labels names the classes"
        )
    return mask


def mask_content(path: Path) -> bytes:
    """The bytes of the file; none where it cannot be read."""
    try:
        return read_picture(path)
    except ImageError:
        return b""


def _levels(path: Path) -> ImageArray:
    data = read_picture(path)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise ImageError(f"not a readable mask; {', '.join(FORMATS)} can be read") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are decoded")
    try:
        grey = image if image.mode in ("L", "P", "1") else image.convert("L")
        return np.asarray(grey).astype(np.uint8)
    except Exception as error:  # a file cut short fails in the decoder
        raise ImageError(f"the mask is broken or cut short ({error})") from error
