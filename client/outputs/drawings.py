"""Draw masks: the mask itself, the mask over the image, and the image cut out.

The threads that finish answers draw them one file after the other, so that no mask waits in memory.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from client.infer import Row
from client.picture import Picture, name_digest
from tritonkit.errors import InputError
from tritonkit.images.picture_files import pictures_below
from tritonkit.images.preprocess import ImageError, decode_image, read_picture
from tritonkit.pages.contact_sheet import draw_objects, foreground, overlay, paletted, thumbnail
from tritonkit.system.files import as_unicode, atomic_write, check_can_write
from tritonkit.tasks import Answer

SUFFIX = ".png"
_COMPRESSION = 1
"""A higher level makes a photograph 10 % smaller and takes four times as long."""


@dataclass(frozen=True)
class MaskedImage:
    """An answered image with its mask, class numbers uint8 [H, W]."""

    source: Picture
    mask: NDArray[np.uint8]
    objects: Sequence[Mapping[str, Any]] = ()
    """The objects of the answer, whose boxes and labels are drawn too."""
    labels: Sequence[str] = ()
    """Of the model, for objects."""

    @cached_property
    def picture(self) -> Image.Image:
        """The upright RGB image, decoded on first access. Raises ImageError."""
        picture = self.source.decode()
        if (picture.height, picture.width) != self.mask.shape:
            raise ImageError("the file was changed while it was being answered")
        return picture


Draw: TypeAlias = Callable[[MaskedImage], Image.Image]


def draw_mask(masked_image: MaskedImage) -> Image.Image:
    """Draw the class numbers with a palette."""
    return paletted(masked_image.mask)


def draw_overlay(masked_image: MaskedImage) -> Image.Image:
    """Draw the image with its regions half covered by their colours, and boxes with labels around objects."""
    drawn = overlay(masked_image.picture, masked_image.mask)
    return draw_objects(drawn, masked_image.objects, masked_image.labels) if masked_image.objects else drawn


def cutout_on(background: str) -> Draw:
    """Return a function that draws all but class 0 of an image on a colour, or on another image of the same size.

    background: a colour name, `#rrggbb`, or an image file. Raises InputError for anything else.
    """
    background_layer = _parse_background(background)

    def draw(masked_image: MaskedImage) -> Image.Image:
        size = masked_image.picture.size
        layer = (
            Image.new("RGB", size, background_layer)
            if isinstance(background_layer, tuple)
            else ImageOps.fit(background_layer, size)
        )
        return Image.composite(masked_image.picture, layer, foreground(masked_image.mask))

    return draw


def _parse_background(text: str) -> tuple[int, ...] | Image.Image:
    try:
        if len(colour := ImageColor.getrgb(text)) == 3:
            return colour
        raise InputError(
            f"--background {text}: the colour is transparent; expected the form #rrggbb", code="background.transparent"
        )
    except ValueError:
        pass  # not a colour, so it is a file
    if not Path(text).is_file():
        raise InputError(
            f"--background {text}: expected a colour, such as white or #00ff00, or an image file",
            code="background.unknown",
        )
    try:
        return decode_image(read_picture(Path(text)))
    except ImageError as error:
        raise InputError(f"--background {text}: {error}", code="background.unreadable") from error


@dataclass(frozen=True)
class Drawings:
    """The drawings of a job and their folders."""

    draws: Mapping[str, Draw] = field(default_factory=dict)
    """By the row key that names the drawn file."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """By row key. A drawing has the relative path of its image in this folder."""
    thumbnail_names: Container[str] = frozenset()
    """Names of the images that the contact sheet shows."""

    def finish(self, picture: Picture, answer: Answer) -> Row:
        """Draw one answered image; the row names the files and drops the mask.

        An image that can no longer be read gives a row with an error. Raises OSError if a file cannot be written,
        InputError if it would replace an image.
        """
        masked_image = None
        if answer.mask is not None:
            masked_image = MaskedImage(picture, answer.mask, answer.fields.get("objects", ()), labels_of(answer))
        written, image_data = {}, None
        if masked_image is not None:
            try:
                for key, draw in self.draws.items():
                    path = self.folders[key] / picture.relative_path.with_suffix(SUFFIX)
                    _check_not_source_folder(path, picture)
                    with atomic_write(path) as partial_path:
                        draw(masked_image).save(partial_path, "PNG", compress_level=_COMPRESSION)
                    written[key] = as_unicode(path)
            except ImageError as error:
                return Row(picture.name, error=str(error))
        if picture.name in self.thumbnail_names:
            with suppress(ImageError):
                image_data = thumbnail(picture.decode() if masked_image is None else draw_overlay(masked_image))
        return Row(picture.name, replace(answer, fields=answer.fields | written, mask=None), thumbnail=image_data)


def labels_of(answer: Answer) -> Sequence[str]:
    """Return the labels of the model that found objects: its answers count each of them. Empty for other answers."""
    return tuple(answer.fields.get("counts", ()))


def with_unique_paths(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Yield the pictures with relative paths that differ in more than the suffix; repeated paths get a number."""
    used_keys = set[bytes]()
    last_numbers: dict[bytes, int] = {}
    """The last number of each path that occurred more than once."""
    for picture in pictures:
        unique_path = relative_path = picture.relative_path.with_suffix(SUFFIX)
        if (key := name_digest(str(relative_path))) in used_keys:
            numbers = itertools.count(last_numbers.get(key, 1) + 1)
            numbered = ((number, relative_path.with_stem(f"{relative_path.stem}-{number}")) for number in numbers)
            last_numbers[key], unique_path = next(
                (number, candidate) for number, candidate in numbered if name_digest(str(candidate)) not in used_keys
            )
        used_keys.add(name_digest(str(unique_path)))
        yield replace(picture, relative_path=unique_path)


def _check_not_source_folder(path: Path, picture: Picture) -> None:
    """Refuse to draw into the folder of the source image. Images of globs, lists and CSVs are known only now."""
    if not os.path.exists(picture.name):  # noqa: PTH110 - false also for an invalid path
        return
    source_path = Path(picture.name)
    if path.parent.resolve() == source_path.parent.resolve() or (path.exists() and path.samefile(source_path)):
        raise InputError(
            f"{path.parent}: contains images to answer, such as {source_path}; choose another folder",
            code="drawing.input_folder",
        )


def check_folders(folders: Mapping[str, Path], inputs: Sequence[str]) -> None:
    """Refuse folders that cannot be written to, are inside each other, or contain images to answer.

    Raises InputError.
    """
    check_can_write(*(folder / SUFFIX for folder in folders.values()))
    for folder in filter(Path.is_dir, map(Path.resolve, folders.values())):
        for text in inputs:
            try:
                path = Path(text).resolve()
                is_input = path.is_relative_to(folder) and path.exists()
                contains_inputs = folder.is_relative_to(path) and path.is_dir() and pictures_below(folder)
            except OSError:
                continue  # a name that the file system cannot have
            if is_input or contains_inputs:
                raise InputError(
                    f"{folder}: contains images to answer, those of {text}; choose another folder",
                    code="drawing.input_folder",
                )
    for inner, outer in itertools.permutations(folders.values(), 2):
        if inner.resolve().is_relative_to(outer.resolve()):
            raise InputError(
                f"{inner}: is inside {outer}; choose separate folders for masks, overlays and cutouts",
                code="drawing.nested_folders",
            )
