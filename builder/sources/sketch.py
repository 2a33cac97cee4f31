"""The drift sketch of a source: that of its training, or a new one from images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builder.sources.base import Source
from tritonkit.errors import DataError
from tritonkit.images.picture_files import PictureSearch, pictures_below
from tritonkit.images.preprocess import ImageError, load_file
from tritonkit.remotes import local_path
from tritonkit.remotes.addresses import public_name
from tritonkit.runtimes.formats import ProgressCallback
from tritonkit.sketch import MAX_IMAGES, MIN_IMAGES, Sketch, SketchSampler, sketch_of_artifact
from tritonkit.tasks import task_of

_BATCH = 32


def sketch_of(source: Source, images: Path | str | None, report: ProgressCallback) -> Sketch | None:
    """The sketch from up to 1000 images of a folder; without one that of the training, or None.

    Raises DataError for a folder with fewer than 30 readable images, ArtifactError for a file that cannot be read.
    """
    if images is not None:
        report("answering the images of the drift sketch")
        return sketch_from_images(source, images)
    is_trained = source.golden is not None and source.spec.gallery is None  # a gallery was not part of the training
    path = sketch_of_artifact(source.path) if is_trained else None
    return None if path is None else Sketch.load(path)


def sketch_from_images(source: Source, location: Path | str) -> Sketch:
    """Answer up to 1000 evenly spaced images of a folder with the source's model. Raises DataError."""
    folder = local_path(location)
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder of images", code="data.no_folder")
    files = pictures_below(folder, PictureSearch())
    chosen = np.linspace(0, len(files) - 1, min(len(files), MAX_IMAGES)).round().astype(int)
    task, sampler, broken = task_of(source.spec), SketchSampler(source.spec), []
    for start in range(0, len(chosen), _BATCH):
        loaded = []
        for number in chosen[start : start + _BATCH]:
            try:
                loaded.append(load_file(files[number], source.spec.preprocess)[0])
            except ImageError as error:
                broken.append(f"\n  {files[number]}: {error}")
        if loaded:
            outputs = source.reference.infer(np.stack(loaded))
            task.check_values(outputs)
            sampler.add(np.stack(loaded), outputs)
    if sampler.seen < MIN_IMAGES:
        raise DataError(
            f"{folder}: a drift sketch needs at least {MIN_IMAGES} readable images, found {sampler.seen}"
            f"{''.join(broken[:10])}",
            code="sketch.too_few_images",
        )
    return sampler.sketch(f"{sampler.seen} pictures of {public_name(str(location))}")
