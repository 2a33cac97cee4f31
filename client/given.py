"""What the client for Python can be given as a picture."""

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
from model.errors import InputError
from model.preprocess import ImageError, check_size

Input: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A file, the bytes of one, a Pillow picture, or uint8 RGB [H, W, 3]."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def picture_given(given: Any, number: int) -> Picture:
    """The picture, under its file's name or its number among those that were given. Raises InputError."""
    match given:
        case str() if _ADDRESS.match(given):
            raise InputError(
                f"picture {number} is an address, and Client takes a file, bytes, a Pillow picture or uint8 [H, W, 3]: "
                "fetch it yourself and give its bytes, or use `client infer`, which fetches addresses"
            )
        case str() | os.PathLike():
            path = Path(given)
            return picture_of_file(path, PurePath(path.name))
        case bytes():
            return Picture(f"#{number}", PurePath(str(number)), lambda: given)
        case Image.Image():
            return Picture(f"#{number}", PurePath(str(number)), partial(_encoded, given))
        case np.ndarray():
            return Picture(f"#{number}", PurePath(str(number)), partial(_from_array, given))
    raise InputError(
        f"picture {number}: expected a file, bytes, a Pillow picture or uint8 [H, W, 3], got {type(given).__name__}"
    )


def _encoded(image: Image.Image) -> bytes:
    """A Pillow picture as a file without loss, so that transparency, 16 bits and EXIF are read as in any file."""
    buffer = io.BytesIO()
    try:
        _for_png(image).save(buffer, "PNG", compress_level=0, exif=image.getexif())
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"a picture of mode {image.mode} cannot be used ({error})") from error
    return buffer.getvalue()


def _for_png(image: Image.Image) -> Image.Image:
    """The picture in a mode that a PNG can have. Raises ImageError."""
    if image.mode in _PNG_MODES:
        return image
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range; convert it to 8 or 16 bits a channel")
    if not image.mode.startswith("I"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError("grey levels outside 0..65535; convert it to 8 or 16 bits a channel")
    return Image.fromarray(levels.astype(np.uint16))


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise ImageError(f"expected uint8 [H, W, 3], got {array.dtype} {list(array.shape)}")
    check_size(array.shape[1], array.shape[0])
    return Image.fromarray(array)
