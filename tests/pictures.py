"""Pictures as the bytes of a file, and the pixels that our decoder reads from them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from client.picture import Picture
from tritonkit.images.preprocess import ImageArray, ImageError, decode_image

ORIENTATION = 274
"""The number of EXIF's tag."""


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> ImageArray:
    return np.asarray(decode_image(data))


def png(level: int = 0) -> bytes:
    """A small picture in one shade of red."""
    return encoded(Image.new("RGB", (8, 6), (level, 0, 0)))


def content_or_error(picture: Picture) -> bytes | str:
    """Return the content of a file that the client was given, or the error message."""
    try:
        content = picture.content()
    except ImageError as error:
        return str(error)
    assert isinstance(content, bytes)
    return content


def turned(orientation: int = 6) -> Image.Exif:
    """EXIF that says how the stored picture must be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif
