"""The pictures that are sent: real ones, and the record says which."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.errors import DataError, InputError
from model.golden import GOLDEN_FILE, MAX_IMAGES, Golden
from model.picture_files import pictures_below
from model.preprocess import ImageArray, ImageError, Preprocess, load_file


class Pictures(NamedTuple):
    """uint8 [N, H, W, 3], and where they come from, in words."""

    images: ImageArray
    source: str


def pictures_for(how: Preprocess, folder: Path | None, published: Path) -> Pictures:
    """Up to 32 pictures from `folder` if given, else the golden sample in the `published` version's folder.

    Raises InputError when there are neither, DataError for a picture that cannot be read, ArtifactError for a
    broken golden sample.
    """
    if folder is not None:
        return _from_folder(folder, how)
    golden = published / GOLDEN_FILE
    if not golden.is_file():
        raise InputError(
            f"{golden}: no such file, so there are no pictures to send; give --repository the folder that is "
            "served, or --images a folder of pictures"
        )
    sample = Golden.load(golden)
    return Pictures(sample.images, f"{sample.source} ({golden})")


def _from_folder(folder: Path, how: Preprocess) -> Pictures:
    paths = pictures_below(folder)[:MAX_IMAGES]
    if not paths:
        raise InputError(f"--images {folder}: no pictures in it; expected files like *.jpg or *.png")
    images = []
    for path in paths:
        try:
            images.append(load_file(path, how)[0])
        except ImageError as error:
            raise DataError(f"{path}: {error}; take it out of --images {folder}") from error
    return Pictures(np.stack(images), str(folder))
