"""Loads the images that a benchmark sends; the record names their source."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tritonkit.errors import DataError, InputError
from tritonkit.golden import GOLDEN_FILE, MAX_IMAGES, Golden
from tritonkit.images.picture_files import pictures_below
from tritonkit.images.preprocess import ImageArray, ImageError, Preprocess, load_file


class SampleImages(NamedTuple):
    """Images as uint8 [N, H, W, 3], and a text that names their source."""

    images: ImageArray
    source: str


def load_sample_images(preprocess: Preprocess, folder: Path | None, version_folder: Path) -> SampleImages:
    """Load up to 32 images from `folder`, or the golden sample of a version folder.

    Raises InputError without images, DataError for an unreadable image, ArtifactError for a broken golden sample.
    """
    if folder is not None:
        return _load_folder(folder, preprocess)
    golden = version_folder / GOLDEN_FILE
    if not golden.is_file():
        raise InputError(
            f"{golden}: no such file, so there are no images to send; name the served repository with --repository, "
            "or a folder of images with --images",
            code="benchmark.no_images",
        )
    sample = Golden.load(golden)
    return SampleImages(sample.images, f"{sample.source} ({golden})")


def _load_folder(folder: Path, preprocess: Preprocess) -> SampleImages:
    paths = pictures_below(folder)[:MAX_IMAGES]
    if not paths:
        raise InputError(
            f"--images {folder}: contains no images; expected files such as *.jpg or *.png",
            code="benchmark.empty_folder",
        )
    images = []
    for path in paths:
        try:
            images.append(load_file(path, preprocess)[0])
        except ImageError as error:
            raise DataError(f"{path}: {error}; remove it from --images {folder}", code="image.unreadable") from error
    return SampleImages(np.stack(images), str(folder))
