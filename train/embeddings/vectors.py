"""Computes the vectors of images: the embedding of an embedding model, else the features of the network."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from train.embeddings.pictures import EmbeddingInput, joined
from tritonkit.errors import AnswerError, DataError, Problem
from tritonkit.evaluation.evaluate import BATCH_SIZE
from tritonkit.images.preprocess import Geometry, ImageArray, ImageError, Preprocess, load_file
from tritonkit.networks.features import FeatureExtractor
from tritonkit.networks.network import Network
from tritonkit.system.console import track_progress
from tritonkit.tasks import task_of
from tritonkit.tasks.base import Answer

LEAST_IMAGES = 3
"""With two images, one component explains everything."""
_NO_LENGTH = 1e-12


@dataclass(frozen=True)
class ImageVectors:
    """The vectors of N images, with what the model answers and how the images look to it."""

    pictures: Sequence[EmbeddingInput]
    vectors: NDArray[np.float32]
    """[N, D], unit length."""
    answers: Sequence[str]
    """The labels that the model answers; empty for a model without labels."""
    thumbnails: Sequence[ImageArray]
    """The images after preprocessing, uint8 [h, w, 3], made smaller; all of one size."""
    unreadable: Sequence[Problem]
    """The images that cannot be read; they have no vector."""
    kind: str
    """`embedding`, or `features` of a network without one."""


def embed(network: Network, pictures: Sequence[EmbeddingInput], thumbnail_side: int) -> ImageVectors:
    """Compute the vectors of all images that can be read.

    thumbnail_side: the longest side of a thumbnail. Raises DataError if fewer than three images can be read, SpecError
    if the features of the network are not known, and AnswerError for values like NaN.
    """
    spec = network.spec
    task = task_of(spec)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extract = FeatureExtractor(network.to(device))
    size = _thumbnail_size(spec.preprocess, thumbnail_side)
    names = [output.name for output in spec.outputs]
    readable, vectors, answers, thumbnails, unreadable = [], [], list[str](), list[ImageArray](), list[Problem]()
    is_embedding = False
    for batch, images, geometries, problems in _batches(pictures, spec.preprocess):
        unreadable += problems
        if not batch:
            continue
        features, answered = extract(torch.from_numpy(images).to(device))
        outputs = {name: values.cpu().numpy() for name, values in zip(names, answered, strict=True)}
        task.check_values(outputs)
        each = [
            Answer({})  # a mask has no label, and would be enlarged to the size of its image
            if task.dense
            else task.answer({name: array[i] for name, array in outputs.items()}, geometry, top=1)
            for i, geometry in enumerate(geometries)
        ]
        own = [answer.embedding for answer in each if answer.embedding is not None]
        is_embedding = len(own) == len(each)
        vectors.append(np.stack(own) if is_embedding else features.cpu().numpy())
        classes = [_classes_of(answer.fields, spec.auxiliary_heads) for answer in each]
        answers += ["" if found is None else joined(found) for found in classes]
        thumbnails += [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in images]
        readable += batch
    if len(readable) < LEAST_IMAGES:
        listing = "".join(f"\n  {problem}" for problem in unreadable)
        raise DataError(
            f"{len(readable)} of {len(pictures)} images can be read, expected at least {LEAST_IMAGES}{listing}",
            code="data.too_few_images",
            problems=unreadable,
        )
    return ImageVectors(
        readable,
        _unit_length(np.concatenate(vectors), spec.architecture.name),
        answers,
        thumbnails,
        unreadable,
        "embedding" if is_embedding else "features",
    )


def _batches(
    pictures: Sequence[EmbeddingInput], preprocess: Preprocess
) -> Iterator[tuple[list[EmbeddingInput], ImageArray, list[Geometry], list[Problem]]]:
    """Load and preprocess the images a batch at a time, with the problems of those that cannot be read."""

    def load(picture: EmbeddingInput) -> tuple[ImageArray, Geometry] | Problem:
        try:
            return load_file(picture.path, preprocess)
        except ImageError as error:
            return Problem("data.image_unreadable", f"{picture.path}: {error}")

    starts = range(0, len(pictures), BATCH_SIZE)
    with ThreadPoolExecutor() as pool:
        for start in track_progress(starts, "embedding images", len(starts)):
            batch = pictures[start : start + BATCH_SIZE]
            loaded = list(pool.map(load, batch))
            read = [(picture, *each) for picture, each in zip(batch, loaded, strict=True) if isinstance(each, tuple)]
            images = np.stack([image for _, image, _ in read]) if read else np.empty(0, np.uint8)
            problems = [each for each in loaded if isinstance(each, Problem)]
            yield [picture for picture, *_ in read], images, [geometry for *_, geometry in read], problems


def _thumbnail_size(preprocess: Preprocess, side: int) -> tuple[int, int]:
    """Return width and height of thumbnails, whose longest side is at most `side`; small images are not enlarged."""
    scale = min(1.0, side / max(preprocess.width, preprocess.height))
    return max(1, int(preprocess.width * scale)), max(1, int(preprocess.height * scale))


def _classes_of(fields: Mapping[str, Any], left_out: Container[str] = ()) -> list[str] | None:
    """Return the classes in the fields of an answer, as `EvaluationTask.classes` writes a truth; None for no labels.

    left_out: heads whose truth is not in the data.
    """
    if "label" in fields:
        return [str(fields["label"])]
    if "labels" in fields:
        return list(fields["labels"])
    heads = {name: _classes_of(value) for name, value in fields.items() if isinstance(value, dict)}
    main = {name: each for name, each in heads.items() if each is not None and name not in left_out}
    return [f"{name}={label}" for name, each in main.items() for label in each] if main else None


def _unit_length(vectors: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    if not np.isfinite(vectors).all():
        raise AnswerError(f"{name}: its features are not finite; the model's weights are damaged")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (vectors / np.maximum(lengths, _NO_LENGTH)).astype(np.float32)
    return scaled


def thumbnail_sheet(thumbnails: Sequence[ImageArray]) -> tuple[Image.Image, int]:
    """Put thumbnails of one size into a square grid, row by row; return it with the number of columns."""
    height, width, _ = thumbnails[0].shape
    columns = grid_side(len(thumbnails))
    sheet = Image.new("RGB", (columns * width, columns * height))
    for number, thumbnail in enumerate(thumbnails):
        sheet.paste(Image.fromarray(thumbnail), (number % columns * width, number // columns * height))
    return sheet, columns


def grid_side(count: int) -> int:
    """Return the columns, and rows, of the smallest square grid for a number of images."""
    return int(np.ceil(np.sqrt(count)))


def folder_of(pictures: Sequence[EmbeddingInput]) -> Path:
    """Return the deepest folder that holds all images, to shorten their names on a page."""
    parents = [picture.path.absolute().parents for picture in pictures]
    return next(folder for folder in parents[0] if all(folder in each for each in parents))
