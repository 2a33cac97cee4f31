"""`train crop`: cuts the objects out of pictures by their masks, into a folder that `train fit` reads."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from train.people.database import MaskDatabase, MaskSettings, StoredPicture, mask_database
from train.people.pictures import Picture, read_pictures
from tritonkit.errors import DataError, InputError
from tritonkit.evaluation.provenance import TABLE_FILE, write_table
from tritonkit.evaluation.samples.sample import IMAGE, LABEL, LABELS, MASK
from tritonkit.images.crops import CropSettings, crop_object
from tritonkit.images.preprocess import ImageError, decode_image
from tritonkit.spec import Frozen
from tritonkit.system.console import track_progress

CROPS = "crops"
"""The folder of the crops, next to their table."""
PICTURE, BOX = "picture", "box"
"""The columns with the picture that a crop was cut out of, and where."""
_ONLY_OF_PICTURES = {"sha256", MASK}
"""Columns that are not true of a crop."""
_DIGEST_LENGTH = 16
_THREADS = 4


@dataclass(frozen=True)
class CropOptions:
    """The options of `train crop`. The least share of a region comes from the database."""

    pictures: str
    database: str | None
    output: Path
    settings: CropSettings


class CropResult(Frozen):
    """The result of `train crop`."""

    table: Path
    crops: int
    pictures: int
    """Pictures that were read, without copies."""
    without_objects: int
    left_out: dict[str, str]
    """The reason for each picture that was not cut."""


@dataclass(frozen=True)
class CutPicture:
    """A picture whose crops were written."""

    sha256: str
    settings: MaskSettings
    """What its masks were made with."""
    rows: list[dict[str, Any]]
    """A row for each crop."""


@dataclass(frozen=True)
class _Cropper:
    folder: Path
    """Of the crops."""
    database: MaskDatabase
    settings: CropSettings

    def cut(self, picture: Picture) -> CutPicture | ImageError:
        """Write the crops of a picture; return their rows, or why there are none."""
        try:
            data, digest = picture.read()
            stored, objects = self.database.read(digest)
            if (reason := _not_segmented(stored)) or stored is None:
                return ImageError(reason)
            image = decode_image(data) if objects else None
        except ImageError as error:
            return error
        rows = []
        for number, found in enumerate(objects):
            name = f"{digest[:_DIGEST_LENGTH]}-{number}.png"
            if image is not None:
                crop_object(image, found, self.settings).save(self.folder / name, compress_level=3)
            rows.append({**_columns(picture), IMAGE: f"{CROPS}/{name}", PICTURE: picture.name, BOX: found.box})
        return CutPicture(digest, stored.settings, rows)


def crop(options: CropOptions) -> CropResult:
    """Write a PNG for each object of each picture, and their table. The folder appears when it is complete.

    Raises InputError, DataError for copies of a picture with different labels, ExternalError, OSError.
    """
    _check_is_new(options.output)
    found = read_pictures(options.pictures)
    if found.is_searched and found.folder and options.output.resolve().is_relative_to(found.folder.resolve()):
        raise InputError(
            f"--output {options.output}: lies in {options.pictures}, so the crops would become its pictures; name a "
            "folder outside of it",
            code="people.output_in_pictures",
        )
    database = mask_database(options.database, found.folder, create=False)
    with _partial_folder(options.output) as partial:
        cut = _Cut()
        cropper = _Cropper(partial / CROPS, database, options.settings)
        for picture, result in track_progress(_crop_all(cropper, found.pictures), "cutting", len(found.pictures)):
            cut.add(picture, result)
        if not cut.rows:
            raise InputError(
                f"{options.pictures}: has no objects to cut out ({len(cut.left_out)} pictures were left out"
                f"{''.join(f', such as {path}: {reason}' for path, reason in list(cut.left_out.items())[:1])}); run "
                "`train segment` on the same pictures and database",
                code="people.nothing_to_crop",
            )
        settings = replace(options.settings, min_share=cut.mask_settings().min_share)
        provenance = found.provenance.model_copy(update={"crop": settings, "keep_together": PICTURE})
        write_table(partial / TABLE_FILE, provenance, cut.rows)
        partial.rename(options.output)
    return CropResult(
        table=options.output / TABLE_FILE,
        crops=len(cut.rows),
        pictures=len(cut.first_copies),
        without_objects=cut.without_objects,
        left_out=dict(sorted(cut.left_out.items())),
    )


def _check_is_new(output: Path) -> None:
    if output.exists():
        raise InputError(f"{output}: already exists; name a new folder, or delete this one", code="output.exists")


@contextmanager
def _partial_folder(output: Path) -> Iterator[Path]:
    """Yield a folder with an empty folder of crops, to be renamed to the output.

    What a killed command left there is deleted. Raises InputError if another command is at work on this output.
    """
    folder = output.absolute().with_name(f".{output.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it when this process ends
        except BlockingIOError as error:
            raise InputError(
                f"{output}: another `train crop` is writing it; wait for it, or name another folder",
                code="people.output_in_use",
            ) from error
        _check_is_new(output)  # one that has just finished
        partial = folder / "complete"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / CROPS).mkdir(parents=True)
        try:
            yield partial
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)


@dataclass
class _Cut:
    """What was cut so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    first_copies: dict[str, Picture] = field(default_factory=dict)
    """The first picture of each content."""
    made_with: dict[MaskSettings, str] = field(default_factory=dict)
    """A picture whose masks were made so, for each way."""
    left_out: dict[str, str] = field(default_factory=dict)
    without_objects: int = 0

    def add(self, picture: Picture, result: CutPicture | ImageError) -> None:
        """Add the crops of a picture, unless a copy of it was there. Raises DataError for a copy with another label."""
        if isinstance(result, ImageError):
            self.left_out[picture.shown] = str(result)
            return
        first = self.first_copies.setdefault(result.sha256, picture)
        if _truth(first) != _truth(picture):
            raise DataError(
                f"{picture.shown}: is a copy of {first.shown}, but has another label; correct one of them",
                code="people.contradicting_labels",
            )
        if first is picture:
            self.made_with.setdefault(result.settings, picture.name)
            self.without_objects += not result.rows
            self.rows += result.rows

    def mask_settings(self) -> MaskSettings:
        """Return the settings that all masks were made with. Raises InputError if they differ."""
        if len(self.made_with) > 1:
            listing = "; ".join(
                f"{settings.model}, {settings.label}, --min-share {settings.min_share:g} (such as {name})"
                for settings, name in list(self.made_with.items())[:3]
            )
            raise InputError(
                f"the masks of these pictures were made in different ways: {listing}; run `train segment` again with "
                "one model on all of them",
                code="people.mixed_masks",
            )
        return next(iter(self.made_with))


def _columns(picture: Picture) -> dict[str, Any]:
    """Return the columns of a picture that its crops have too; those named like ours get a prefix."""
    columns = {column: value for column, value in picture.columns.items() if column not in _ONLY_OF_PICTURES}
    return {f"meta.{column}" if column in (PICTURE, BOX) else column: value for column, value in columns.items()}


def _truth(picture: Picture) -> tuple[Any, Any]:
    """Return what the copies of a picture must have in common; the order of labels says nothing."""
    labels = picture.columns.get(LABELS)
    return picture.columns.get(LABEL), frozenset(map(str, labels)) if isinstance(labels, list) else labels


def _crop_all(cropper: _Cropper, pictures: Sequence[Picture]) -> Iterator[tuple[Picture, CutPicture | ImageError]]:
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            yield from zip(pictures, pool.map(cropper.cut, pictures), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _not_segmented(stored: StoredPicture | None) -> str:
    """Say why a picture has no masks; empty if it has been segmented."""
    if stored is None:
        return "has not been segmented; run `train segment`"
    return "" if stored.is_done else f"could not be segmented: {stored.error}"
