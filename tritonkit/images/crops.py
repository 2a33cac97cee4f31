"""Crops: objects cut out of their image, for training and at serving by the same code.

It imports only numpy and Pillow, so that it can be copied to a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Background: TypeAlias = Literal["keep", "remove"]
PixelBox: TypeAlias = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of the upright image; right and bottom are exclusive."""


@dataclass(frozen=True)
class CropSettings:
    """Which regions of a mask are objects, and how an object is cut out of its image.

    margin: share of the box's width and height that is added on each side, inside the image. background: `remove` sets
    the pixels outside the object's mask to `fill`. min_share: regions with a smaller share of the mask's pixels are no
    objects.
    """

    margin: float = 0.1
    background: Background = "keep"
    fill: tuple[int, int, int] = (255, 255, 255)
    min_share: float = 0.0005

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        # Pydantic checks the types, but this file is also used without it.
        if self.background not in get_args(Background):
            raise ValueError(f"background: expected keep or remove, got {self.background!r}")
        if not 0 <= self.margin <= 2:
            raise ValueError(f"margin: expected 0 to 2, got {self.margin}")
        if not 0 <= self.min_share < 1:
            raise ValueError(f"min_share: expected at least 0 and less than 1, got {self.min_share}")
        if not all(0 <= level <= 255 for level in self.fill):
            raise ValueError(f"fill: expected levels of 0 to 255, got {self.fill}")


@dataclass(frozen=True)
class MaskedObject:
    """An object in the upright image. mask: bool [bottom - top, right - left], its pixels inside the box."""

    box: PixelBox
    mask: NDArray[np.bool_]


def crop_object(image: Image.Image, found: MaskedObject, settings: CropSettings) -> Image.Image:
    """Cut an object out of its upright RGB image: the box with its margin, as far as it is inside the image."""
    left, top, right, bottom = found.box
    x, y = round(settings.margin * (right - left)), round(settings.margin * (bottom - top))
    outer = max(0, left - x), max(0, top - y), min(image.width, right + x), min(image.height, bottom + y)
    if settings.background == "keep":
        return image.crop(outer)
    crop = Image.new("RGB", (outer[2] - outer[0], outer[3] - outer[1]), settings.fill)
    mask = Image.fromarray(found.mask.astype(np.uint8) * 255)
    crop.paste(image.crop(found.box), (left - outer[0], top - outer[1]), mask)
    return crop
