"""Sample values, and the cell of the decoder study that holds a file and its true pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[Any]
HEIGHT, WIDTH = 32, 48
LOSSY = 12
"""Allowed difference in levels of a smooth image in a lossy format."""


@dataclass(frozen=True)
class DecoderCase:
    """An image file, and its pixels according to the format's definition."""

    name: str
    data: bytes
    truth: Samples
    """Grey or RGB, float [height, width, 1 or 3], levels of 0 to 255, on white."""
    tolerance: float = 1.01


def ramps(channels: int, bits: int) -> Samples:
    """Create smooth samples of `bits` bits [height, width, channels] with different channels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    patterns = [x / (WIDTH - 1), y / (HEIGHT - 1), (x + y) / (WIDTH + HEIGHT - 2), (x + 2 * y) % 40 / 39, x % 7 / 6]
    levels: Samples = np.rint(np.dstack(patterns[:channels]) * (2**bits - 1))
    return levels.astype(np.uint16 if bits > 8 else np.uint8)


def blend_with_white(colours: Samples, alpha: Samples) -> Samples:
    """Blend colours in 0..1 with white by alpha in 0..1; return levels in 0..255."""
    levels: Samples = (colours * alpha + 1 - alpha) * 255
    return levels
