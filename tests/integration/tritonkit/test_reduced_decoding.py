"""Reduced decoding of large JPEGs: when it is used, and that the result stays within its tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pictures import encoded, turned
from tritonkit.images.preprocess import ImageArray, Preprocess, decode_image, fit_image, load_image

MOST_LEVELS = 2


@pytest.fixture(scope="module")
def large(photos: Path) -> Image.Image:
    """A photograph of 1152 x 768 pixels, with grain, as from a camera."""
    cat = Image.open(photos / "cat.jpg").convert("RGB").resize((1152, 768), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0, 6, (768, 1152, 1))
    return Image.fromarray((np.asarray(cat) + grain).clip(0, 255).astype(np.uint8))


def max_difference(first: ImageArray, second: ImageArray) -> int:
    return int(np.abs(first.astype(int) - second).max())


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("side", [12, 48])
def test_levels_stay_as_good_as_equal_when_a_jpeg_is_decoded_smaller(
    large: Image.Image, side: int, fit: Any, interpolation: Any, options: dict[str, Any]
) -> None:
    data = encoded(large, "JPEG", quality=90, **options)
    preprocess = Preprocess(side, side, fit=fit, interpolation=interpolation)
    levels, geometry = load_image(data, preprocess)
    expected, expected_geometry = fit_image(decode_image(data), preprocess)
    assert max_difference(levels, expected) <= MOST_LEVELS
    assert geometry == expected_geometry
    assert geometry.source_size == (1152, 768)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_stands_upright_when_a_turned_jpeg_is_decoded_smaller(large: Image.Image, orientation: int) -> None:
    data = encoded(large, "JPEG", quality=90, exif=turned(orientation))
    preprocess = Preprocess(height=48, width=24)
    levels, geometry = load_image(data, preprocess)
    expected, expected_geometry = fit_image(decode_image(data), preprocess)
    assert max_difference(levels, expected) <= MOST_LEVELS
    assert geometry == expected_geometry
    assert geometry.source_size == ((768, 1152) if orientation >= 5 else (1152, 768))


def test_grey_jpeg_is_decoded_smaller_too(large: Image.Image) -> None:
    data = encoded(large.convert("L"), "JPEG", quality=90)
    levels, _ = load_image(data, Preprocess(24, 24))
    assert 0 < max_difference(levels, fit_image(decode_image(data), Preprocess(24, 24))[0]) <= MOST_LEVELS


@pytest.mark.parametrize(
    ("kind", "crop", "preprocess"),
    [
        ("JPEG", (1152, 768), Preprocess(64, 64)),  # less than 14 times smaller
        ("JPEG", (1151, 767), Preprocess(24, 24)),  # sides that cannot be halved
        ("JPEG", (1152, 768), Preprocess(24, 24, interpolation="nearest")),
        ("PNG", (1152, 768), Preprocess(24, 24)),
        ("WEBP", (1152, 768), Preprocess(24, 24)),
    ],
    ids=["not-small", "odd", "nearest", "png", "webp"],
)
def test_every_pixel_is_decoded_when_a_reduction_could_be_seen(
    large: Image.Image, kind: str, crop: tuple[int, int], preprocess: Preprocess
) -> None:
    data = encoded(large.crop((0, 0, *crop)), kind)
    assert np.array_equal(load_image(data, preprocess)[0], fit_image(decode_image(data), preprocess)[0])


def test_whole_picture_has_its_own_size_when_the_input_is_small(large: Image.Image) -> None:
    assert decode_image(encoded(large, "JPEG")).size == (1152, 768)
