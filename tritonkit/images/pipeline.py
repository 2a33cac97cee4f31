"""The steps of a pipeline: decode an image, segment it, cut its objects out, classify them.

A published pipeline has a copy of this file. It imports only numpy, Pillow, scipy, pycocotools and the files next to
it; the two models are functions that the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .crops import CropSettings, MaskedObject, crop_object
from .objects import objects_of, to_rle
from .picture_decoding import decode_picture, open_picture
from .pixel_budget import PixelBudget
from .preprocess import MAX_PIXELS, ImageArray, ImageError, Preprocess, fit_image

Infer: TypeAlias = Callable[[ImageArray], NDArray[Any]]
"""Runs a model on a batch uint8 [n, h, w, 3] and returns its output, [n, ...]."""


class MemberError(Exception):
    """A model of the pipeline answers in another form than when the pipeline was published."""


class Pipeline:
    """Finds the objects in an image and classifies them, in chunks of the classifier's largest batch."""

    def __init__(self, settings: Mapping[str, Any], segment: Infer, classify: Infer, pixels: str = "") -> None:
        """Create a pipeline.

        settings: the content of `pipeline.json`. segment: returns masks, uint8 [n, h, w]. classify: returns
        probabilities, float32 [n, C]. pixels: of the largest image that is read; empty for the default.
        """
        self._segmenter, self._classifier = (
            Preprocess(**_with_tuple(settings[name]["preprocess"])) for name in ("segmenter", "classifier")
        )
        self._crop = CropSettings(**_with_tuple(settings["crop"]))
        self._class_number: int = settings["class_number"]
        self._labels: list[str] = settings["labels"]
        self._chunk: int = settings["classifier"]["max_batch"]
        self._segment, self._classify = segment, classify
        # Returns the memory of a large image to the system.
        self._budget = PixelBudget(min(MAX_PIXELS, int(pixels)) if pixels else MAX_PIXELS)

    def answer(self, data: bytes) -> dict[str, NDArray[Any]]:
        """Return the outputs for an encoded image; of no objects, empty ones.

        `boxes` int32 [N, 4], `masks` and `labels` text [N], `probabilities` float32 [N, C], `size` int32 [2].
        Raises ImageError for a broken or too large image, MemberError, and what the two models raise.
        """
        file, image = open_picture(data, self._budget.pixels)
        with self._budget(image.width * image.height), closing(image):
            return self._answer(decode_picture(file, image))

    def _answer(self, image: Image.Image) -> dict[str, NDArray[Any]]:
        # Crops need the whole image, so it is decoded at its full size for the segmenter too.
        pixels, geometry = fit_image(image, self._segmenter)
        mask = self._segment(pixels[None])
        _check_shape("the segmenter", mask, (1, *pixels.shape[:2]))
        found = objects_of(mask[0], geometry, self._class_number, self._crop.min_share)
        probabilities = np.concatenate(
            [np.empty((0, len(self._labels)), np.float32), *self._probabilities(image, found)]
        )
        return {
            "boxes": np.array([entry.box for entry in found], np.int32).reshape(-1, 4),
            "masks": np.array([to_rle(entry, image.size) for entry in found], np.object_),
            "labels": np.array([self._labels[number] for number in probabilities.argmax(axis=1)], np.object_),
            "probabilities": probabilities,
            "size": np.array(image.size, np.int32),
        }

    def _probabilities(self, image: Image.Image, found: Sequence[MaskedObject]) -> Iterator[NDArray[Any]]:
        for start in range(0, len(found), self._chunk):
            crops = (crop_object(image, entry, self._crop) for entry in found[start : start + self._chunk])
            batch = np.stack([fit_image(crop, self._classifier)[0] for crop in crops])
            values = self._classify(batch)
            _check_shape("the classifier", values, (len(batch), len(self._labels)))
            yield values

    @staticmethod
    def is_refusal(error: Exception) -> bool:
        """Whether the image is at fault, not the server."""
        return isinstance(error, ImageError)


def _check_shape(member: str, output: NDArray[Any], expected: tuple[int, ...]) -> None:
    if output.shape != expected:
        raise MemberError(
            f"{member} returned {list(output.shape)}, expected {list(expected)}: it was changed since the pipeline "
            "was published; run `builder pipeline` again"
        )


def _with_tuple(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of settings; JSON has no tuples."""
    return {**fields, "fill": tuple(fields["fill"])}
