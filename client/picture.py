"""A picture to be answered: what it is called, and how to get at it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from PIL import Image

from model.preprocess import Geometry, ImageArray, Preprocess, Room, decode_image, fit_image, load_image, read_picture


@dataclass(frozen=True, slots=True)
class Picture:
    """One of the pictures of a job."""

    name: str
    """Path or address as rows tell it, in valid Unicode. It stands for the picture: no job has two of one name."""
    place: PurePath
    """Where it lies below what was searched, relative and without `..`; files made of it lie there too."""
    content: Callable[[], bytes | Image.Image]
    """Encoded bytes, or an RGB picture such as a video's frame; called from several threads. Raises ImageError."""

    def load(self, how: Preprocess, room: Room = nullcontext) -> tuple[ImageArray, Geometry]:
        """As `model.preprocess.load_image`. Raises ImageError."""
        content = self.content()
        return load_image(content, how, room) if isinstance(content, bytes) else fit_image(content, how)

    def whole(self) -> Image.Image:
        """The upright RGB picture at its own size. Raises ImageError."""
        content = self.content()
        return decode_image(content) if isinstance(content, bytes) else content


def picture_of_file(path: Path, place: PurePath) -> Picture:
    """A picture in a file, which is read when it is its turn."""
    return Picture(as_text(path), place, partial(read_picture, path))


def as_text(path: PurePath | str) -> str:
    """A path in valid Unicode, which JSON must be and a file name need not."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
