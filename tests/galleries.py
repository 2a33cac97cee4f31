"""Labelled pictures for search models: classes of noise in one hue each, so that a random network tells them apart."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tritonkit.images.preprocess import ImageArray

HUES = 12
EMBEDDING_SIZE = 16


def pixels(hue: int, number: int) -> ImageArray:
    """A picture of a class, uint8 [32, 32, 3]: stripes and noise in its hue."""
    rng = np.random.default_rng([hue, number])
    red, green, blue = colorsys.hsv_to_rgb(hue / HUES, 0.9, 0.8)
    stripes = 0.6 + 0.4 * np.sin(np.arange(32) * (1 + hue) / 3)[:, None, None]
    noise = rng.integers(-20, 20, (32, 32, 3))
    image: ImageArray = (np.array([red, green, blue]) * 255 * stripes + noise).clip(0, 255).astype(np.uint8)
    return image


def write_classes(folder: Path, hues: Iterable[int], numbers: Iterable[int]) -> Path:
    """Write a folder of class folders `hue<N>/<number>.png`."""
    for hue in hues:
        (folder / f"hue{hue}").mkdir(parents=True, exist_ok=True)
        for number in numbers:
            Image.fromarray(pixels(hue, number)).save(folder / f"hue{hue}" / f"{number}.png")
    return folder
