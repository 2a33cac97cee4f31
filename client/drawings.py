"""Pictures made from masks: the mask itself, the mask laid over the picture, and the picture cut out.

They are drawn by the threads that decode, one file after the other, so that no mask waits in memory.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from client.infer import Row, as_text
from model.errors import InputError
from model.files import check_can_write, written_beside
from model.gallery import foreground, overlay, paletted, thumbnail
from model.preprocess import ImageError, decode_image, read_picture

SUFFIX = ".png"
_COMPRESSION = 1
"""More would make a photograph a tenth smaller and take four times as long."""


@dataclass(frozen=True)
class Subject:
    """An answered picture and its mask, class numbers uint8 [H, W]."""

    path: Path
    mask: NDArray[np.uint8]

    @cached_property
    def picture(self) -> Image.Image:
        """The upright RGB picture, decoded when first asked for. Raises ImageError."""
        picture = decode_image(read_picture(self.path))
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

    draws: Mapping[str, Draw]
    """By the key under which a row tells the file."""
    files: Mapping[str, Mapping[Path, Path]]
    """By key, the file for each picture."""
    shown: frozenset[Path] = field(default=frozenset())
    """The pictures that a contact sheet shows."""

    def finish(self, row: Row) -> Row:
        """Draw everything of one answered picture; the row then tells the files, and has let go of its mask.

        A picture that can no longer be read becomes a row with an error. Raises OSError when a file cannot be written.
        """
        if row.answer is None:
            return row
        try:
            written = {} if row.answer.mask is None else self._draw(Subject(row.path, row.answer.mask))
        except ImageError as error:
            return Row(row.path, error=str(error))
        small = self._thumbnail(row) if row.path in self.shown else None
        return replace(row, answer=replace(row.answer, told=row.answer.told | written, mask=None), thumbnail=small)

    def _draw(self, subject: Subject) -> dict[str, str]:
        written = {}
        for key, draw in self.draws.items():
            path = self.files[key][subject.path]
            with written_beside(path) as beside:
                draw(subject).save(beside, "PNG", compress_level=_COMPRESSION)
            written[key] = as_text(path)
        return written

    def _thumbnail(self, row: Row) -> str | None:
        try:
            if row.answer is None or row.answer.mask is None:
                return thumbnail(decode_image(read_picture(row.path)))
            return thumbnail(draw_overlay(Subject(row.path, row.answer.mask)))
        except ImageError:
            return None


def plan_files(
    folders: Mapping[str, Path], pictures: Sequence[Path], places: Sequence[Path]
) -> dict[str, dict[Path, Path]]:
    """By key, for each picture the file that is drawn of it: where it lies among the pictures, below the key's folder.

    Of pictures whose names differ in the suffix alone, all but the first get a number. Raises InputError when a folder
    cannot be written to or holds pictures to be answered, or when two drawings would be one file.
    """
    names = _each_once([place.with_suffix(SUFFIX) for place in places])
    for folder in folders.values():
        check_can_write(folder / SUFFIX)
        _check_holds_none(folder, pictures)
    counts = Counter(folder.absolute() / name for folder in folders.values() for name in names)
    if twice := next((path for path, count in counts.items() if count > 1), None):
        raise InputError(f"{twice}: would be written twice; give masks, overlays and cutouts folders of their own")
    return {
        key: {path: folder / name for path, name in zip(pictures, names, strict=True)}
        for key, folder in folders.items()
    }


def _check_holds_none(folder: Path, pictures: Sequence[Path]) -> None:
    within = folder.resolve()
    if inside := next((path for path in pictures if path.resolve().is_relative_to(within)), None):
        raise InputError(f"{folder}: holds pictures to be answered, such as {inside}; write to another folder")


def _each_once(names: Sequence[Path]) -> list[Path]:
    """The names, those that came before with a number that makes them new."""
    plain, taken, unique = set(names), set[Path](), list[Path]()
    for name in names:
        numbered = (name.with_stem(f"{name.stem}-{number}") for number in itertools.count(2))
        free = (other for other in numbered if other not in taken and other not in plain)
        unique.append(name if name not in taken else next(free))
        taken.add(unique[-1])
    return unique
