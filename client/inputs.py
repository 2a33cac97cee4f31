"""Convert the inputs of the Python client to pictures."""

from __future__ import annotations

import io
import os
import re
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.picture import Picture, picture_of_file
from tritonkit.errors import InputError
from tritonkit.images.preprocess import ImageError, check_pixel_count

Input: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path, the bytes of an image file, a Pillow image, or a uint8 RGB array [H, W, 3]."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def picture_from_input(source: Any, index: int) -> Picture:
    """Return the input as a Picture, named by its file or by its index. Raises InputError."""
    match source:
        case str() if _ADDRESS.match(source):
            raise InputError(
                f"image {index}: expected a path, bytes, a Pillow image or uint8 [H, W, 3], got an address; "
                "download it and pass its bytes, or use `client infer`, which fetches addresses",
                code="image.address",
            )
        case str() | os.PathLike():
            path = Path(source)
            return picture_of_file(path, PurePath(path.name))
        case bytes():
            return Picture(f"#{index}", PurePath(str(index)), lambda: source)
        case Image.Image():
            return Picture(f"#{index}", PurePath(str(index)), partial(_png_bytes, source))
        case np.ndarray():
            return Picture(f"#{index}", PurePath(str(index)), partial(_image_from_array, source))
    raise InputError(
        f"image {index}: expected a path, bytes, a Pillow image or uint8 [H, W, 3], got {type(source).__name__}",
        code="image.type",
    )


def _png_bytes(image: Image.Image) -> bytes:
    """Encode a Pillow image without loss, so that transparency, 16 bits and EXIF are handled as in a file."""
    buffer = io.BytesIO()
    try:
        _in_png_mode(image).save(buffer, "PNG", compress_level=0, exif=image.getexif())
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"an image of mode {image.mode} cannot be converted ({error})") from error
    return buffer.getvalue()


def _in_png_mode(image: Image.Image) -> Image.Image:
    """Convert an image to a mode that PNG supports. Raises ImageError."""
    if image.mode in _PNG_MODES:
        return image
    if image.mode == "F":
        raise ImageError("floating-point pixels have no standard range; convert the image to 8 or 16 bits per channel")
    if not image.mode.startswith("I"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError("grey levels outside 0..65535; convert the image to 8 or 16 bits per channel")
    return Image.fromarray(levels.astype(np.uint16))


def _image_from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise ImageError(f"expected uint8 [H, W, 3], got {array.dtype} {list(array.shape)}")
    check_pixel_count(array.shape[1], array.shape[0])
    return Image.fromarray(array)
