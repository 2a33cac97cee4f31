"""An image file prepared for Pillow, and the error of an image that cannot be read. Needs only the standard library."""

from __future__ import annotations

from dataclasses import dataclass


class ImageError(ValueError):
    """An image cannot be read; the message says why. `code` is stable, such as `image.truncated`."""

    code: str = "image.unreadable"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code


@dataclass(frozen=True)
class PictureFile:
    """The bytes for Pillow's decoder, and properties of the image that Pillow does not find in them."""

    format: str
    """Pillow's name of the format."""
    data: bytes
    """The file, without metadata that could make Pillow refuse it."""
    exif: bytes = b""
    """The EXIF block, if it was removed from `data`; otherwise Pillow finds it."""
    inverted: bool = False
    """Whether 0 is white."""
    transparent_level: int | None = None
    """The grey level of transparent pixels, for images with 16 bits per pixel."""


def unsupported_error(variant: str) -> ImageError:
    """Create the error for an unsupported format or variant."""
    return ImageError(f"{variant} is not supported; save it as PNG or JPEG", code="image.unsupported_format")
