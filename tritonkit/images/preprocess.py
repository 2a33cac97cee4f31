"""Preprocessing: from the bytes of an image to the uint8 array of a model, and back to positions in the image.

This is the only implementation: training, evaluation, the client and server-side decoding all call `load_image`. It
imports only Pillow, numpy and the files next to it, so that they can be copied to a server.

Steps: decode, rotate upright, RGB (`picture_decoding.py`), then crop, pad or squash to the model's size with Pillow's
antialiased resize. A JPEG that will become much smaller is decoded at a half, a quarter or an eighth of its size,
where hardly any level changes by more than 2 (`_LEAST_LEFT`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .picture_decoding import MAX_BYTES as MAX_BYTES
from .picture_decoding import MAX_PIXELS as MAX_PIXELS
from .picture_decoding import check_pixel_count as check_pixel_count
from .picture_decoding import decode_picture, open_picture, orientation_of
from .picture_file import ImageError as ImageError
from .picture_formats import FORMATS as FORMATS
from .picture_formats import SUFFIXES as SUFFIXES

MAX_SIDE = 8192
"""The largest height or width of a model's input."""

ImageArray: TypeAlias = NDArray[np.uint8]
Room: TypeAlias = Callable[[int], AbstractContextManager[Any]]
"""Waits until memory for a number of pixels is free, and reserves it for the block (`PixelBudget`)."""
Box: TypeAlias = tuple[float, float, float, float]
Fit: TypeAlias = Literal["crop", "pad", "squash"]
Number = TypeVar("Number", bound=np.integer[Any])
Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_RESAMPLE = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}
_LEAST_LEFT = 7
"""Minimum factor that remains for the resize after reduced decoding. On 40 photographs and drawings, decoding at half
the size changed levels by at most 2 with a remaining factor of 7, by 6 with 5, and by 17 with 2. An image of
24 megapixels then takes half the time."""


@dataclass(frozen=True)
class Preprocess:
    """How an image is fitted to `height` x `width`.

    fit: `crop` keeps the centre, `crop_ratio` of the largest box with the same aspect ratio; `pad` keeps the whole
    image and fills the rest with `fill` (letterbox); `squash` keeps the whole image and changes its aspect ratio.
    """

    height: int
    width: int
    fit: Fit = "crop"
    crop_ratio: float = 1.0
    interpolation: Interpolation = "bilinear"
    fill: tuple[int, int, int] = (0, 0, 0)

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        # Pydantic checks these two, but this file is also used without it.
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit: expected one of {', '.join(get_args(Fit))}, got {self.fit!r}")
        if self.interpolation not in _RESAMPLE:
            raise ValueError(f"interpolation: expected one of {', '.join(_RESAMPLE)}, got {self.interpolation!r}")
        for side in (self.height, self.width):
            if not 1 <= side <= MAX_SIDE:
                raise ValueError(f"height and width: expected 1 to {MAX_SIDE}, got {side}")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio: expected more than 0 and at most 1, got {self.crop_ratio}")
        if not all(0 <= level <= 255 for level in self.fill):
            raise ValueError(f"fill: expected levels of 0 to 255, got {self.fill}")


@dataclass(frozen=True)
class Geometry:
    """Maps a box of the upright image to a box of the model's input, both (left, top, right, bottom)."""

    source_size: tuple[int, int]
    """Width and height of the upright image."""
    source_box: Box
    target_box: Box

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the model's input to the upright image, in pixels."""
        source, target = self.source_box, self.target_box
        return (
            source[0] + (x - target[0]) * (source[2] - source[0]) / (target[2] - target[0]),
            source[1] + (y - target[1]) * (source[3] - source[1]) / (target[3] - target[1]),
        )

    def mask_to_source(self, mask: NDArray[Number]) -> NDArray[Number]:
        """Resize integers [h, w] of the model's input, such as class numbers, to the size of the upright image, [H, W].

        Each pixel gets the value at its centre; pixels outside the model's input are 0, the background.
        """
        width, height = self.source_size
        columns = _nearest(width, self.source_box[0::2], self.target_box[0::2])
        rows = _nearest(height, self.source_box[1::2], self.target_box[1::2])
        fitted: NDArray[Number] = np.pad(mask, ((0, 1), (0, 1)))[np.ix_(rows, columns)]
        return fitted


