"""Pictures made from masks: the mask itself, the mask laid over the picture, and the picture cut out.

They are drawn by the threads that decode, one file after the other, so that no mask waits in memory.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from client.infer import Row
from client.outputs.names import digest_of
from client.picture import Picture, as_text
from model.errors import InputError
from model.files import atomic_write, check_can_write
from model.gallery import foreground, overlay, paletted, thumbnail
from model.picture_files import pictures_below
from model.preprocess import ImageError, decode_image, read_picture
from model.tasks import Answer

SUFFIX = ".png"
_COMPRESSION = 1
"""More would make a photograph a tenth smaller and take four times as long."""


@dataclass(frozen=True)
class Subject:
    """An answered picture and its mask, class numbers uint8 [H, W]."""

    source: Picture
    mask: NDArray[np.uint8]

    @cached_property
    def picture(self) -> Image.Image:
        """The upright RGB picture, decoded when first asked for. Raises ImageError."""
        picture = self.source.whole()
        if (picture.height, picture.width) != self.mask.shape:
            raise ImageError("the file was changed while it was being answered")
        return picture


Draw: TypeAlias = Callable[[Subject], Image.Image]


def draw_mask(subject: Subject) -> Image.Image:
    """The class numbers as a picture with a palette."""
    return paletted(subject.mask)


def draw_overlay(subject: Subject) -> Image.Image:
    """The picture with its regions half in their colours."""
    return overlay(subject.picture, subject.mask)


def cutout_on(background: str) -> Draw:
    """Draws what is not class 0 of a picture, before a colour or another picture fitted to its size.

    background: a colour's name, `#rrggbb`, or a file. Raises InputError for anything else.
    """
    behind = _background(background)

    def draw(subject: Subject) -> Image.Image:
        size = subject.picture.size
        scene = Image.new("RGB", size, behind) if isinstance(behind, tuple) else ImageOps.fit(behind, size)
        return Image.composite(subject.picture, scene, foreground(subject.mask))

    return draw


def _background(text: str) -> tuple[int, ...] | Image.Image:
    try:
        if len(colour := ImageColor.getrgb(text)) == 3:
            return colour
        raise InputError(f"--background {text}: a colour that can be seen through; give one as #rrggbb")
    except ValueError:
        pass  # not a colour, so it is a file
    if not Path(text).is_file():
        raise InputError(f"--background {text}: neither a colour, such as white or #00ff00, nor a picture's file")
    try:
        return decode_image(read_picture(Path(text)))
    except ImageError as error:
        raise InputError(f"--background {text}: {error}") from error


@dataclass(frozen=True)
class Drawings:
    """What is drawn of each answered picture, and where it goes."""

    draws: Mapping[str, Draw] = field(default_factory=dict)
    """By the key under which a row tells the file."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """By key; a drawing lies below it where its picture lay below what was searched."""
    shown: Container[str] = frozenset()
    """The names of the pictures that a contact sheet shows."""

    def finish(self, picture: Picture, answer: Answer) -> Row:
        """Draw everything of one answered picture; the row tells the files, and has let go of the mask.

        A picture that can no longer be read becomes a row with an error. Raises OSError when a file cannot be written,
        InputError when it would take the place of a picture.
        """
        try:
            written = {} if answer.mask is None else self._draw(Subject(picture, answer.mask), picture.place)
        except ImageError as error:
            return Row(picture.name, error=str(error))
        small = self._thumbnail(picture, answer) if picture.name in self.shown else None
        return Row(picture.name, replace(answer, fields=answer.fields | written, mask=None), thumbnail=small)

    def _draw(self, subject: Subject, place: PurePath) -> dict[str, str]:
        written = {}
        for key, draw in self.draws.items():
            path = self.folders[key] / place.with_suffix(SUFFIX)
            _check_spares(path, subject.source)
            with atomic_write(path) as beside:
                draw(subject).save(beside, "PNG", compress_level=_COMPRESSION)
            written[key] = as_text(path)
        return written

    def _thumbnail(self, picture: Picture, answer: Answer) -> str | None:
        try:
            if answer.mask is None:
                return thumbnail(picture.whole())
            return thumbnail(draw_overlay(Subject(picture, answer.mask)))
        except ImageError:
            return None


def with_unique_paths(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """The pictures, in places that differ in more than the suffix: all but the first of such get a number."""
    taken = set[bytes]()
    last: dict[bytes, int] = {}
    """The last number of each place that came more than once."""
    for picture in pictures:
        free = place = picture.place.with_suffix(SUFFIX)
        if (key := _of(place)) in taken:
            numbers = itertools.count(last.get(key, 1) + 1)
            numbered = ((number, place.with_stem(f"{place.stem}-{number}")) for number in numbers)
            last[key], free = next((number, other) for number, other in numbered if _of(other) not in taken)
        taken.add(_of(free))
        yield replace(picture, place=free)


def _of(place: PurePath) -> bytes:
    """What stands for a place in a set of a million."""
    return digest_of(str(place))


def _check_spares(path: Path, picture: Picture) -> None:
    """Refuse to draw beside the picture's own file, or over it: globs, lists and CSVs tell only now where it lies."""
    if not os.path.exists(picture.name):  # noqa: PTH110 - false also for what can be no path
        return
    own = Path(picture.name)
    if path.parent.resolve() == own.parent.resolve() or (path.exists() and path.samefile(own)):
        raise InputError(f"{path.parent}: holds pictures to be answered, {own} for one; write to another folder")


def check_folders(folders: Mapping[str, Path], given: Sequence[str]) -> None:
    """Refuse folders for drawings that cannot be written to, lie in one another, or hold what is to be answered.

    Raises InputError.
    """
    for folder in folders.values():
        check_can_write(folder / SUFFIX)
        _check_holds_none(folder.resolve(), given)
    for one, other in itertools.permutations(folders.values(), 2):
        if one.resolve().is_relative_to(other.resolve()):
            raise InputError(f"{one}: lies in {other}; give masks, overlays and cutouts folders of their own")


def _check_holds_none(folder: Path, given: Sequence[str]) -> None:
    if not folder.is_dir():
        return
    for text in given:
        try:
            path = Path(text).resolve()
            within = path.is_relative_to(folder) and path.exists()
            held = folder.is_relative_to(path) and path.is_dir() and pictures_below(folder)
        except OSError:
            continue  # a name that the file system cannot have
        if within or held:
            raise InputError(f"{folder}: holds pictures to be answered, those of {text}; write to another folder")
