"""`train crop`: cuts the objects out of pictures by their masks, into a folder that `train fit` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from train.people.database import MaskDatabase, MaskSettings, StoredPicture, mask_database
from train.people.pictures import Picture, read_pictures
from tritonkit.errors import DataError, InputError
from tritonkit.evaluation.provenance import TABLE_FILE, write_table
from tritonkit.evaluation.samples.sample import IMAGE, LABEL, LABELS
from tritonkit.images.crops import CropSettings, crop_object
from tritonkit.images.preprocess import ImageError, decode_image
from tritonkit.spec import Frozen
from tritonkit.system.console import track_progress

CROPS = "crops"
"""The folder of the crops, next to their table."""
PICTURE = "picture"
"""The column with the picture that a crop was cut out of."""
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
            stored = self.database.pictures([digest]).get(digest)
            if (reason := _not_segmented(stored)) or stored is None:
                return ImageError(reason)
            objects = self.database.masks(digest)
            image = decode_image(data) if objects else None
        except ImageError as error:
            return error
        rows = []
        for number, found in enumerate(objects):
            name = f"{digest[:_DIGEST_LENGTH]}-{number}.png"
            if image is not None:
                crop_object(image, found, self.settings).save(self.folder / name, compress_level=3)
            columns = {column: value for column, value in picture.columns.items() if column != "sha256"}
            rows.append({**columns, IMAGE: f"{CROPS}/{name}", PICTURE: picture.name, "box": found.box})
        return CutPicture(digest, stored.settings, rows)


def crop(options: CropOptions) -> CropResult:
    """Write a PNG for each object of each picture, and their table. The folder appears when it is complete.

    Raises InputError, DataError for copies of a picture with different labels, ExternalError, OSError.
    """
    if options.output.exists():
        raise InputError(
            f"{options.output}: already exists; name a new folder, or delete this one", code="output.exists"
        )
    found = read_pictures(options.pictures)
    database = mask_database(options.database, found.folder)
    parent = options.output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{options.output.name}.", dir=parent) as temporary:
        partial = Path(temporary) / "complete"
        (partial / CROPS).mkdir(parents=True)
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
            self.left_out[str(picture.path)] = str(result)
            return
        first = self.first_copies.setdefault(result.sha256, picture)
        if any(first.columns.get(column) != picture.columns.get(column) for column in (LABEL, LABELS)):
            raise DataError(
                f"{picture.path}: is a copy of {first.path}, but has another label; correct one of them",
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
