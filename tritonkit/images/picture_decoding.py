"""Decodes the bytes of an image to upright 8-bit RGB pixels. Imports only Pillow, numpy and the files next to it.

Steps: decode (the first frame of an animation), rotate by EXIF, 16 to 8 bits, transparency onto white, RGB. Colour
profiles are not applied, as in torchvision and timm.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .jpeg_file import with_end_marker
from .picture_file import ImageError, PictureFile
from .picture_formats import open_header, picture_file

MAX_PIXELS = 100_000_000
"""Images with more pixels are refused before they are decoded."""
MAX_SOURCE_SIDE = 65_535
"""The longest side of a JPEG. Resizing a longer line of pixels would take gigabytes."""
MAX_BYTES = 256 * 2**20
"""Larger files are refused before they are read."""

# EXIF 2.32, tag 274: how to rotate the stored image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 274
_BAND = 2**20  # pixels that are converted at once, so that the conversion needs little memory


def open_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[PictureFile, Image.Image]:
    """Read the header of an image. Returns the prepared file and Pillow's image, not decoded. Raises ImageError.

    max_pixels: of the largest image that is read.
    """
    if not data:
        raise ImageError("the file is empty", code="image.empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file has {len(data):,} bytes; at most {MAX_BYTES:,} are read", code="image.file_size")
    file = picture_file(data)
    image = _open_with_exif(file)
    check_pixel_count(*image.size, max_pixels)
    return file, image


def check_pixel_count(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Check the number of pixels, in total and per side. Raises ImageError."""
    if not 0 < width * height <= max_pixels or max(width, height) > MAX_SOURCE_SIDE:
        limits = f"{max_pixels:,} in total and {MAX_SOURCE_SIDE:,} per side"
        raise ImageError(f"{width:,} x {height:,} pixels; at most {limits} are decoded", code="image.pixels")


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 without EXIF."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - an image with a broken EXIF block is still usable
        return 1


def decode_picture(file: PictureFile, image: Image.Image, reduction: int = 1) -> Image.Image:
    """Decode an upright RGB image. `image` cannot be used any more. Raises ImageError.

    reduction: factor by which the JPEG decoder reduces both sides.
    """
    try:
        if file.format == "JPEG" and (complete := with_end_marker(file.data)) is not file.data:
            image = _open_with_exif(dataclasses.replace(file, data=complete))
        image.seek(0)
        if reduction > 1:
            image.draft(None, (image.width // reduction, image.height // reduction))
        image.load()
        rgb = _to_rgb(file, image)
        orientation = orientation_of(image)  # after loading: Pillow rotates a TIFF itself and removes the tag
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"the {file.format} data is broken or cut short ({error})", code="image.truncated") from error
    if rgb is not image:
        image.close()  # frees its pixels
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _open_with_exif(file: PictureFile) -> Image.Image:
    image = open_header(file)
    for name in ("xmp", "XML:com.adobe.xmp"):  # Pillow would also rotate by these
        image.info.pop(name, None)
    if file.exif:
        image.info["exif"] = file.exif
    return image


def _to_rgb(file: PictureFile, image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB on white. Modes that begin with I are grey with 16 bits."""
    if not (image.has_transparency_data or image.mode.startswith("I")):
        return image if image.mode == "RGB" else image.convert("RGB")
    rgb, rows = Image.new("RGB", image.size), max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = (0, top, image.width, min(top + rows, image.height))
        part = image.crop(band)
        if image.mode.startswith("I"):  # Pillow would clip 16 bits to white
            levels: NDArray[Any] = np.asarray(part).astype(np.int64)
            if file.inverted:
                levels = 65535 - levels
            if file.transparent_level is not None:
                levels[levels == file.transparent_level] = 65535
            part = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
        else:
            rgba = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
            part = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
        rgb.paste(part.convert("RGB"), band)
    return rgb
