"""From the bytes of a picture to its upright 8-bit RGB pixels. Stands alone.

Decode (the first frame of an animation), turn as EXIF says, 16 bit to 8, transparency onto white, RGB. Colour
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
"""Pictures with more pixels than this are refused before they are decoded."""
MAX_SOURCE_SIDE = 65_535
"""The longest side a JPEG can have. Resizing a longer line of pixels takes gigabytes, however thin it is."""
MAX_BYTES = 256 * 2**20
"""Files larger than this are refused before they are read."""

# EXIF 2.32, tag 274: how the stored picture must be turned to stand upright.
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
_BAND = 2**20  # pixels that are converted at once, so that what this takes is little beside the picture


def open_picture(data: bytes, most: int = MAX_PIXELS) -> tuple[PictureFile, Image.Image]:
    """A picture's file, and the picture, of which the header alone has been read. Raises ImageError.

    most: the pixels of the largest picture that is taken.
    """
    if not data:
        raise ImageError("the file is empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file has {len(data):,} bytes; at most {MAX_BYTES:,} are read")
    file = picture_file(data)
    image = _open_with_exif(file)
    check_size(*image.size, most)
    return file, image


def check_size(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Refuse a picture with no pixels, or more than are taken, in all or a side. Raises ImageError."""
    if not 0 < width * height <= most or max(width, height) > MAX_SOURCE_SIDE:
        limits = f"{most:,} in all and {MAX_SOURCE_SIDE:,} a side"
        raise ImageError(f"{width:,} x {height:,} pixels; at most {limits} are decoded")


def orientation_of(image: Image.Image) -> int:
    """How EXIF says that the picture must be turned, 1 to 8; 1 where it says nothing."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - a broken EXIF block does not make the picture unusable
        return 1


def decode_picture(file: PictureFile, image: Image.Image, reduction: int = 1) -> Image.Image:
    """The upright RGB picture, so many times smaller than it is stored. `image` may not be used any more.

    Raises ImageError.
    """
    try:
        image = _load_pixels(file, image, reduction)
        rgb = _to_rgb(file, image)
        orientation = orientation_of(image)  # only now: Pillow turns a TIFF itself while it loads, and forgets the tag
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"the {file.format} data is broken or cut short ({error})") from error
    if rgb is not image:
        image.close()  # lets go of its pixels
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _open_with_exif(file: PictureFile) -> Image.Image:
    image = open_header(file)
    for name in ("xmp", "XML:com.adobe.xmp"):  # Pillow would turn the picture as they say
        image.info.pop(name, None)
    if file.exif:
        image.info["exif"] = file.exif
    return image


def _load_pixels(file: PictureFile, image: Image.Image, reduction: int) -> Image.Image:
    """The picture with its pixels."""
    if file.format == "JPEG" and (whole := with_end_marker(file.data)) is not file.data:
        image = _open_with_exif(dataclasses.replace(file, data=whole))
    image.seek(0)
    if reduction > 1:
        image.draft(None, (image.width // reduction, image.height // reduction))
    image.load()
    return image


def _to_rgb(file: PictureFile, image: Image.Image) -> Image.Image:
    """8-bit RGB, on white. Modes that begin with I are grey with 16 bits."""
    if not (image.has_transparency_data or image.mode.startswith("I")):
        return image if image.mode == "RGB" else image.convert("RGB")
    rgb, rows = Image.new("RGB", image.size), max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = (0, top, image.width, min(top + rows, image.height))
        part = image.crop(band)
        rgb.paste(_from_16_bit(part, file) if image.mode.startswith("I") else _on_white(part), band)
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")


def _from_16_bit(image: Image.Image, file: PictureFile) -> Image.Image:
    """Grey with 16 bits a pixel, which Pillow would clip to white instead of scaling."""
    levels: NDArray[Any] = np.asarray(image).astype(np.int64)
    if file.inverted:
        levels = 65535 - levels
    if file.transparent_level is not None:
        levels[levels == file.transparent_level] = 65535
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
