"""An image to answer: its name, and how to read it."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path, PurePath

from PIL import Image

from tritonkit.images.preprocess import (
    Geometry,
    ImageArray,
    Preprocess,
    Room,
    decode_image,
    fit_image,
    load_image,
    read_picture,
)
from tritonkit.system.files import as_unicode


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a job."""

    name: str
    """Path or address as rows show it, in valid Unicode. It is unique in a job."""
    relative_path: PurePath
    """Path below the searched folder, without `..`. Files made from the image get the same relative path."""
    content: Callable[[], bytes | Image.Image]
    """Returns encoded bytes, or an RGB image such as a video frame. Called from several threads. Raises ImageError."""

    def load(self, preprocess: Preprocess, pixel_budget: Room = nullcontext) -> tuple[ImageArray, Geometry]:
        """Decode and preprocess the image, as `tritonkit.images.preprocess.load_image` does. Raises ImageError."""
        content = self.content()
        return (
            load_image(content, preprocess, pixel_budget)
            if isinstance(content, bytes)
            else fit_image(content, preprocess)
        )

    def encoded(self) -> bytes:
        """Return the bytes of an image file; of pixels such as a video frame, a PNG. Raises ImageError."""
        content = self.content()
        if isinstance(content, bytes):
            return content
        file = io.BytesIO()
        content.save(file, "PNG", compress_level=1)
        return file.getvalue()

    def decode(self) -> Image.Image:
        """Decode the upright RGB image at its own size. Raises ImageError."""
        content = self.content()
        return decode_image(content) if isinstance(content, bytes) else content


def picture_of_file(path: Path, relative_path: PurePath) -> Picture:
    """Return a Picture of a file; the file is read when its content is needed."""
    return Picture(as_unicode(path), relative_path, partial(read_picture, path))


def name_digest(name: str) -> bytes:
    """Return 16 bytes for a name, so that a set of a million names stays small."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
