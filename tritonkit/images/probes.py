"""Synthetic images that photographs do not cover: flat, noisy, high contrast, very dark and very bright."""

from __future__ import annotations

import numpy as np

from tritonkit.images.preprocess import ImageArray

_FLAT = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
}
_DARK, _BRIGHT = (2, 5, 9, 20), (205, 225, 245)
"""Mean pixel values of the darkened and brightened images."""
_SQUARE = 4
"""Side of a checkerboard square, in pixels."""


def probes_of(images: ImageArray) -> dict[str, ImageArray]:
    """Return the probes for a sample, uint8 [H, W, 3] each, by name. Equal samples give equal probes.

    images: uint8 [N, H, W, 3]; dark, bright and high-contrast probes are made from them.
    """
    shape = images.shape[1:]
    probes = {name: np.broadcast_to(np.array(colour, np.uint8), shape) for name, colour in _FLAT.items()}
    # NumPy guarantees the numbers of RandomState; those of a Generator may change with its version.
    probes["noise"] = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    squares = np.add.outer(np.arange(shape[0]) // _SQUARE, np.arange(shape[1]) // _SQUARE) % 2
    probes["a checkerboard"] = np.broadcast_to((255 * squares).astype(np.uint8)[..., None], shape)
    pictures = iter(np.resize(np.arange(len(images)), len(_DARK) + len(_BRIGHT) + 2))
    for level in (*_DARK, *_BRIGHT):
        number = int(next(pictures))
        values, mean = images[number].astype(np.float64), float(images[number].mean())
        if level < 128:  # an image already beyond the level is not changed
            values *= min(1.0, level / max(mean, 1e-9))
        else:
            values = 255 - (255 - values) * min(1.0, (255 - level) / max(255 - mean, 1e-9))
        probes[f"image {number + 1} at a mean of {level}"] = values.astype(np.uint8)
    number = int(next(pictures))
    harsh = np.clip((images[number].astype(np.float32) - 128) * 3 + 128, 0, 255)
    probes[f"image {number + 1} at three times the contrast"] = harsh.astype(np.uint8)
    number = int(next(pictures))
    probes[f"the negative of image {number + 1}"] = 255 - images[number]
    return probes
