"""What all of the pictures are made of."""

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
"""Levels by which a smooth picture may change in a lossy format."""


@dataclass(frozen=True)
class Cell:
    """A file, and what it shows by its format's definition."""

    name: str
    data: bytes
    truth: Samples
    """RGB, float [height, width, 3], levels of 0 to 255, on white."""
    tolerance: float = 1.01


def ramps(channels: int, bits: int) -> Samples:
    """Smooth samples of so many bits [height, width, channels], all channels different."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    each = [x / (WIDTH - 1), y / (HEIGHT - 1), (x + y) / (WIDTH + HEIGHT - 2), (x + 2 * y) % 40 / 39, x % 7 / 6]
    levels: Samples = np.rint(np.dstack(each[:channels]) * (2**bits - 1))
    return levels.astype(np.uint16 if bits > 8 else np.uint8)


def on_white(colours: Samples, alpha: Samples) -> Samples:
    """Colours of 0 to 1 on white, by their alpha of 0 to 1, as levels."""
    levels: Samples = (colours * alpha + 1 - alpha) * 255
    return levels


def shown(samples: Samples, bits: int, photometric: str, extra: str) -> Samples:
    """What TIFF 6.0 says that samples show."""
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
    """A file by Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
