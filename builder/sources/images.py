"""The images that a verdict is computed on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tritonkit.errors import DataError
from tritonkit.golden import MAX_IMAGES, Golden, pack_geometries
from tritonkit.images.picture_files import PictureSearch, pictures_below
from tritonkit.images.preprocess import ImageError, Preprocess, load_file
from tritonkit.remotes import local_path
from tritonkit.remotes.addresses import public_name

PHOTOS = Path(__file__).parents[1] / "photos"


def golden_from_images(location: Path | str, preprocess: Preprocess) -> Golden:
    """Read up to 32 evenly spaced images of a folder. Raises DataError where fewer than two can be read."""
    images = local_path(location)
    if not images.is_dir():
        raise DataError(f"{images}: not a folder of images", code="data.no_folder")
    search = PictureSearch()
    files = pictures_below(images, search)
    loaded, broken = [], []
    for i in np.linspace(0, len(files) - 1, min(len(files), MAX_IMAGES)).round().astype(int):
        try:
            loaded.append(load_file(files[i], preprocess))
        except ImageError as error:
            broken.append(f"  {files[i]}: {error}")
    if len(loaded) < 2:
        notes = [search.skipped.sentence(), *(f"{path}: {reason}" for path, reason in search.errors.items())]
        lines = "\n".join(["", *(f"  {line}" for line in notes[:10] if line), *broken[:10]])
        raise DataError(
            f"{images}: at least two readable images are needed, found {len(loaded)}{lines}", code="data.too_few_images"
        )
    return Golden(
        np.stack([image for image, _ in loaded]),
        {},
        geometries=pack_geometries(geometry for _, geometry in loaded),
        source=f"{len(loaded)} pictures of {public_name(str(location))}",
    )


def builtin_golden(preprocess: Preprocess) -> Golden:
    """The photographs that are part of the builder, for sources without images."""
    golden = golden_from_images(PHOTOS, preprocess)
    return replace(golden, source=f"{len(golden.images)} built-in photographs")
