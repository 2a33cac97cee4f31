"""Sample values, and the cell of the decoder study that holds a file and its true pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Samples: TypeAlias = NDArray[Any]
HEIGHT, WIDTH = 32, 48
LOSSY = 12
"""Allowed difference in levels of a smooth image in a lossy format."""


@dataclass(frozen=True)
class Cell:
    """An image file, and its pixels according to the format's definition."""

    name: str
    data: bytes
    truth: Samples
    """RGB, float [height, width, 3], levels of 0 to 255, on white."""
    tolerance: float = 1.01


def ramps(channels: int, bits: int) -> Samples:
    """Create smooth samples of `bits` bits [height, width, channels] with different channels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    each = [x / (WIDTH - 1), y / (HEIGHT - 1), (x + y) / (WIDTH + HEIGHT - 2), (x + 2 * y) % 40 / 39, x % 7 / 6]
    levels: Samples = np.rint(np.dstack(each[:channels]) * (2**bits - 1))
    return levels.astype(np.uint16 if bits > 8 else np.uint8)


def on_white(colours: Samples, alpha: Samples) -> Samples:
    """Blend colours in 0..1 with white by alpha in 0..1; return levels in 0..255."""
    levels: Samples = (colours * alpha + 1 - alpha) * 255
    return levels


def shown(samples: Samples, bits: int, photometric: str, extra: str) -> Samples:
    """Return the pixels that TIFF 6.0 defines for samples."""
    values = samples.astype(float) / (2**bits - 1)
    colours = {"rgb": 3, "separated": 4}.get(photometric, 1)
    first: Samples = values[..., :colours]
    if photometric == "separated":
        first = (1 - first[..., :3]) * (1 - first[..., 3:])
    elif photometric != "rgb":
        first = np.dstack([1 - first if photometric == "miniswhite" else first] * 3)
    if extra == "unassalpha":
        return on_white(first, values[..., colours:])
    if extra == "assocalpha":
        first = first + 1 - values[..., colours:]
    return first * 255


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode an image with Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
