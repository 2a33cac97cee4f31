"""Images of two parts that have the same content in other bytes, such as a copy in another size or format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from tritonkit.evaluation.samples.sample import Sample, summarized

_SIDE = 16
"""Side of a thumbnail in pixels."""
_NEIGHBOURS = 4
_COARSE_DIFFERENCE, _MEAN_DIFFERENCE, _LARGEST_DIFFERENCE = 6, 3, 24
"""Differences of copies, in grey levels: the largest of 4x4 blocks, and mean and largest of the thumbnail's pixels.

They were chosen on samples of 200 digits and 200 images of Fashion-MNIST, with copies as JPEG of quality 50 to 90, as
WebP, and in 0.75 to 2 times the size, so that nearly all copies and nearly no other images are reported.
"""
_FLAT = 8
"""Standard deviation of a thumbnail below which it shows nothing: all dark images look the same."""


class Thumbnails:
    """Small grey copies of images, to compare what they show."""

    def __init__(self) -> None:
        self._thumbnails: dict[Path, NDArray[np.uint8]] = {}

    def add(self, path: Path, image: Image.Image) -> None:
        """Keep a thumbnail of a decoded image."""
        small = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
        self._thumbnails[path] = np.asarray(small.convert("L"))

    def warnings(self, parts: Mapping[str, Sequence[Sample]]) -> list[str]:
        """Return a warning that lists images of two parts; `base` is not compared."""
        pairs = [
            f"{path} in {second} shows {other} in {first}"
            for first, second in combinations([part for part in parts if part != "base"], 2)
            for path, other in self._copies(_paths(parts[first]), _paths(parts[second]))
        ]
        hint = "metrics on images that training has seen are too good; keep the copies of an image in one part"
        return summarized("images with the content of an image of another part", pairs, hint)

    def _copies(self, paths: Sequence[Path], candidates: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
        """Return each candidate that shows one of the images, with that image."""
        known, others = (
            [(path, self._thumbnails[path]) for path in each if path in self._thumbnails]
            for each in (paths, candidates)
        )
        known = [(path, thumbnail) for path, thumbnail in known if thumbnail.std() >= _FLAT]
        if not known or not others:
            return
        tree = cKDTree([_coarse(thumbnail) for _, thumbnail in known])
        _, nearest = tree.query(
            [_coarse(thumbnail) for _, thumbnail in others],
            k=range(1, _NEIGHBOURS + 1),
            p=np.inf,
            distance_upper_bound=_COARSE_DIFFERENCE,
        )
        for (path, thumbnail), indices in zip(others, nearest, strict=True):
            for index in indices[indices < len(known)]:
                difference = np.abs(thumbnail.astype(int) - known[index][1])
                if difference.mean() <= _MEAN_DIFFERENCE and difference.max() <= _LARGEST_DIFFERENCE:
                    yield path, known[index][0]
                    break


def _paths(samples: Sequence[Sample]) -> list[Path]:
    return [sample.path for sample in samples]


def _coarse(thumbnail: NDArray[np.uint8]) -> Any:
    """Return the means of 4x4 blocks."""
    return thumbnail.reshape(4, _SIDE // 4, 4, _SIDE // 4).mean(axis=(1, 3)).ravel()
