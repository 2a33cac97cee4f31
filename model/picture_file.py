"""A picture's file as Pillow is to read it, and the error of one that cannot be used. Stands alone."""

from __future__ import annotations

from dataclasses import dataclass


class ImageError(ValueError):
    """A picture that cannot be used; the message says why."""


@dataclass(frozen=True)
class PictureFile:
    """The bytes that Pillow decodes, and what it does not know of them."""

    format: str
    """Pillow's name of the decoder."""
    data: bytes
    """Without what the pixels do not need, where that could make Pillow refuse the file."""
    exif: bytes = b""
    """The EXIF block that was taken out of the bytes; in other formats Pillow finds it."""
    inverted: bool = False
    """Whether white is 0."""
    transparent_level: int | None = None
    """The level of grey that is transparent, where pixels have 16 bits."""


def unsupported_error(what: str) -> ImageError:
    """The error of a whole kind of files that is not read."""
    return ImageError(f"{what} is not read; save it as PNG or JPEG")