def _nearest(length: int, source: tuple[float, ...], target: tuple[float, ...]) -> NDArray[np.int64]:
    """Return for each pixel along a side of the image the input's pixel at its centre; -1, a border of 0, for none."""
    centres = np.arange(length) + 0.5
    mapped = target[0] + (centres - source[0]) * (target[1] - target[0]) / (source[1] - source[0])
    is_visible = (centres >= source[0]) & (centres <= source[1])
    pixels = np.minimum(np.floor(mapped), target[1] - 1).astype(np.int64)
    return np.where(is_visible, pixels, -1)


def load_file(path: Path, preprocess: Preprocess) -> tuple[ImageArray, Geometry]:
    """Read a file and call `load_image`. Raises ImageError."""
    return load_image(read_picture(path), preprocess)


def read_picture(path: Path) -> bytes:
    """Read a file after a check of its size. Raises ImageError."""
    try:
        if not path.is_file():
            raise ImageError("no such file", code="image.not_found")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ImageError(f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read", code="image.file_size")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})", code="image.unreadable") from error


def load_image(
    data: bytes, preprocess: Preprocess, reserve: Room = nullcontext, max_pixels: int = MAX_PIXELS
) -> tuple[ImageArray, Geometry]:
    """Decode the bytes of an image and fit it to the model's size.

    reserve: called with the number of pixels before decoding. max_pixels: of the largest image that is read.
    Returns uint8 RGB [height, width, 3] and the geometry. Raises ImageError.
    """
    file, image = open_picture(data, max_pixels)
    reduction = _reduction(image, preprocess)
    # The second term is the first pass of the resize.
    with reserve(image.width * image.height + preprocess.width * max(image.size)), closing(image):
        return fit_image(decode_picture(file, image, reduction), preprocess, reduction)


def decode_image(data: bytes) -> Image.Image:
    """Decode bytes to an upright 8-bit RGB image. Raises ImageError."""
    return decode_picture(*open_picture(data))


def fit_image(image: Image.Image, preprocess: Preprocess, reduction: int = 1) -> tuple[ImageArray, Geometry]:
    """Crop, pad or squash an RGB image to uint8 [height, width, 3].

    reduction: factor by which the decoder reduced both sides.
    """
    size = image.width * reduction, image.height * reduction
    box, (left, top, width, height) = layout(*size, preprocess)
    part = [side / reduction for side in box]
    resized = image.resize(
        (width, height), _RESAMPLE[preprocess.interpolation], box=(part[0], part[1], part[2], part[3])
    )
    if (width, height) != (preprocess.width, preprocess.height):
        canvas = Image.new("RGB", (preprocess.width, preprocess.height), preprocess.fill)
        canvas.paste(resized, (left, top))
        resized = canvas
    target = (float(left), float(top), float(left + width), float(top + height))
    return np.array(resized, dtype=np.uint8), Geometry(size, box, target)


def _reduction(image: Image.Image, preprocess: Preprocess) -> int:
    """Return the factor by which the JPEG decoder can reduce an image: 1, 2, 4 or 8.

    Sides that the factor does not divide would shift by part of a pixel; `nearest` would select other pixels.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or preprocess.interpolation == "nearest":
        return 1
    size = image.size[::-1] if orientation_of(image) >= 5 else image.size  # these swap width and height
    box, (_, _, width, height) = layout(*size, preprocess)
    scale = min((box[2] - box[0]) / width, (box[3] - box[1]) / height)
    factors = (by for by in (8, 4, 2) if scale >= by * _LEAST_LEFT and not size[0] % by and not size[1] % by)
    return next(factors, 1)


def layout(width: int, height: int, preprocess: Preprocess) -> tuple[Box, tuple[int, int, int, int]]:
    """Return the box of the source image, and its position in the input as (left, top, width, height)."""
    if preprocess.fit == "squash":
        return (0.0, 0.0, float(width), float(height)), (0, 0, preprocess.width, preprocess.height)
    if preprocess.fit == "pad":
        scale = min(preprocess.width / width, preprocess.height / height)
        inner_width = max(1, min(preprocess.width, round(width * scale)))
        inner_height = max(1, min(preprocess.height, round(height * scale)))
        left, top = (preprocess.width - inner_width) // 2, (preprocess.height - inner_height) // 2
        return (0.0, 0.0, float(width), float(height)), (left, top, inner_width, inner_height)
    scale = min(width / preprocess.width, height / preprocess.height) * preprocess.crop_ratio
    box_width, box_height = preprocess.width * scale, preprocess.height * scale
    x, y = (width - box_width) / 2, (height - box_height) / 2
    # Rounding must not extend the box past the image: Pillow refuses it.
    box = (max(0.0, x), max(0.0, y), min(float(width), x + box_width), min(float(height), y + box_height))
    return box, (0, 0, preprocess.width, preprocess.height)
